//! The import as text: the part of `deskmilter.toml` that does the same, and comments on everything else.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::dataset::{Dataset, Pattern};
use super::settings::Setting;
use super::signing::{Import, Rule, Signature, Signing};
use super::tables::{KeyData, SigningTable};
use crate::harmless::harmless;

/// Letters of a value that are shown.
const SHOWN: usize = 200;

impl Import {
    /// The text, and whether something of what OpenDKIM signs is not in it. `key_problem` says what is wrong with a key's
    /// file.
    ///
    /// Every line that is no configuration is a comment. Nothing is left out silently.
    pub fn show(&self, key_problem: &dyn Fn(&Path) -> Option<String>) -> (String, bool) {
        let (rules, lost) = self.signing.rules();
        let mut problems: Vec<String> = self.problems.iter().cloned().chain(lost).collect();
        let mode = self.settings.get("Mode").unwrap_or("sv");
        if !mode.contains('s') {
            problems.push(format!(
                "Mode {}: OpenDKIM signs nothing; deskmilter would sign with these entries",
                shown(mode)
            ));
        }
        let mut files = HashSet::new();
        for rule in &rules {
            if let KeyData::File(path) = &rule.signature.key
                && files.insert(path)
            {
                problems.extend(key_problem(path).map(|problem| format!("key file {problem}")));
            }
        }
        let mut text = self.table(&rules);
        self.signing_entries(&rules, &mut text);
        section(&mut text, "PROBLEMS: this is not taken over as it stands", &problems);
        section(&mut text, "not taken over, or done in another way", &self.notes(&rules));
        (text, !problems.is_empty())
    }

    /// Who is signed with what, as OpenDKIM tries it.
    fn table(&self, rules: &[Rule]) -> String {
        let order = match self.signing {
            Signing::Tables { all: true, .. } => "every line that fits the sender signs (MultipleSignatures)",
            _ => "the first line that fits the sender signs",
        };
        let mut text = format!("# What OpenDKIM signs; {order}:\n");
        let width = rules.iter().map(|rule| rule.senders.len()).max().unwrap_or_default();
        for Rule { senders, signature, .. } in rules {
            let (domain, selector) = (&signature.domain, &signature.selector);
            let line = format!("{senders:width$} -> d={domain} s={selector} key={:?}", signature.key);
            let _ = writeln!(text, "# {}", harmless(&line));
        }
        text
    }

    /// The configuration: entries in the order in which they are tried, and that the first one signs.
    fn signing_entries(&self, rules: &[Rule], text: &mut String) {
        let mut entries = entries(rules, self.signs_with_all());
        entries.retain(|(signature, _)| matches!(signature.key, KeyData::File(_)));
        // Where nothing is signed they say nothing.
        let networks = if entries.is_empty() { Vec::new() } else { self.internal_networks() };
        let first = !self.signs_with_all() && entries.len() > 1;
        if first || !networks.is_empty() {
            text.push_str("\n# a file has one [outbound]: where there is one, put these lines there\n[outbound]\n");
        }
        if first {
            text.push_str("sign_with = \"first\"\n");
        }
        if !networks.is_empty() {
            let networks: toml::Value = networks.iter().map(ToString::to_string).collect::<Vec<_>>().into();
            let _ = writeln!(text, "signing_networks = {networks}");
        }
        for (signature, senders) in &entries {
            let KeyData::File(path) = &signature.key else { continue };
            let senders = senders.iter().map(|sender| toml::Value::from(*sender)).collect::<Vec<_>>();
            let _ = writeln!(
                text,
                "\n[[signing]]\ndomain = {}\nselector = {}\nkey_file = {}\nsign_for = {}",
                toml::Value::from(signature.domain.to_ascii_lowercase()),
                toml::Value::from(signature.selector.as_str()),
                toml::Value::from(path.display().to_string()),
                toml::Value::from(senders)
            );
        }
    }

    fn signs_with_all(&self) -> bool {
        matches!(self.signing, Signing::Tables { all: true, .. })
    }

    /// InternalHosts as far as `signing_networks` can say it. deskmilter trusts this host in any case.
    fn internal_networks(&self) -> Vec<IpNet> {
        let hosts = self.hosts.iter().filter(|(name, _)| *name == "InternalHosts");
        let networks = hosts.flat_map(|(_, hosts)| networks(hosts)).map(|(_, network)| network);
        let mut found: Vec<IpNet> = networks.filter(|network| !network.addr().is_loopback()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn notes(&self, rules: &[Rule]) -> Vec<String> {
        let mut notes = Vec::new();
        if matches!(self.signing, Signing::Tables { all: true, .. }) {
            notes.push(
                "MultipleSignatures: of three and more matches OpenDKIM 2.11 makes the first and the last signature only, \
                 although its manual says that all are made"
                    .to_owned(),
            );
        }
        for rule in rules {
            if let Some(identity) = &rule.identity {
                notes.push(format!("{}: i={} is not written", shown(&rule.senders), shown(identity)));
            }
            let sender_domain = rule.senders.rsplit('@').next().unwrap_or_default();
            let aligned = sender_domain.eq_ignore_ascii_case(&rule.signature.domain)
                || sender_domain
                    .to_ascii_lowercase()
                    .ends_with(&format!(".{}", rule.signature.domain.to_ascii_lowercase()));
            if !aligned {
                notes.push(format!(
                    "{}: signed by d={}, which may be another domain than the sender's; such a signature does not count for DMARC",
                    shown(&rule.senders),
                    shown(&rule.signature.domain)
                ));
            }
        }
        if let Signing::Tables { keys, senders, .. } = &self.signing {
            let names = senders.0.entries().iter().map(|entry| SigningTable::key(entry, "%").0);
            let found = names.filter_map(|name| keys.0.matches(name, false).next());
            let used: HashSet<usize> = found.map(|key| key.line).collect();
            // A key may be named as the sender's domain is: then nobody can tell who uses it.
            let any = senders.0.entries().iter().any(|entry| SigningTable::key(entry, "%").0 == "%");
            let unused = keys.0.entries().iter().filter(|key| !any && !used.contains(&key.line));
            notes.extend(
                unused.map(|key| format!("KeyTable line {}: no sender signs with {}", key.line, shown(&key.name))),
            );
        }
        for (name, hosts) in &self.hosts {
            let internal = *name == "InternalHosts";
            let taken: Vec<&str> = networks(hosts).map(|(name, _)| name).collect();
            let names = hosts.entries().iter().map(|entry| entry.name.as_str());
            let left: Vec<String> =
                names.filter(|name| !internal || !(taken.contains(name) || is_this_host(name))).map(shown).collect();
            if !left.is_empty() {
                notes.push(format!("{name}: {}; {}", left.join(" "), host_note(name)));
            }
            let has_this_host = hosts.entries().iter().any(|entry| is_this_host(&entry.name));
            if internal && !has_this_host {
                notes.push(
                    "InternalHosts lacks 127.0.0.1; deskmilter signs mail from this host all the same".to_owned(),
                );
            }
        }
        if self.settings.get("InternalHosts").is_none() {
            notes.push(
                "InternalHosts is not set: OpenDKIM signs mail from 127.0.0.1 and of authenticated clients, and so does \
                 deskmilter"
                    .to_owned(),
            );
        }
        if self.settings.get("Canonicalization").is_none() {
            notes.push(
                "Canonicalization is not set: OpenDKIM signs simple/simple, deskmilter relaxed/relaxed".to_owned(),
            );
        }
        let mut settings: Vec<&Setting> = self.settings.iter().collect();
        settings.reverse();
        notes.extend(settings.into_iter().filter_map(|setting| self.setting_note(setting)));
        notes
    }

    fn setting_note(&self, setting: &Setting) -> Option<String> {
        let tables = matches!(self.signing, Signing::Tables { .. });
        let why = match setting.name.to_ascii_lowercase().as_str() {
            "keytable" | "signingtable" | "multiplesignatures" | "basedirectory" | "internalhosts"
            | "externalignorelist" | "peerlist" => return None,
            "domain" | "selector" | "keyfile" | "subdomains" if tables => "without effect in OpenDKIM beside KeyTable",
            "domain" | "selector" | "keyfile" | "subdomains" => return None,
            "canonicalization" => "deskmilter signs relaxed/relaxed",
            "signheaders" | "omitheaders" | "oversignheaders" => {
                "deskmilter has its own list of signed and oversigned fields"
            }
            "senderheaders" | "sendermacro" => "deskmilter goes by the address in From alone",
            "signaturealgorithm" => "deskmilter tells the algorithm from the key",
            "requiresafekeys" => "deskmilter always refuses keys that others can read",
            "mode" => "what deskmilter signs and verifies, its connectors and [authentication] say",
            "changerootdirectory" => "the paths of keys and tables above are inside this folder",
            "nameservers" | "resolverconfiguration" | "trustanchorfile" => "see authentication.name_servers",
            "authservid" => "see authentication.authserv_id",
            "socket" => "see milter.listen",
            "userid" | "umask" | "pidfile" | "background" | "autorestart" | "autorestartcount" | "autorestartrate"
            | "temporarydirectory" | "syslog" | "syslogsuccess" | "syslogfacility" | "syslogname" | "logwhy"
            | "logresults" => "of OpenDKIM's own process; see [daemon], [milter] and [log]",
            _ => "no equivalent",
        };
        let secret = setting.name.to_ascii_lowercase().contains("password") || setting.value.contains("://");
        let value = if secret { "[not shown]".to_owned() } else { shown(&setting.value) };
        Some(format!("{} {value}: {why}", shown(&setting.name)))
    }
}

fn host_note(list: &str) -> &'static str {
    match list {
        "InternalHosts" => {
            "OpenDKIM signs mail from these hosts; outbound.signing_networks takes networks without exceptions: write them there"
        }
        "ExternalIgnoreList" => "silences a line of OpenDKIM's log only",
        _ => "mail from these hosts is passed on untouched; give them a Postfix service without milters",
    }
}

/// The entries of InternalHosts that are networks or addresses. None where one is excepted (`!192.0.2.1`), because a network
/// around it would hold it.
fn networks(hosts: &Dataset) -> impl Iterator<Item = (&str, IpNet)> {
    let excepts = hosts.entries().iter().any(|entry| entry.name.starts_with('!'));
    let entries = hosts.entries().iter().filter(move |_| !excepts);
    entries.filter_map(|entry| Some((entry.name.as_str(), network(&entry.name)?)))
}

/// A network or address of InternalHosts; the whole Internet is none that could be trusted.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    (network.prefix_len() > 0).then(|| network.trunc())
}

fn is_this_host(text: &str) -> bool {
    text.eq_ignore_ascii_case("localhost") || network(text).is_some_and(|network| network.addr().is_loopback())
}

/// Signatures with their senders. A rule joins the earlier ones with the same signature where no rule in between could be for
/// a sender of its own: the order in which rules are tried stays what it was. Where all sign, order is nothing.
fn entries(rules: &[Rule], all: bool) -> Vec<(&Signature, Vec<&str>)> {
    let mut entries: Vec<(&Signature, Vec<&str>)> = Vec::new();
    for rule in rules {
        let same = entries.iter().rposition(|(signature, _)| **signature == rule.signature);
        let joins = same.filter(|at| {
            let between = entries.get(at.saturating_add(1)..).unwrap_or_default();
            all || between.iter().flat_map(|(_, senders)| senders).all(|sender| are_apart(sender, &rule.senders))
        });
        match joins.and_then(|at| entries.get_mut(at)) {
            Some((_, senders)) => senders.push(&rule.senders),
            None => entries.push((&rule.signature, vec![&rule.senders])),
        }
    }
    entries
}

/// Whether no sender is meant by both patterns, as far as their domains tell.
fn are_apart(one: &str, other: &str) -> bool {
    let domain = |pattern| str::rsplit_once(pattern, '@').map(|(_, domain)| domain);
    let (Some(one), Some(other)) = (domain(one), domain(other)) else { return false };
    let apart = |fixed: &str, pattern: &str| !fixed.contains('*') && !Pattern(pattern).matches(fixed, true);
    apart(one, other) || apart(other, one)
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n# {title}:");
    for line in lines {
        let _ = writeln!(text, "#   {}", harmless(line));
    }
}

/// A foreign text within a comment, cut where it is long. TOML allows no control characters there, and no line feed may end one.
fn shown(text: &str) -> String {
    harmless(&text.chars().take(SHOWN).collect::<String>())
}
