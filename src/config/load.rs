//! Reading a configuration file, from its text to a checked [`Config`].

use std::path::Path;

use serde::Deserialize;
use toml::de::DeTable;

use super::problem::Report;
use super::{Config, Problems, check, keys, raw};

/// Octets of a configuration file at most; 10,000 connectors fit many times.
const FILE_MAX: u64 = 64 << 20;

impl Config {
    /// Reads and checks a configuration file, the files that it names included.
    ///
    /// # Errors
    /// All problems found, each with file, line, key and remedy.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let read = || {
            let length = std::fs::metadata(file)?.len();
            if length > FILE_MAX {
                return Err(std::io::Error::other("larger than 64 MiB; this is no configuration file"));
            }
            std::fs::read_to_string(file)
        };
        match read() {
            Ok(text) => Self::parse(&text, file),
            Err(error) => {
                let mut report = Report::new(file, "");
                report.note(0..0, "", format!("{error}; name the configuration file with -c"));
                report.finish(None)
            }
        }
    }

    /// Checks the text of a configuration file; relative paths are relative to the folder of `file`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        let mut report = Report::new(file, text);
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                note_error(&mut report, &error, String::new());
                return report.finish(None);
            }
        };
        let mut unknown = Vec::new();
        let raw = raw::Raw::deserialize(serde_ignored::Deserializer::new(
            toml::Deserializer::from(document.clone()),
            &mut |path| {
                unknown.push(keys::describe(&keys::steps(&path), document.get_ref()));
            },
        ));
        for key in unknown {
            let remedy = match key.suggestion {
                Some(name) => format!("did you mean {name:?}?"),
                None => format!("known here: {}", key.known.join(", ")),
            };
            report.note(key.span, key.key, format!("unknown key; {remedy}"));
        }
        let config = match raw {
            Ok(raw) => {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
                check::check(raw, file.parent().unwrap_or(Path::new("/")), &mut report)
            }
            Err(error) => {
                let key = error.span().map(|span| keys::key_at(span.start, document.get_ref())).unwrap_or_default();
                note_error(&mut report, &error, key);
                None
            }
        };
        report.finish(config)
    }
}

/// A problem of syntax or type as the TOML reader told it.
fn note_error(report: &mut Report<'_>, error: &toml::de::Error, key: String) {
    report.note(error.span().unwrap_or(0..0), key, error.message().replace('\n', ", "));
}
