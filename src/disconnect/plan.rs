//! Works out everything that a disconnection changes, before anything is changed.

use std::collections::BTreeMap;
use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::record::{FileChange, Record};
use super::sets::Sets;
use super::target::{Request, Target};
use super::{Stop, Waiting, settings};
use crate::config::{Config, RelayMode};
use crate::doctor::postfix::{
    Forwarding, Installation, PostfixError, Rewrite, foreign_transport, has_a_way, keys, take_off_transport,
};
use crate::mail::Address;

/// A disconnection, not made yet.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything that is changed.
    pub record: Record,
    /// What somebody should know or do besides.
    pub notes: Vec<String>,
}

/// What `request` comes to. `file` is where `config` came from; nothing is written. `postfix` is not asked for where nothing of it
/// matters.
///
/// # Errors
/// What keeps it from being made.
pub fn plan(
    request: &Request,
    config: &Config,
    file: &Path,
    postfix: impl FnOnce() -> Result<Installation, PostfixError>,
) -> Result<Plan, Stop> {
    let targets = request.targets(config)?;
    let sets = Sets::bound_to(request, config, file)?;
    if targets.is_empty() && sets.is_empty() {
        return Err(Stop::Refused(format!("nothing is connected for {}", request.name())));
    }
    let mut plan = Plan {
        record: Record {
            request: request.name(),
            way: request.way(),
            begun: now(),
            first: Vec::new(),
            settings: None,
            last: Vec::new(),
            waiting: waiting(&targets),
            sets: sets.numbers(),
            revoked: Vec::new(),
            finished: false,
        },
        notes: sets.notes(),
    };
    if targets.is_empty() {
        return Ok(plan);
    }
    if targets.iter().any(|target| target.connector.endpoint.is_some()) {
        plan.company_side(&targets, &postfix()?)?;
    } else if targets.iter().any(|target| target.connector.host.is_some() || target.connector.delivery.is_some())
        // A ticket system may hand its mail to us without any MTA.
        && let Ok(installation) = postfix()
    {
        plan.desk_side(&targets, &installation)?;
    }
    plan.notes.extend(targets.iter().flat_map(notes));
    let failed = |error| PostfixError::File { path: file.to_owned(), error };
    // A link stays a link: its target is what is replaced.
    let path = file.canonicalize().map_err(failed)?;
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let after = settings::without(&text, file, config, &targets).map_err(Stop::Refused)?;
    let model = path.clone();
    plan.record.settings = Some(FileChange::new(Rewrite { path, before: Some(text), after }, &model));
    Ok(plan)
}

impl Plan {
    /// The other way that Postfix gives the mail.
    fn company_side(&mut self, targets: &[Target], installation: &Installation) -> Result<(), Stop> {
        let main_cf = installation.main_cf()?;
        let (mut forwarding, mut forwarded, mut mailboxes) = (BTreeMap::new(), Vec::new(), Vec::new());
        for target in targets {
            let copies =
                target.connector.endpoint.as_ref().map(|e| e.relay) == Some(RelayMode::Inline { keep_copy: true });
            for (address, way) in &target.ways {
                let spellings = keys(address)?;
                self.foreign(installation, target, &spellings, way.is_some())?;
                match way {
                    Some(to) => {
                        for key in &spellings {
                            let copy = if copies { format!("{key}, ") } else { String::new() };
                            forwarding.insert(key.clone(), format!("{copy}{to}"));
                        }
                        forwarded.extend(spellings);
                    }
                    None if has_a_way(installation, address)? => mailboxes.extend(spellings),
                    None => {
                        return Err(Stop::Refused(format!(
                            "no table of Postfix knows a mailbox or an alias for {address}: its mail would bounce; make one, or say \
                             --forward-to ADDRESS"
                        )));
                    }
                }
            }
        }
        let changes = |rewrites: Vec<Rewrite>| {
            let some = rewrites.into_iter().filter(|rewrite| rewrite.before.as_ref() != Some(&rewrite.after));
            some.map(|rewrite| FileChange::new(rewrite, &main_cf)).collect::<Vec<_>>()
        };
        if !forwarding.is_empty() {
            self.record.first = changes(Forwarding(forwarding).plan(installation)?);
            let rewriting = installation.parameter("receive_override_options")?;
            if rewriting.contains("no_address_mappings") {
                self.notes.push(
                    "receive_override_options = no_address_mappings in main.cf: see that a later pass of the mail maps addresses, or \
                     it is not forwarded and waits"
                        .to_owned(),
                );
            }
        }
        // One table, two moments: forwarded mail must not lose its way before the queue is empty, mail for a mailbox gets it at once.
        let at_once = take_off_transport(installation, &mailboxes, false)?;
        let fenced = take_off_transport(installation, &forwarded, true)?;
        match (at_once, fenced) {
            (Some(_), Some(_)) => {
                return Err(Stop::Refused(
                    "some of the addresses are forwarded and some are not: disconnect these and those by two commands"
                        .to_owned(),
                ));
            }
            (at_once, fenced) => {
                self.record.first.extend(changes(at_once.into_iter().collect()));
                self.record.last.extend(changes(fenced.into_iter().collect()));
            }
        }
        Ok(())
    }

    /// Lines of the postmaster's own that lead a ticket system's mail to our socket.
    fn desk_side(&mut self, targets: &[Target], installation: &Installation) -> Result<(), Stop> {
        const PARAMETER: &str = "sender_dependent_default_transport_maps";
        for target in targets.iter().filter(|target| target.connector.delivery.is_some()) {
            delivered_elsewhere(target, installation)?;
        }
        for target in targets.iter().filter(|target| target.connector.host.is_some()) {
            let domain = std::iter::once(format!("@{}", target.connector.domain)).filter(|_| target.is_whole());
            for key in target.addresses.iter().map(ToString::to_string).chain(domain) {
                if let Some(table) = foreign_transport(installation, PARAMETER, &key, &target.connector.name)? {
                    self.notes.push(format!(
                        "{table} in {PARAMETER} sends mail of {key} to deskmilter: take that line out afterwards, or it waits in the queue"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lines of the postmaster's own that lead to our socket.
    fn foreign(
        &mut self,
        installation: &Installation,
        target: &Target,
        spellings: &[String],
        forwarded: bool,
    ) -> Result<(), Stop> {
        for key in spellings {
            let Some(table) = foreign_transport(installation, "transport_maps", key, &target.connector.name)? else {
                continue;
            };
            if !forwarded {
                return Err(Stop::Refused(format!(
                    "{table} in transport_maps sends {key} to deskmilter, and was not written by deskmilter; take {key} out there, \
                     reload Postfix, and try again"
                )));
            }
            self.notes.push(format!(
                "{table} in transport_maps sends {key} to deskmilter, and was not written by deskmilter: take {key} out there when \
                 nothing has come that way for some days; until then such mail waits in the queue"
            ));
        }
        Ok(())
    }
}

/// Whether mail for `target`, which we hand into the ticket system, has another way already. Behind a socket that is gone it would wait
/// until it bounces.
fn delivered_elsewhere(target: &Target, installation: &Installation) -> Result<(), Stop> {
    let (name, domain) = (&target.connector.name, &target.connector.domain);
    let whole = std::iter::once(domain.to_string()).filter(|_| target.is_whole());
    for key in target.addresses.iter().map(ToString::to_string).chain(whole) {
        if let Some(table) = foreign_transport(installation, "transport_maps", &key, &format!("{name}.delivery"))? {
            return Err(Stop::Refused(format!(
                "{table} in transport_maps sends {key} to deskmilter, which hands it into the ticket system; without connector {name} it \
                 would wait and bounce. Give it another way there, reload Postfix, and try again. To end no more than the company's \
                 logins: deskmilter credential revoke"
            )));
        }
    }
    Ok(())
}

fn waiting(targets: &[Target]) -> Waiting {
    let mut waiting = Waiting::default();
    for target in targets {
        let connector = &target.connector;
        let known = |address: &Address| (address.to_string(), connector.recipient_delimiter);
        match connector.endpoint.as_ref().map(|endpoint| endpoint.relay) {
            // What waits for the address is the copy, which is no business of ours.
            Some(RelayMode::Inline { keep_copy: true }) => {}
            Some(_) => waiting.recipients.extend(target.addresses.iter().map(known)),
            None if connector.host.is_some() => waiting.senders.extend(target.addresses.iter().map(known)),
            None => {}
        }
    }
    waiting
}

/// The time, as RFC 3339.
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or_else(|_| OffsetDateTime::now_utc());
    now.format(&Rfc3339).unwrap_or_default()
}

/// What else is different when the addresses are gone.
fn notes(target: &Target) -> Vec<String> {
    let connector = &target.connector;
    let mut notes = Vec::new();
    if connector.submission.is_some() {
        notes.push(format!(
            "notifications of connector {} from these addresses are not recognised and signed any more: have the ticket system send \
             them itself first",
            connector.name
        ));
    }
    if connector.delivery.is_some() {
        notes.push(format!(
            "mail for these addresses is not handed into the ticket system by connector {} any more: what an MTA still sends to its \
             socket waits in the queue, and bounces after days",
            connector.name
        ));
    }
    if connector.host.is_some() {
        notes.push(format!(
            "notifications of connector {} from these addresses go out as the MTA sends any mail, without the company's login",
            connector.name
        ));
    }
    notes
}
