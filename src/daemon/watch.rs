//! The files that the configuration names, looked at from time to time: keys, certification authorities, passwords.
//!
//! By stat(2) and not by inotify: it works on every file system, through links and renames of folders, and misses nothing.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::parts::trusts;
use crate::config::{Config, Stamp};

/// How often the files are looked at. Ten thousand of them take some 20 ms of a processor each time.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Where the name servers stand when the configuration names none.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The bundles of certification authorities of Debian, Red Hat, SUSE and Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the system's certification authorities may be.
pub(super) fn system_roots() -> Vec<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    SYSTEM_ROOTS.into_iter().map(PathBuf::from).chain(named).collect()
}

/// The files, and what was seen of each when it was read last.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    seen: HashMap<PathBuf, Option<Stamp>>,
    /// Those that may have been changed while they were read.
    unsure: HashSet<PathBuf>,
    /// Those whose content was of no use, so that an earlier one is in force.
    rejected: HashSet<PathBuf>,
}

/// Files whose content may be another, and what is there now.
pub(super) type Changes = HashMap<PathBuf, Option<Stamp>>;

impl Watch {
    /// All files that `config` names. They were read after `since`: what was changed after that, or shortly before, counts as
    /// changed.
    pub(super) fn new(config: &Config, since: SystemTime) -> Self {
        let mut watch = Self::default();
        for path in files(config) {
            let stamp = Stamp::of(&path);
            if stamp.is_some_and(|stamp| !stamp.is_older_than(since)) {
                watch.unsure.insert(path.clone());
            }
            watch.seen.insert(path, stamp);
        }
        watch
    }

    /// What has changed.
    pub(super) fn look(&self) -> Changes {
        let now = self.seen.iter().map(|(path, seen)| (path, seen, Stamp::of(path)));
        let changed = now.filter(|(path, seen, now)| *seen != now || self.unsure.contains(*path));
        changed.map(|(path, _, now)| (path.clone(), now)).collect()
    }

    /// Of `changes`, the files that are surely not what they were: of others it is only not known.
    pub(super) fn surely(&self, changes: &Changes) -> HashSet<PathBuf> {
        let differs = |(path, now): &(&PathBuf, &Option<Stamp>)| self.seen.get(*path) != Some(*now);
        changes.iter().filter(differs).map(|(path, _)| path.clone()).collect()
    }

    /// The files whose content is not what is in force.
    pub(super) fn stale(&self) -> HashSet<PathBuf> {
        self.look().into_keys().chain(self.rejected.iter().cloned()).collect()
    }

    /// Remembers changes that were looked into, and which files were of no use.
    pub(super) fn remember(&mut self, changes: Changes, rejected: Vec<PathBuf>) {
        self.unsure.retain(|path| !changes.contains_key(path));
        self.rejected.retain(|path| !changes.contains_key(path));
        self.rejected.extend(rejected);
        self.seen.extend(changes);
    }
}

fn files(config: &Config) -> HashSet<PathBuf> {
    let mut files = HashSet::from([config.daemon.site_key_file.path().to_owned()]);
    let mut add = |path: &Path| {
        files.insert(path.to_owned());
    };
    if config.authentication.name_servers.is_empty() {
        add(Path::new(RESOLV_CONF));
    }
    config.signing.iter().for_each(|signing| add(signing.key_file.path()));
    config.store.password_file.iter().for_each(|file| add(file.path()));
    config.store.ca_file.iter().for_each(|file| add(file));
    let mut system = false;
    for connector in &config.connectors {
        connector.dkim.iter().for_each(|key| add(key.key_file.path()));
        connector.password_files().for_each(|file| add(file.path()));
        for trusted in trusts(connector) {
            match trusted {
                Some(file) => add(file),
                None => system = true,
            }
        }
    }
    if system {
        files.extend(system_roots());
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        let text = "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n\
                    [authentication]\nname_servers = [\"127.0.0.1\"]\n[milter]\nlisten = [\"unix:/run/x.sock\"]\n";
        Config::parse(text, &folder.join("deskmilter.toml")).unwrap()
    }

    #[test]
    fn a_file_that_appears_is_replaced_or_goes_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let site_key = config.daemon.site_key_file.path();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let mut watch = Watch::new(&config, SystemTime::now());
        let told = |watch: &mut Watch| {
            let changes = watch.look();
            let names: Vec<_> =
                changes.keys().map(|path| path.strip_prefix(folder.path()).unwrap().to_owned()).collect();
            watch.remember(changes, Vec::new());
            names
        };
        assert_eq!(told(&mut watch), Vec::<PathBuf>::new());
        std::fs::write(site_key, "a").unwrap();
        assert_eq!(told(&mut watch), [Path::new("state/site.key")]);
        assert_eq!(told(&mut watch), Vec::<PathBuf>::new());
        std::fs::write(folder.path().join("aside"), "b").unwrap();
        std::fs::rename(folder.path().join("aside"), site_key).unwrap();
        assert_eq!(told(&mut watch).len(), 1);
        std::fs::remove_file(site_key).unwrap();
        assert_eq!(told(&mut watch).len(), 1);
        assert_eq!(told(&mut watch), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_was_changed_while_it_was_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        std::fs::create_dir(folder.path().join("state")).unwrap();
        std::fs::write(config.daemon.site_key_file.path(), "a").unwrap();
        let mut watch = Watch::new(&config, SystemTime::now());
        let changes = watch.look();
        assert_eq!((changes.len(), watch.surely(&changes).len()), (1, 0));
        watch.remember(changes, vec![config.daemon.site_key_file.path().to_owned()]);
        assert_eq!((watch.look().len(), watch.stale().len()), (0, 1));
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(Watch::new(&config, later).look().len(), 0);
    }
}
