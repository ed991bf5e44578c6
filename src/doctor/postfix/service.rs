//! `master.cf` as `postconf -M` and `postconf -Px` print it.

use std::collections::BTreeMap;

/// One service of `master.cf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name or `address:port`.
    pub name: String,
    /// `inet`, `unix`, `pass`, ...
    pub kind: String,
    /// Whether it runs chrooted in the queue directory.
    pub chrooted: bool,
    /// The program, for example `smtpd`.
    pub command: String,
    /// Its own parameters (`-o name=value`).
    pub overrides: BTreeMap<String, String>,
}

impl Service {
    /// `smtp/inet`, as postconf and the Postfix documentation name it.
    pub fn label(&self) -> String {
        format!("{}/{}", self.name, self.kind)
    }

    /// Whether it receives mail by SMTP.
    pub fn receives_smtp(&self) -> bool {
        self.command == "smtpd" && matches!(self.kind.as_str(), "inet" | "pass" | "unix")
    }

    /// Whether only this machine can reach it: a place where a content filter hands mail back.
    pub fn is_on_loopback(&self) -> bool {
        let host = self.name.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host == "::1" || host.starts_with("127.")
    }
}

/// Reads the output of `postconf -M` and `postconf -Px`. `compatibility` is `compatibility_level`: below 1 a `-` in the chroot
/// column means yes, from 1 on no (postconf(5), master(5)).
pub(super) fn parse(entries: &str, overrides: &str, compatibility: &str) -> Vec<Service> {
    let default_chroot = compatibility.split('.').next().and_then(|level| level.trim().parse::<u32>().ok()) == Some(0);
    let mut services = Vec::new();
    for line in entries.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, kind, _private, _unprivileged, chroot, _wakeup, _limit, command, ..] = fields.as_slice() else {
            continue;
        };
        let prefix = format!("{name}/{kind}/");
        let own = overrides.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once('='));
        services.push(Service {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            chrooted: if *chroot == "-" { default_chroot } else { *chroot == "y" },
            command: (*command).to_owned(),
            overrides: own.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect(),
        });
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: &str = "\
smtp       inet  n       -       y       -       -       smtpd
127.0.0.1:10025 inet n   -       -       -       -       smtpd -o smtpd_milters= -o mynetworks=127.0.0.0/8
cleanup    unix  n       -       n       -       0       cleanup
";
    const OVERRIDES: &str = "\
127.0.0.1:10025/inet/smtpd_milters =
127.0.0.1:10025/inet/mynetworks = 127.0.0.0/8
";

    #[test]
    fn services_carry_their_chroot_and_their_own_parameters() {
        let services = parse(ENTRIES, OVERRIDES, "3.6");
        assert_eq!(services.iter().map(|s| s.chrooted).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(services[1].overrides.get("smtpd_milters").map(String::as_str), Some(""));
        assert!(services[1].is_on_loopback() && !services[0].is_on_loopback());
        assert_eq!(services[0].label(), "smtp/inet");
    }

    #[test]
    fn a_dash_means_chrooted_only_for_postfix_that_is_asked_to_be_as_before_3_0() {
        assert!(parse(ENTRIES, OVERRIDES, "0")[1].chrooted);
        assert!(!parse(ENTRIES, OVERRIDES, "2")[1].chrooted);
    }
}
