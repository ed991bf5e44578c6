//! What is different between two configurations, in a few words, and what of it needs a restart.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::config::{Config, Connector};

/// Names in one list of the log line, at most.
const NAMES_MAX: usize = 10;

/// What a reload changes. Found in a time that grows with the number of connectors, not with its square.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Connectors that are new.
    pub(super) added: Names,
    /// Connectors that are gone.
    pub(super) removed: Names,
    /// Connectors of which anything is different, their keys included.
    pub(super) changed: Names,
    /// DKIM keys of which the private key is another: connector or domain, and selector.
    pub(super) keys: Names,
    /// Sections of the configuration of which anything is different.
    pub(super) sections: Names,
    /// Settings that count from the next start only.
    pub(super) restart: Names,
}

/// A list for the log: the first ten, and how many more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names(pub(super) Vec<String>);

impl Difference {
    /// What `new` has that `old` has not, and the other way round.
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let mut difference = Self::default();
        let mut before: HashMap<&str, &Arc<Connector>> =
            old.connectors.iter().map(|connector| (connector.name.as_str(), connector)).collect();
        for connector in &new.connectors {
            let name = connector.name.as_str();
            match before.remove(name) {
                None => difference.added.push(name),
                Some(earlier) if earlier != connector => {
                    difference.changed.push(name);
                    difference.connector_keys(earlier, connector);
                }
                Some(_) => {}
            }
        }
        let gone = |connector: &&Arc<Connector>| before.contains_key(connector.name.as_str());
        old.connectors.iter().filter(gone).for_each(|connector| difference.removed.push(&connector.name));
        difference.signing_keys(old, new);
        let sections = [
            ("daemon", old.daemon != new.daemon),
            ("milter", old.milter != new.milter),
            ("transport", old.transport != new.transport),
            ("exim", old.exim != new.exim),
            ("authentication", old.authentication != new.authentication),
            ("limits", old.limits != new.limits),
            ("outbound", old.outbound != new.outbound),
            ("signing", old.signing != new.signing),
            ("store", old.store != new.store),
            ("credentials", old.credentials != new.credentials),
            ("conversations", old.conversations != new.conversations),
            ("auth", old.auth != new.auth),
            ("lookup", old.lookup != new.lookup),
            ("metrics", old.metrics != new.metrics),
        ];
        sections.into_iter().filter(|(_, differs)| *differs).for_each(|(name, _)| difference.sections.push(name));
        difference.restart = needs_restart(old, new);
        difference
    }

    /// Whether nothing is different.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn connector_keys(&mut self, old: &Connector, new: &Connector) {
        for key in &new.dkim {
            let replaced = |other: &&crate::config::DkimKey| other.selector == key.selector && other.key != key.key;
            if old.dkim.iter().any(|other| replaced(&other)) {
                self.keys.push(&format!("{}/{}", new.name, key.selector));
            }
        }
    }

    fn signing_keys(&mut self, old: &Config, new: &Config) {
        let before: HashMap<_, _> =
            old.signing.iter().map(|signing| ((&signing.domain, signing.selector.as_str()), &signing.key)).collect();
        for signing in &new.signing {
            if before.get(&(&signing.domain, signing.selector.as_str())).is_some_and(|key| **key != signing.key) {
                self.keys.push(&format!("{}/{}", signing.domain, signing.selector));
            }
        }
    }
}

/// What a running process cannot change: it has given up the rights that it would need, or others rely on it.
fn needs_restart(old: &Config, new: &Config) -> Names {
    let access = |service: &Option<crate::config::Milter>| service.as_ref().map(|service| service.access.clone());
    let exim_access = |config: &Config| config.exim.as_ref().map(|service| service.access.clone());
    let transport_access = |config: &Config| config.transport.as_ref().map(|service| service.access.clone());
    let auth_access = |config: &Config| config.auth.as_ref().map(|service| service.access.clone());
    let lookup_access = |config: &Config| config.lookup.as_ref().map(|service| service.access.clone());
    let metrics_access = |config: &Config| config.metrics.as_ref().map(|service| service.access.clone());
    let differs_in_both = |old: Option<_>, new: Option<_>| old.is_some() && new.is_some() && old != new;
    let settings = [
        ("daemon.user", old.daemon.user != new.daemon.user),
        ("daemon.state_directory", old.daemon.state_directory != new.daemon.state_directory),
        ("daemon.pid_file", old.daemon.pid_file != new.daemon.pid_file),
        ("log", old.log != new.log),
        (
            "milter.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(access(&old.milter), access(&new.milter)),
        ),
        (
            "transport.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(transport_access(old), transport_access(new)),
        ),
        (
            "auth.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(auth_access(old), auth_access(new)),
        ),
        (
            "lookup.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(lookup_access(old), lookup_access(new)),
        ),
        (
            "exim.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(exim_access(old), exim_access(new)),
        ),
        (
            "metrics.socket_group or socket_mode (of sockets that are open)",
            differs_in_both(metrics_access(old), metrics_access(new)),
        ),
    ];
    Names(settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect())
}

/// Puts into `new` what holds until the next start, so that the next reload tells of it again.
pub(super) fn keep_what_needs_restart(old: &Config, new: &mut Config) {
    new.daemon.user.clone_from(&old.daemon.user);
    new.daemon.state_directory.clone_from(&old.daemon.state_directory);
    new.daemon.pid_file.clone_from(&old.daemon.pid_file);
    new.log.clone_from(&old.log);
    if let (Some(old), Some(new)) = (&old.milter, &mut new.milter) {
        new.access.clone_from(&old.access);
    }
    if let (Some(old), Some(new)) = (&old.transport, &mut new.transport) {
        new.access.clone_from(&old.access);
    }
    if let (Some(old), Some(new)) = (&old.auth, &mut new.auth) {
        new.access.clone_from(&old.access);
    }
    if let (Some(old), Some(new)) = (&old.lookup, &mut new.lookup) {
        new.access.clone_from(&old.access);
    }
    if let (Some(old), Some(new)) = (&old.exim, &mut new.exim) {
        new.access.clone_from(&old.access);
    }
    if let (Some(old), Some(new)) = (&old.metrics, &mut new.metrics) {
        new.access.clone_from(&old.access);
    }
}

impl Names {
    fn push(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// For a log field that is left out when there is nothing to tell.
    pub(super) fn told(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_string())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.0.iter().take(NAMES_MAX).enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        match self.0.len().saturating_sub(NAMES_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fmt::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use crate::dkim::{NewKey, SigningKey};

    const HEAD: &str = "[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [\"unix:/run/x.sock\"]\n\
                        [limits]\ndomains = 10000\n";

    fn parse(text: &str, folder: &Path) -> Config {
        Config::parse(text, &folder.join("deskmilter.toml")).unwrap()
    }

    fn connectors<'n>(names: impl IntoIterator<Item = &'n str>, more: &str) -> String {
        names.into_iter().fold(HEAD.to_owned(), |mut text, name| {
            writeln!(
                text,
                "[[connector]]\nname = \"{name}\"\ndomain = \"{name}.example\"\nmode = \"outbound-only\"\n\
                 addresses = [\"support@{name}.example\"]\n{more}"
            )
            .unwrap();
            text
        })
    }

    fn write_key(path: &Path) {
        std::fs::write(path, SigningKey::generate(NewKey::Ed25519).unwrap().expose()).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[test]
    fn connectors_that_came_went_or_changed_are_named_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let old = parse(&connectors(["one", "two", "three"], ""), folder.path());
        let text = connectors(["three", "two", "four"], "").replace("support@two", "help@two");
        let new = parse(&text.replace("domains = 10000", "domains = 9\nhops = 11"), folder.path());
        let difference = Difference::between(&old, &new);
        let named = |names: &Names| names.to_string();
        assert_eq!(
            [&difference.added, &difference.removed, &difference.changed, &difference.sections].map(named),
            ["four", "one", "two", "limits"]
        );
        assert!(difference.keys.0.is_empty() && difference.restart.0.is_empty());
        assert!(Difference::between(&old, &old.clone()).is_empty());
    }

    #[test]
    fn a_key_is_replaced_when_it_is_another_key_and_not_when_its_file_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [folder.path().join("connector.pem"), folder.path().join("signing.pem")];
        keys.iter().for_each(|path| write_key(path));
        let text = connectors(
            ["one"],
            "[connector.submission]\nlogins = [{ name = \"l\", addresses = [\"support@one.example\"] }]\n\
             [[connector.dkim]]\nselector = \"a\"\nkey_file = \"connector.pem\"\n\
             [[signing]]\ndomain = \"two.example\"\nselector = \"b\"\nkey_file = \"signing.pem\"\n",
        );
        let old = parse(&text, folder.path());
        assert!(Difference::between(&old, &parse(&text, folder.path())).is_empty());
        keys.iter().for_each(|path| write_key(path));
        let difference = Difference::between(&old, &parse(&text, folder.path()));
        assert_eq!(difference.keys.to_string(), "one/a,two.example/b");
        assert_eq!((difference.changed.to_string(), difference.sections.to_string()), ("one".into(), "signing".into()));
    }

    #[test]
    fn what_needs_a_restart_is_told_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let old = parse(HEAD, folder.path());
        let text = HEAD.replace(
            "[milter]",
            "state_directory = \"other\"\nuser = \"root\"\n[log]\nlevel = \"debug\"\n[milter]\nsocket_mode = \"0600\"",
        );
        let mut new = parse(&text, folder.path());
        let told =
            "daemon.user,daemon.state_directory,log,milter.socket_group or socket_mode (of sockets that are open)";
        assert_eq!(Difference::between(&old, &new).restart.to_string(), told);
        keep_what_needs_restart(&old, &mut new);
        assert!(Difference::between(&old, &new).restart.0.is_empty());
    }

    #[test]
    fn ten_thousand_connectors_are_compared_in_a_moment_and_told_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..10_000).map(|n| format!("c{n}")).collect();
        let old = parse(&connectors(names.iter().map(String::as_str), ""), folder.path());
        let new = parse(&connectors(names.iter().rev().skip(20).map(String::as_str), ""), folder.path());
        let begun = Instant::now();
        let difference = Difference::between(&old, &new);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(difference.removed.0.len(), 20);
        assert!(difference.removed.to_string().ends_with("c9989 and 10 more"), "{}", difference.removed);
        assert!(difference.changed.0.is_empty());
    }
}
