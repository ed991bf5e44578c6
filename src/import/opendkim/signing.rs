//! What OpenDKIM signs, and the same as rules that stand in a row.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Entry, Matching, Pattern, Source};
use super::settings::Settings;
use super::tables::{Key, KeyData, KeyTable, SigningTable};
use crate::config::SenderPattern;
use crate::dkim::Selector;
use crate::mail::Domain;

/// A configuration of OpenDKIM, read whole.
#[derive(Debug, Clone)]
pub struct Import {
    /// `opendkim.conf`
    pub settings: Settings,
    /// Who signs what.
    pub signing: Signing,
    /// The lists of hosts: name of the setting, list.
    pub hosts: Vec<(&'static str, Dataset)>,
    /// What could not be read and is left out.
    pub problems: Vec<String>,
}

/// Where signatures come from.
#[derive(Debug, Clone)]
pub enum Signing {
    /// KeyTable and SigningTable.
    Tables {
        /// KeyTable
        keys: KeyTable,
        /// SigningTable
        senders: SigningTable,
        /// MultipleSignatures: every match signs, as the manual says, not the first one alone.
        all: bool,
    },
    /// Domain, Selector and KeyFile.
    Single {
        /// Domain
        domains: Dataset,
        /// Selector
        selector: String,
        /// KeyFile
        file: PathBuf,
        /// SubDomains
        subdomains: bool,
    },
    /// Nothing is signed.
    Nothing,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `d=`
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// The private key.
    pub key: KeyData,
}

/// Senders and what they are signed with. Rules are tried in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Sender addresses; `*` stands for any text.
    pub senders: String,
    /// The signature.
    pub signature: Signature,
    /// `i=`, which deskmilter does not write.
    pub identity: Option<String>,
}

/// The lists of hosts that OpenDKIM knows.
const HOST_LISTS: [&str; 3] = ["InternalHosts", "ExternalIgnoreList", "PeerList"];

impl Import {
    /// Reads all that `settings` name, each file by `read`.
    ///
    /// # Errors
    /// A table that cannot be read: without it nothing can be said. What of a table is left out is in
    /// [`Import::problems`].
    pub fn read(settings: Settings, read: &mut dyn FnMut(&Path) -> Result<String, String>) -> Result<Self, String> {
        let base = PathBuf::from(settings.get("BaseDirectory").unwrap_or_default());
        let mut problems = Vec::new();
        // A key given as a table by mistake must not be printed line by line.
        let mut table = |path: PathBuf| {
            let text = read(&base.join(&path))?;
            if text.contains("PRIVATE KEY-----") {
                return Err(format!("{}: a private key, but a table is needed", path.display()));
            }
            Ok(text)
        };
        let mut dataset = |name: &str, value: &str| {
            let set = match Source::parse(value) {
                Source::File(path) => Dataset::file(&table(path)?, Matching::Exact),
                Source::Patterns(path) => Dataset::file(&table(path)?, Matching::Pattern),
                Source::List(text) => Dataset::list(&text),
                Source::Other(kind) => {
                    return Err(format!(
                        "{name}: data sets of the kind {kind:?} cannot be read; write the table as a file"
                    ));
                }
            };
            problems.extend(set.problems().iter().map(|problem| format!("{name} {problem}")));
            Ok(set)
        };
        let all = settings.is_on("MultipleSignatures");
        let signing = match (settings.get("KeyTable"), settings.get("SigningTable")) {
            (Some(keys), Some(senders)) => Signing::Tables {
                keys: KeyTable(dataset("KeyTable", keys)?),
                senders: SigningTable(dataset("SigningTable", senders)?),
                all,
            },
            (None, Some(_)) => return Err("SigningTable is there, but no KeyTable".to_owned()),
            (Some(_), None) => return Err("KeyTable is there, but no SigningTable".to_owned()),
            (None, None) => match (settings.get("Domain"), settings.get("Selector"), settings.get("KeyFile")) {
                (Some(domains), Some(selector), Some(file)) => Signing::Single {
                    domains: dataset("Domain", domains)?,
                    selector: selector.to_owned(),
                    file: base.join(file),
                    subdomains: settings.is_on("SubDomains"),
                },
                _ => Signing::Nothing,
            },
        };
        let mut hosts = Vec::new();
        let mut unread = Vec::new();
        for name in HOST_LISTS {
            match settings.get(name).map(|value| dataset(name, value)) {
                Some(Ok(set)) => hosts.push((name, set)),
                Some(Err(error)) => unread.push(format!("{name}: {error}")),
                None => {}
            }
        }
        problems.extend(unread);
        Ok(Self { signing: signing.below(&base), settings, hosts, problems })
    }
}

impl Signing {
    /// The signatures for mail from `sender`; empty when it is not signed.
    ///
    /// # Errors
    /// The tables contradict each other: OpenDKIM defers such mail.
    pub fn signatures(&self, sender: &str) -> Result<Vec<Signature>, String> {
        let Some((_, domain)) = sender.rsplit_once('@') else { return Ok(Vec::new()) };
        let domain = domain.to_ascii_lowercase();
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Single { domains, selector, file, subdomains } => {
                let above = domain.match_indices('.').filter_map(|(at, _)| domain.get(at.saturating_add(1)..));
                let known = |name: &str| domains.matches(name, true).next().is_some();
                let signer = if known(&domain) || known("*") {
                    Some(domain.as_str())
                } else {
                    above.filter(|_| *subdomains).find(|name| known(name))
                };
                let signature = signer.map(|signer| Signature {
                    domain: signer.to_owned(),
                    selector: selector.clone(),
                    key: KeyData::File(file.clone()),
                });
                Ok(signature.into_iter().collect())
            }
            Self::Tables { keys, senders, all } => {
                let count = if *all { usize::MAX } else { 1 };
                senders.lookup(sender).into_iter().take(count).map(|entry| sign(keys, entry, &domain)).collect()
            }
        }
    }

    /// The same as rules in a row, and what cannot be said so. The first rule for a sender signs; where MultipleSignatures
    /// is on, every one.
    pub fn rules(&self) -> (Vec<Rule>, Vec<String>) {
        match self {
            Self::Nothing => {
                (Vec::new(), vec!["nothing is signed: neither tables nor Domain, Selector and KeyFile".to_owned()])
            }
            Self::Single { domains, selector, file, subdomains } => single_rules(domains, selector, file, *subdomains),
            Self::Tables { keys, senders, .. } => table_rules(keys, senders),
        }
    }

    /// With relative paths of keys below `base`.
    fn below(self, base: &Path) -> Self {
        let Self::Tables { keys: KeyTable(set), senders, all } = self else { return self };
        Self::Tables { keys: KeyTable(set.map_values(|value| below(value, base))), senders, all }
    }
}

fn below(value: &str, base: &Path) -> String {
    let mut parts = value.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(domain), Some(selector), Some(path))
            if !base.as_os_str().is_empty() && (path.starts_with("./") || path.starts_with("../")) =>
        {
            format!("{domain}:{selector}:{}", base.join(path).display())
        }
        _ => value.to_owned(),
    }
}

fn sign(keys: &KeyTable, entry: &Entry, sender_domain: &str) -> Result<Signature, String> {
    let (name, _) = SigningTable::key(entry, sender_domain);
    let found = keys.get(name, sender_domain)?;
    let Key { domain, selector, data } = found.ok_or_else(|| {
        format!(
            "SigningTable line {}: {} names the key {name:?}, which KeyTable lacks; OpenDKIM defers such mail",
            entry.line, entry.name
        )
    })?;
    Ok(Signature { domain, selector, key: data })
}

fn single_rules(domains: &Dataset, selector: &str, file: &Path, subdomains: bool) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut below, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for entry in domains.entries() {
        if entry.name.contains('*') {
            problems.push(format!("Domain {}: each sender's own domain would sign; name the domains", entry.name));
            continue;
        }
        let domain = entry.name.to_ascii_lowercase();
        let signature =
            Signature { domain: domain.clone(), selector: selector.to_owned(), key: KeyData::File(file.to_owned()) };
        if let Err(problem) = presentable(&signature) {
            problems.push(format!("Domain {}: {problem}", entry.name));
            continue;
        }
        rules.push(Rule { senders: format!("*@{domain}"), signature: signature.clone(), identity: None });
        if subdomains {
            let identity = Some(format!("@{domain}"));
            below.push(Rule { senders: format!("*@*.{domain}"), signature, identity });
        }
    }
    // Of two domains above a sender's the nearer one signs.
    below.sort_by_key(|rule| Reverse(rule.signature.domain.matches('.').count()));
    rules.extend(below);
    (rules, problems)
}

fn table_rules(keys: &KeyTable, senders: &SigningTable) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    let mut entries: Vec<&Entry> = senders.0.entries().iter().collect();
    let exact = senders.0.matching() == Matching::Exact;
    if exact {
        entries.sort_by_key(|entry| rank(&entry.name));
    }
    let mut seen = HashSet::new();
    for entry in entries {
        let place = format!("SigningTable line {}: {}", entry.line, entry.name);
        let pattern = if exact { sender_pattern(&entry.name) } else { whole_pattern(&entry.name) };
        let pattern = match pattern {
            Ok(pattern) => pattern,
            Err(problem) => {
                problems.push(format!("{place} {problem}"));
                continue;
            }
        };
        if let Err(error) = SenderPattern::parse(&pattern) {
            problems.push(format!("{place} names no sender: {error}; left out"));
            continue;
        }
        if exact && !seen.insert(pattern.to_ascii_lowercase()) {
            problems.push(format!("{place} stands there twice; OpenDKIM takes the first one alone"));
            continue;
        }
        // What stands for the sender's domain can be told where the pattern names one.
        let domain = pattern.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase());
        let domain = domain.filter(|domain| !domain.contains('*')).unwrap_or_else(|| "%".to_owned());
        let (_, identity) = SigningTable::key(entry, &domain);
        let identity = identity.map(|identity| identity.replace('%', &domain));
        match sign(keys, entry, &domain) {
            Ok(signature) => match presentable(&signature) {
                Ok(()) => rules.push(Rule { senders: pattern, signature, identity }),
                Err(problem) => problems.push(format!("{place}: {problem}")),
            },
            Err(_) if domain == "%" && entry.value.starts_with('%') => {
                problems.push(format!("{place}: % stands for each sender's domain; write a line for each domain"));
            }
            Err(problem) => problems.push(problem),
        }
    }
    (rules, problems)
}

fn presentable(signature: &Signature) -> Result<(), String> {
    if signature.domain == "%" {
        return Err("% stands for each sender's domain; write a line for each domain".to_owned());
    }
    Domain::parse(&signature.domain).map_err(|error| format!("d={:?}: {error}", signature.domain))?;
    Selector::parse(&signature.selector).map_err(|error| format!("s={:?}: {error}", signature.selector))?;
    match signature.key {
        KeyData::File(_) => Ok(()),
        KeyData::Inline => {
            Err("its key stands in KeyTable itself; write it into a file of mode 0600 and name that".to_owned())
        }
    }
}

/// The place of a name in the order in which OpenDKIM looks names up, and among names of one kind the longer domain first.
fn rank(name: &str) -> (u8, Reverse<usize>, u8) {
    let (user, host) = name.rsplit_once('@').map_or((None, name), |(user, host)| (Some(user), host));
    let dots = Reverse(host.matches('.').count());
    match (user, host) {
        (None, "*") => (4, Reverse(0), 0),
        (Some(_), "*") => (3, Reverse(0), 0),
        (user, host) if host.starts_with('.') => (2, dots, u8::from(user.is_none())),
        (None, _) => (1, Reverse(0), 0),
        (Some(_), _) => (0, Reverse(0), 0),
    }
}

/// The senders that a name in a plain table stands for.
fn sender_pattern(name: &str) -> Result<String, &'static str> {
    let (user, host) = name.rsplit_once('@').map_or(("*", name), |(user, host)| (user, host));
    if !name.is_ascii() {
        return Err("is not ASCII, so that OpenDKIM finds it for nobody; left out");
    }
    if name.contains('@') && user.contains('*') || host != "*" && host.contains('*') {
        return Err("is a pattern in a plain table, so that OpenDKIM finds it for nobody; was refile: meant? left out");
    }
    if user.is_empty() || host.is_empty() {
        return Err("names no sender; left out");
    }
    Ok(if host.starts_with('.') { format!("{user}@*{host}") } else { format!("{user}@{host}") })
}

/// The senders that a pattern stands for: it describes the whole address. Here a pattern without `@` is for a domain, so of those
/// only one that begins with its one asterisk means the same.
fn whole_pattern(name: &str) -> Result<String, &'static str> {
    let of_domains = name.strip_prefix('*').is_some_and(|rest| !rest.contains('*'));
    if !name.contains('@') && !name.contains('*') {
        return Err("has no @, so that OpenDKIM finds it for nobody; was *@ meant? left out");
    }
    if !name.contains('@') && !of_domains {
        return Err("has no @; write it as LOCALPART@DOMAIN with asterisks in both");
    }
    match SenderPattern::parse(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err("is no pattern of addresses"),
    }
}

impl Rule {
    /// Whether it is for mail from `sender`.
    pub fn matches(&self, sender: &str) -> bool {
        Pattern(&self.senders).matches(sender, true)
    }
}
