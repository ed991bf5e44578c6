//! Every seed, every input that once broke something, and some thousand inputs made of them, through each target: a part of
//! the ordinary tests, on any compiler.

use std::fs;
use std::path::{Path, PathBuf};

/// Inputs made of the seeds of a target; the same ones in each run.
const MUTATIONS: usize = 1_000;
/// Octets of such an input at most.
const LENGTH_MAX: usize = 4_096;

/// Runs a target over its files in `fuzz/corpus` and `fuzz/regressions`, and over mutations of them.
pub(super) fn replay(name: &str, target: fn(&[u8])) {
    let seeds = [inputs("corpus", name), inputs("regressions", name)].concat();
    assert!(!seeds.is_empty(), "fuzz/corpus/{name} has no seed");
    for (path, octets) in &seeds {
        attempt(target, octets, &path.display().to_string());
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for n in 0..MUTATIONS {
        let mut octets = random.pick(&seeds).1.clone();
        for _ in 0..=random.below(4) {
            random.mutate(&mut octets, &seeds);
        }
        octets.truncate(LENGTH_MAX);
        attempt(target, &octets, &format!("mutation {n}"));
    }
}

/// Says which input it was; the panic itself has said what.
fn attempt(target: fn(&[u8]), octets: &[u8], origin: &str) {
    if let Err(panic) = std::panic::catch_unwind(|| target(octets)) {
        eprintln!("input: {origin}: \"{}\"", octets.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

/// The files of a target, in the order of their names.
fn inputs(kind: &str, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn pick<'s, T>(&mut self, list: &'s [T]) -> &'s T {
        &list[self.below(list.len())]
    }

    fn mutate(&mut self, octets: &mut Vec<u8>, seeds: &[(PathBuf, Vec<u8>)]) {
        let at = self.below(octets.len() + 1);
        let end = (at + 1 + self.below(16)).min(octets.len());
        match self.below(6) {
            0 if at < octets.len() => octets[at] ^= 1 << self.below(8),
            1 if at < octets.len() => drop(octets.drain(at..end)),
            2 => {
                let again = octets[at.min(end)..end].to_vec();
                octets.splice(at..at, again);
            }
            3 => {
                let other = &self.pick(seeds).1;
                let from = self.below(other.len() + 1);
                octets.splice(at..end.max(at), other[from..].iter().copied().take(64));
            }
            4 => octets.insert(at, *self.pick(b"\r\n\0 \t:;@<>\"(),=.\\\xff\x80%-")),
            _ => octets.insert(at, self.below(256) as u8),
        }
    }
}

#[test]
fn every_target_has_a_program_a_seed_and_a_place_in_the_manifest() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let mut expected: Vec<String> = super::NAMES.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    assert_eq!(names("fuzz_targets"), expected);
    assert_eq!(names("corpus"), expected);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in expected {
        let program = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("deskmilter::fuzzing::{name}(octets)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
