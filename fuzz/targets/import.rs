//! What is taken over from other programs.

use std::path::Path;

use super::configuration;
use super::input::{parts, text};
use crate::config::Config;
use crate::import::opendkim::{Import, Settings};

/// The settings where an input brings none.
const SETTINGS: &str = "KeyTable file:/keys\nSigningTable refile:/senders\n";

pub(super) fn opendkim(octets: &[u8]) {
    let [settings, keys, senders, sender] = parts(octets).map(text);
    let settings = if settings.is_empty() { SETTINGS.to_owned() } else { settings };
    let mut read = |path: &Path| match path.to_str() {
        Some("/settings") => Ok(settings.clone()),
        Some("/keys") => Ok(keys.clone()),
        Some("/senders") => Ok(senders.clone()),
        _ => Err("not there".to_owned()),
    };
    let Ok(found) = Settings::load(Path::new("/settings"), &mut read) else { return };
    let Ok(import) = Import::read(found, &mut read) else { return };
    let _ = import.signing.signatures(&sender);
    let (shown, _) = import.show(&|_| None);
    // As the whole of [[signing]] it is right, but for keys that are not on this machine.
    let whole =
        format!("[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [\"inet:127.0.0.1:8891\"]\n{shown}");
    if let Err(problems) = Config::parse(&whole, &configuration::file()) {
        for problem in problems.iter() {
            assert!(problem.key.ends_with("key_file"), "{problem:?} in\n{whole}");
        }
    }
}
