//! Folders with running numbers, `000001` and on: each is there whole or not at all, and two programs may add at the same time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::tickets::make_directory;

/// Folders that are not complete yet begin with this.
const UNFINISHED: &str = ".incoming-";

/// Adds a folder with these files under the next number.
///
/// # Errors
/// What the file system said; then there is no new folder.
pub(super) fn add(directory: &Path, files: &[(&str, &[u8])]) -> io::Result<u64> {
    make_directory(directory, 0o700)?;
    let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(directory)?;
    for (name, content) in files {
        let mut file = File::create_new(folder.path().join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    let mut number = entries(directory)?.last().map_or(0, |(number, _)| *number);
    loop {
        number = number.saturating_add(1);
        // A folder that holds something is never replaced (rename(2)): its number is taken, and the next one is tried.
        match fs::rename(folder.path(), place(directory, number)) {
            Ok(()) => break,
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(error),
        }
    }
    // The folder has its name: from here on it is not ours to remove.
    let _ = folder.keep();
    File::open(directory)?.sync_all()?;
    Ok(number)
}

/// The folders, by number. None where there is no directory yet.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The folder with this number.
pub(super) fn place(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:06}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_at_the_same_time_get_different_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("sent");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    for _ in 0..8 {
                        add(folder, &[("file", format!("{writer}").as_bytes())]).unwrap();
                    }
                });
            }
        });
        let found = entries(&folder).unwrap();
        let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=32).collect::<Vec<_>>());
        assert!(found.iter().all(|(_, path)| path.join("file").is_file()));
    }
}
