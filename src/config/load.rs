//! Reading a configuration file, from its text to a checked [`Config`].

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use toml::de::DeTable;

use super::problem::Report;
use super::{Config, KnownKeys, Problems, check, keys, raw};

/// Octets of a configuration file at most; 10,000 connectors fit many times.
const FILE_MAX: u64 = 64 << 20;

impl Config {
    /// Reads and checks a configuration file, the files that it names included.
    ///
    /// # Errors
    /// All problems found, each with file, line, key and remedy.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        Self::load_again(file, KnownKeys::new())
    }

    /// As [`Self::load`], but does not read the files of `known` again: to check thousands of keys takes longer than all the rest.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_again(file: &Path, known: KnownKeys) -> Result<Self, Problems> {
        match read(file) {
            Ok(text) => Self::parse_with(&text, file, known),
            Err(error) => {
                let mut report = Report::new(file, "");
                report.note(0..0, "", format!("{error}; {}", remedy(&error)));
                report.finish(None)
            }
        }
    }

    /// Checks the text of a configuration file; relative paths are relative to the folder of `file`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        Self::parse_with(text, file, KnownKeys::new())
    }

    fn parse_with(text: &str, file: &Path, known: KnownKeys) -> Result<Self, Problems> {
        let mut report = Report::new(file, text);
        let nothing = DeTable::default();
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                note_error(&mut report, &error, String::new());
                return report.finish(None);
            }
        };
        let mut unknown = Vec::new();
        let raw =
            raw::Raw::deserialize(serde_ignored::Deserializer::new(toml::Deserializer::from(document), &mut |path| {
                unknown.push(keys::steps(&path))
            }));
        // Only who has a problem wants to know where it stands: reading the text again then is cheaper than a copy of the
        // document each time, with thousands of connectors in it.
        let document = (!unknown.is_empty() || raw.is_err()).then(|| DeTable::parse(text).ok()).flatten();
        let document = document.as_ref().map_or(&nothing, |document| document.get_ref());
        for steps in unknown {
            let key = keys::describe(&steps, document);
            let remedy = match key.suggestion {
                Some(name) => format!("did you mean {name:?}?"),
                None => format!("known here: {}", key.known.join(", ")),
            };
            report.note(key.span, key.key, format!("unknown key; {remedy}"));
        }
        let config = match raw {
            Ok(raw) => {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
                check::check(raw, file.parent().unwrap_or(Path::new("/")), known, &mut report)
            }
            Err(error) => {
                let key = error.span().map(|span| keys::key_at(span.start, document)).unwrap_or_default();
                note_error(&mut report, &error, key);
                None
            }
        };
        report.finish(config)
    }
}

/// What to do about a file that cannot be read.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run this as root, or as the user that deskmilter runs as",
        ErrorKind::InvalidData => "write it in UTF-8",
        _ => "name the configuration file with -c",
    }
}

/// The whole text. What is no file could keep us waiting for ever, a reload with it.
fn read(file: &Path) -> std::io::Result<String> {
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut open = File::options().read(true).custom_flags(nonblocking).open(file)?;
    let facts = open.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    if facts.len() > FILE_MAX {
        return Err(io::Error::other("larger than 64 MiB; this is no configuration file"));
    }
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    Ok(text)
}

/// A problem of syntax or type as the TOML reader told it.
fn note_error(report: &mut Report<'_>, error: &toml::de::Error, key: String) {
    report.note(error.span().unwrap_or(0..0), key, error.message().replace('\n', ", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_the_file_is_a_problem_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("deskmilter.toml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Config::load(&pipe).unwrap_err().to_string().contains("this is no file"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_what_helps() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deskmilter.toml");
        let told = |file: &Path| Config::load(file).unwrap_err().to_string();
        assert!(told(&file).contains("with -c"), "{}", told(&file));
        std::fs::write(&file, b"# f\xfcr Kunden\n").unwrap();
        assert!(told(&file).contains("UTF-8") && !told(&file).contains("-c"), "{}", told(&file));
    }
}
