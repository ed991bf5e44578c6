//! The configuration file.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::input::{sure, text};
use crate::config::Config;
use crate::dkim::{NewKey, SigningKey};

/// The least that a configuration can be.
const SMALLEST: &str = "[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [\"inet:127.0.0.1:8891\"]\n";

/// A configuration of nothing but defaults.
pub(crate) fn smallest() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| sure(Config::parse(SMALLEST, &file())))
}

/// Where the configuration file would be: a folder of this process with a password, `acme.password`, and an Ed25519 key,
/// `acme.pem`.
pub(crate) fn file() -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = sure(tempfile::tempdir());
        let key = sure(SigningKey::generate(NewKey::Ed25519));
        for (name, content) in [("acme.password", b"s3cret-of-acme\n".as_slice()), ("acme.pem", key.expose())] {
            let mut options = std::fs::OpenOptions::new();
            let mut file = sure(options.write(true).create_new(true).mode(0o600).open(folder.path().join(name)));
            sure(std::io::Write::write_all(&mut file, content));
        }
        folder
    });
    folder.path().join("deskmilter.toml")
}

pub(super) fn parse(octets: &[u8]) {
    let text = text(octets);
    match Config::parse(&text, &file()) {
        Ok(config) => {
            let shown = config.to_string();
            assert!(!shown.contains("s3cret"));
            let again = Config::parse(&shown, &file()).unwrap_or_else(|error| unreachable!("{error}\nin\n{shown}"));
            assert_eq!(again.to_string(), shown);
        }
        Err(problems) => {
            let lines = text.matches('\n').count() + 1;
            assert!(problems.iter().next().is_some());
            for problem in problems.iter() {
                assert!((1..=lines).contains(&problem.line) && !problem.message.is_empty(), "{problem:?}");
            }
            // One line a problem, whatever its text quotes.
            assert_eq!(problems.to_string().lines().count(), problems.iter().count(), "{problems}");
            assert!(!problems.to_string().contains("s3cret"));
        }
    }
}
