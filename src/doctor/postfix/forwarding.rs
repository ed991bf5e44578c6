//! Plain forwarding of what were support addresses: a table of virtual aliases, which change the envelope's recipient and
//! nothing in the message.
//!
//! It stays when deskmilter is taken out of Postfix, for the mail still needs a way: its lines in `main.cf` have markers of their
//! own, and `deskmilter postfix --undo` does not touch them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::attachment::{MAP_HEADING as TRANSPORT_HEADING, MAP_NAME as TRANSPORT_MAP};
use super::change::{read_optional, trial};
use super::main_cf::{self, Markers};
use super::{Installation, MilterEntry, PostfixError, Service};
use crate::mail::Address;

/// The table's file name in Postfix's configuration directory.
const MAP_NAME: &str = "deskmilter_forward";
/// Its first line; a file without it is not ours.
const MAP_HEADING: &str =
    "# Written by \"deskmilter disconnect --apply\"; \"deskmilter disconnect --undo\" takes it back.";
/// The parameter that names it.
const PARAMETER: &str = "virtual_alias_maps";
/// Around its name in `main.cf`.
const MARKERS: Markers = Markers {
    begin: "# forwarding begin: added by \"deskmilter disconnect --apply\"; \"--undo\" takes it out",
    end: "# forwarding end",
};

/// Where mail goes that comes to a forwarded address all the same, because it was on its way when the forwarding began: it waits
/// and says what helps. Without this it would take the way that the address had before deskmilter, and may bounce.
pub(super) const FENCE: &str =
    "retry:4.3.5 this address was disconnected and is forwarded now, requeue with postsuper -r QUEUEID";

/// Forwarded addresses, in the spellings in which Postfix looks them up, and where each goes: addresses separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding(pub BTreeMap<String, String>);

/// The texts of one file before and after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The file.
    pub path: PathBuf,
    /// What is in it; `None` where it is not there.
    pub before: Option<String>,
    /// What will be.
    pub after: String,
}

impl Forwarding {
    /// What the table holds now.
    ///
    /// # Errors
    /// It cannot be read, or is not ours.
    pub fn read(installation: &Installation) -> Result<Self, PostfixError> {
        let path = installation.directory().join(MAP_NAME);
        let Some(text) = read_optional(&path)? else { return Ok(Self::default()) };
        if !text.starts_with(MAP_HEADING) {
            return Err(PostfixError::Refused(format!(
                "{} was not written by deskmilter; move it away and try again",
                path.display()
            )));
        }
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(Self(lines.filter_map(|line| line.split_once('\t')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()))
    }

    /// The keys of which nothing may be delivered any more: all but those that are kept a copy of.
    pub(super) fn fenced(&self) -> impl Iterator<Item = &str> {
        let kept = |key: &str, to: &str| to.split(", ").any(|to| to == key);
        self.0.iter().filter(move |(key, to)| !kept(key, to)).map(|(key, _)| key.as_str())
    }

    /// What has to be written so that `self` is forwarded too. Nothing is written.
    ///
    /// # Errors
    /// Another table has a word of its own on one of the addresses, which would count first.
    pub fn plan(&self, installation: &Installation) -> Result<Vec<Rewrite>, PostfixError> {
        let mut all = Self::read(installation)?;
        all.0.extend(self.0.clone());
        let map_path = installation.directory().join(MAP_NAME);
        let map = format!("texthash:{}", map_path.display());
        let main_cf = installation.main_cf()?;
        let current = read_optional(&main_cf)?.unwrap_or_default();
        let value = trial(installation, &current, PARAMETER)?;
        let tables: Vec<String> = MilterEntry::list(&value).into_iter().map(|entry| entry.endpoint).collect();
        for table in tables.iter().filter(|table| **table != map) {
            for (key, to) in &self.0 {
                match installation.look_up(table, key)? {
                    Some(answer) if answer != *to => {
                        return Err(PostfixError::Refused(format!(
                            "{table} in {PARAMETER} sends {key} to {answer} already, which would count; write {to} there or take \
                             the line out, and try again"
                        )));
                    }
                    _ => {}
                }
            }
        }
        let mut rewrites = vec![Rewrite { before: read_optional(&map_path)?, path: map_path, after: all.text() }];
        if !tables.contains(&map) {
            let after = main_cf::append_between(&MARKERS, &current, PARAMETER, &map);
            // A default that was in force and is no more would be a table lost.
            let now = MilterEntry::list(&trial(installation, &after, PARAMETER)?);
            if !tables.iter().chain([&map]).eq(now.iter().map(|entry| &entry.endpoint)) {
                return Err(PostfixError::Refused(format!(
                    "{}: {map} cannot be added to {PARAMETER} = {value}; write {PARAMETER} = {value}, {map} yourself, and try again",
                    main_cf.display()
                )));
            }
            rewrites.push(Rewrite { path: main_cf, before: Some(current), after });
        }
        Ok(rewrites)
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|(key, to)| format!("{key}\t{to}\n"));
        std::iter::once(format!("{MAP_HEADING}\n")).chain(lines).collect()
    }
}

/// The transport table of ours without the ways of `keys`: with `fenced` what comes to them waits (`FENCE`), otherwise it takes the
/// way that it has without us. `None` where there is nothing to change.
///
/// # Errors
/// The table cannot be read.
pub fn take_off_transport(
    installation: &Installation,
    keys: &[String],
    fenced: bool,
) -> Result<Option<Rewrite>, PostfixError> {
    let path = installation.directory().join(TRANSPORT_MAP);
    let Some(text) = read_optional(&path)?.filter(|text| text.starts_with(TRANSPORT_HEADING)) else { return Ok(None) };
    // Without that service a way to a socket that is not there any more makes mail wait just as well, only without the remedy.
    if fenced && !can_fence(&installation.services()?) {
        return Ok(None);
    }
    let goes = |line: &&str| line.split_once(['\t', ' ']).is_some_and(|(key, _)| keys.iter().any(|gone| gone == key));
    let (gone, mut left): (Vec<&str>, Vec<&str>) = text.split_inclusive('\n').partition(goes);
    let fences: Vec<String> = gone
        .iter()
        .filter_map(|line| line.split_once(['\t', ' ']))
        .filter(|_| fenced)
        .map(|(key, _)| format!("{key}\t{FENCE}\n"))
        .collect();
    // In the order in which `deskmilter postfix --apply` would write them: last, and sorted.
    let (mut last, first): (Vec<&str>, Vec<&str>) = left.drain(..).partition(|line| line.trim_end().ends_with(FENCE));
    last.extend(fences.iter().map(String::as_str));
    last.sort_unstable();
    let after: String = first.into_iter().chain(last).collect();
    let differs = after != text;
    Ok(differs.then_some(Rewrite { path, before: Some(text), after }))
}

/// Whether this Postfix can make mail wait with a word of ours.
pub(super) fn can_fence(services: &[Service]) -> bool {
    services.iter().any(|service| service.name == "retry" && service.command == "error")
}

/// The table of somebody else in `parameter`, `transport_maps` for example, that sends `key` to the socket of `connector`, if there is
/// one. A table that our daemon serves is not somebody else's.
///
/// # Errors
/// A table cannot be read.
pub fn foreign_transport(
    installation: &Installation,
    parameter: &str,
    key: &str,
    connector: &str,
) -> Result<Option<String>, PostfixError> {
    let own = format!("texthash:{}", installation.directory().join(TRANSPORT_MAP).display());
    for entry in MilterEntry::list(&installation.parameter(parameter)?) {
        let table = entry.endpoint;
        if table != own
            && !table.starts_with("socketmap:")
            && let Some(hop) = installation.look_up(&table, key)?
            && hop.starts_with("lmtp:unix:")
            && hop.ends_with(&format!("/{connector}.sock"))
        {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Whether Postfix takes mail for `address` without a word of ours, as far as its tables tell.
///
/// # Errors
/// A table cannot be read.
pub fn has_a_way(installation: &Installation, address: &Address) -> Result<bool, PostfixError> {
    let (whole, domain) = (address.to_string(), address.domain().as_str());
    let catch_all = format!("@{domain}");
    for (parameter, local) in [
        ("virtual_alias_maps", false),
        ("virtual_mailbox_maps", false),
        ("relay_recipient_maps", false),
        ("local_recipient_maps", true),
    ] {
        let mut keys = vec![whole.as_str(), catch_all.as_str()];
        if local {
            keys.push(address.local());
        }
        for entry in MilterEntry::list(&installation.parameter(parameter)?) {
            // Its server need not run, and answers the same.
            let table = entry.endpoint.trim_start_matches("proxy:").to_owned();
            for key in &keys {
                if table != format!("texthash:{}", installation.directory().join(MAP_NAME).display())
                    && installation.look_up(&table, key)?.is_some()
                {
                    return Ok(true);
                }
            }
        }
    }
    // Of a domain that is relayed without a list of its recipients all are taken.
    let relayed = installation.parameter("relay_domains")?;
    let listed = relayed.split([',', ' ', '\t', '\n']).any(|name| name.eq_ignore_ascii_case(domain));
    Ok(listed && installation.parameter("relay_recipient_maps")?.is_empty())
}
