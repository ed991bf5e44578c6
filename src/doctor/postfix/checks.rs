//! The checks of a Postfix that deskmilter should be attached to: attached, attached once, sockets reachable,
//! `default_action`, last in order; and that the support addresses end at our transport.

use std::path::Path;

use super::{Attachment, Installation, MilterEntry, PostfixError, Service, outgoing};
use crate::config::{Config, Listen};
use crate::doctor::Finding;
use crate::doctor::postfix::reach::{self, Caller};

/// Runs every check. Sockets are connected to and closed again; nothing is sent.
///
/// # Errors
/// When Postfix's configuration cannot be read, or ours does not fit it at all.
pub fn check(config: &Config, installation: &Installation) -> Result<Vec<Finding>, PostfixError> {
    let view = View::read(config, installation)?;
    let mut findings = vec![view.attached(), view.attached_once()];
    findings.extend(view.reachable(config)?);
    findings.extend([view.default_action(), view.last(), view.transport(installation)?]);
    findings.extend(outgoing::check(config, installation, &view)?);
    if !view.attachment.inline.is_empty() {
        findings.push(view.no_filter_after(installation)?);
    }
    Ok(findings)
}

/// What the checks look at.
pub(super) struct View {
    pub(super) attachment: Attachment,
    queue_directory: std::path::PathBuf,
    /// Each list of milters with the name of who asks them: services that receive SMTP, and `non_smtpd_milters`.
    lists: Vec<(String, Vec<MilterEntry>)>,
    pub(super) services: Vec<Service>,
    milter_maps: String,
    milter_default_action: String,
    content_filter: String,
    receive_override_options: String,
    sasl: String,
    transport_maps: Vec<String>,
    mail_owner: String,
    /// Mail is signed or sealed, and a content filter hands it back to a second pass.
    seals: bool,
    takes_notifications: bool,
}

const NON_SMTPD: &str = "non_smtpd_milters";

impl View {
    fn read(config: &Config, installation: &Installation) -> Result<Self, PostfixError> {
        let services = installation.services()?;
        let common = installation.parameter("smtpd_milters")?;
        let mut lists = Vec::new();
        for service in services.iter().filter(|service| service.receives_smtp()) {
            let value = service.overrides.get("smtpd_milters").unwrap_or(&common);
            lists.push((service.label(), MilterEntry::list(value)));
        }
        lists.push((NON_SMTPD.to_owned(), MilterEntry::list(&installation.parameter(NON_SMTPD)?)));
        let maps = installation.parameter("transport_maps")?;
        Ok(Self {
            attachment: Attachment::of(config, installation)?,
            queue_directory: installation.queue_directory()?,
            lists,
            services,
            milter_maps: installation.parameter("smtpd_milter_maps")?,
            milter_default_action: installation.parameter("milter_default_action")?,
            content_filter: installation.parameter("content_filter")?,
            receive_override_options: installation.parameter("receive_override_options")?,
            sasl: installation.parameter("smtpd_sasl_auth_enable")?,
            transport_maps: MilterEntry::list(&maps).into_iter().map(|entry| entry.endpoint).collect(),
            mail_owner: installation.parameter("mail_owner")?,
            seals: !config.outbound.reinjection_networks.is_empty(),
            takes_notifications: config.takes_notifications(),
        })
    }

    fn is_ours(&self, entry: &MilterEntry) -> bool {
        self.attachment.is_named_by(entry, &self.queue_directory)
    }

    /// Where we are asked, as the lists spell it; where we should be, if we are not.
    fn endpoints(&self) -> Vec<&str> {
        let entries = self.ours().flat_map(|(_, list)| list).filter(|entry| self.is_ours(entry));
        let mut found: Vec<&str> = entries.map(|entry| entry.endpoint.as_str()).collect();
        found.sort_unstable();
        found.dedup();
        if found.is_empty() { vec![self.attachment.endpoint.as_str()] } else { found }
    }

    /// What Postfix does for `who` while we are away, and whether that entry says so itself.
    fn action<'v>(&'v self, who: &str, entry: &'v MilterEntry) -> (&'v str, bool) {
        if let Some(action) = entry.settings.get("default_action") {
            return (action, true);
        }
        let asks = |service: &&Service| match who {
            NON_SMTPD => service.command == "cleanup",
            who => service.label() == who,
        };
        let own = self.services.iter().find(asks).and_then(|service| service.overrides.get("milter_default_action"));
        (own.unwrap_or(&self.milter_default_action), false)
    }

    /// Whether `service` asks us, and looks at all at what milters say.
    pub(super) fn asks_us(&self, service: &Service) -> bool {
        !self.milters_are_off(service) && self.ours().any(|(who, _)| *who == service.label())
    }

    /// Whether `service` takes mail past all milters.
    pub(super) fn milters_are_off(&self, service: &Service) -> bool {
        let own = service.overrides.get("receive_override_options");
        own.unwrap_or(&self.receive_override_options).contains("no_milters")
    }

    /// Where `service` sends what it takes before it is delivered; empty for nowhere.
    pub(super) fn filter_of<'v>(&'v self, service: &'v Service) -> &'v str {
        service.overrides.get("content_filter").unwrap_or(&self.content_filter)
    }

    /// The services that a content filter hands mail back to, as far as that can be told: it does not go to a filter again,
    /// which master.cf says of that service, or only this machine reaches it.
    pub(super) fn second_pass(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| {
            service.receives_smtp()
                && self.filter_of(service).is_empty()
                && (service.is_on_loopback() || service.overrides.contains_key("content_filter"))
        })
    }

    /// Whether clients log in to `service`.
    fn takes_logins(&self, service: &Service) -> bool {
        service.overrides.get("smtpd_sasl_auth_enable").unwrap_or(&self.sasl) == "yes"
    }

    /// The lists that hold our entry.
    fn ours(&self) -> impl Iterator<Item = &(String, Vec<MilterEntry>)> {
        self.lists.iter().filter(|(_, list)| list.iter().any(|entry| self.is_ours(entry)))
    }

    fn attached(&self) -> Finding {
        const CHECK: &str = "milter attached";
        let endpoint = self.endpoints().join(" and ");
        let with: Vec<&str> = self.ours().map(|(who, _)| who.as_str()).collect();
        let without: Vec<&str> = self
            .lists
            .iter()
            .filter(|(who, list)| !with.contains(&who.as_str()) && (!list.is_empty() || !self.takes_mail_back(who)))
            .map(|(who, _)| who.as_str())
            .collect();
        if with.iter().all(|who| *who == NON_SMTPD) {
            let overridden = self.services.iter().any(|service| service.overrides.contains_key("smtpd_milters"));
            let hint = if overridden { "; an -o smtpd_milters= in master.cf counts before main.cf" } else { "" };
            return Finding::fail(
                CHECK,
                format!("no SMTP service asks {endpoint}{hint}"),
                "run: deskmilter postfix --apply",
            );
        }
        if !without.is_empty() {
            return Finding::warn(
                CHECK,
                format!("{} ask {endpoint}, but not {}", with.join(", "), without.join(", ")),
                "mail that comes in there is tagged none; add the entry to its -o smtpd_milters= in master.cf (or to \
                 non_smtpd_milters in main.cf)",
            );
        }
        if !self.milter_maps.is_empty() {
            return Finding::warn(
                CHECK,
                format!("{} ask {endpoint}, but smtpd_milter_maps = {}", with.join(", "), self.milter_maps),
                "clients found there have other milters; see that deskmilter is among them",
            );
        }
        Finding::ok(CHECK, format!("{} ask {endpoint}", with.join(", ")))
    }

    /// Whether `who` is a service on loopback, as a content filter hands mail back to.
    fn takes_mail_back(&self, who: &str) -> bool {
        self.services.iter().any(|service| service.label() == who && service.is_on_loopback())
    }

    fn attached_once(&self) -> Finding {
        const CHECK: &str = "attached once";
        for (who, list) in &self.lists {
            let count = list.iter().filter(|entry| self.is_ours(entry)).count();
            if count > 1 {
                return Finding::fail(
                    CHECK,
                    format!("{who} asks it {count} times"),
                    "leave the last entry, take out the others",
                );
            }
        }
        let filtered = self.services.iter().find_map(|service| {
            let filter = self.filter_of(service);
            (service.receives_smtp() && !filter.is_empty() && !self.seals).then(|| filter.to_owned())
        });
        if let Some(filter) = filtered {
            let again = self.services.iter().find(|service| service.is_on_loopback() && self.asks_us(service));
            if let Some(service) = again {
                return Finding::fail(
                    CHECK,
                    format!(
                        "mail comes back from content_filter = {filter} to {}, where it is judged again as sent by this machine",
                        service.label()
                    ),
                    "add -o receive_override_options=no_milters to that service in master.cf, or, where mail is signed, name the \
                     filter's network in outbound.reinjection_networks",
                );
            }
        }
        Finding::ok(CHECK, "no list names it twice, no filter brings mail past it again".to_owned())
    }

    fn reachable(&self, config: &Config) -> Result<Vec<Finding>, PostfixError> {
        const CHECK: &str = "socket reachable";
        let owner = reach::Account::named(&self.mail_owner)
            .ok_or_else(|| PostfixError::Configuration(format!("mail_owner = {}: no such user", self.mail_owner)))?;
        let mut findings = Vec::new();
        let milters = self.endpoints().into_iter().map(|endpoint| (endpoint.to_owned(), vec!["smtpd", "cleanup"]));
        let mut targets: Vec<_> = milters.collect();
        let hops = self.attachment.routes.iter().filter_map(|(_, next_hop)| next_hop.strip_prefix("lmtp:"));
        let mut sockets: Vec<&str> = hops.collect();
        sockets.sort_unstable();
        sockets.dedup();
        targets.extend(sockets.into_iter().map(|socket| (socket.to_owned(), vec!["lmtp"])));
        for (endpoint, commands) in targets {
            let callers: Vec<Caller<'_>> = self
                .services
                .iter()
                .filter(|service| commands.contains(&service.command.as_str()))
                .map(|service| Caller { label: service.label(), chrooted: service.chrooted, account: &owner })
                .collect();
            let group = config.milter.as_ref().and_then(|milter| milter.access.group.as_deref()).unwrap_or("postfix");
            findings.push(match reach::reach(&endpoint, &self.queue_directory, &callers) {
                Ok(()) => Finding::ok(CHECK, format!("{endpoint}, as user {}", self.mail_owner)),
                Err(reach::Obstacle::Absent(what)) => {
                    Finding::fail(CHECK, what, "start deskmilter, and see that it listens there")
                }
                Err(reach::Obstacle::Forbidden(what)) => Finding::fail(
                    CHECK,
                    what,
                    &format!(
                        "give the folder and the socket a group that {} is in (socket_group = \"{group}\", mode 0660)",
                        self.mail_owner
                    ),
                ),
                Err(reach::Obstacle::Unknown(what)) => Finding::warn(CHECK, what, "run this check as root"),
            });
        }
        if let Some(milter) = &config.milter
            && !milter.listen.iter().any(|listen| self.listens_at_endpoint(listen))
        {
            findings.push(Finding::warn(
                CHECK,
                format!("deskmilter does not listen at {}", self.attachment.endpoint),
                "compare milter.listen",
            ));
        }
        Ok(findings)
    }

    fn listens_at_endpoint(&self, listen: &Listen) -> bool {
        let entry = MilterEntry { endpoint: self.attachment.endpoint.clone(), settings: Default::default() };
        match listen {
            Listen::Inet(address) if address.ip().is_unspecified() => true,
            listen => entry.reaches(&listen.to_string(), Path::new(&self.queue_directory)),
        }
    }

    fn default_action(&self) -> Finding {
        const CHECK: &str = "default_action";
        let wanted = self.attachment.default_action;
        for (who, list) in self.ours() {
            for entry in list.iter().filter(|entry| self.is_ours(entry)) {
                let (action, itself) = self.action(who, entry);
                let said = if itself { action.to_owned() } else { format!("milter_default_action = {action}") };
                if self.must_not_pass_us(who) && wanted == "accept" {
                    if action != "tempfail" {
                        return Finding::warn(
                            CHECK,
                            format!("{said} for {who}: notifications leave unsigned while deskmilter is down"),
                            "write -o { smtpd_milters = { ADDRESS, default_action=tempfail } } for that service in master.cf",
                        );
                    }
                    continue;
                }
                if action == wanted {
                    continue;
                }
                return if wanted == "accept" {
                    Finding::fail(
                        CHECK,
                        format!("{said} for {who}: ordinary mail waits or is refused while deskmilter is down"),
                        "write { ADDRESS, default_action=accept }: mail that comes past a dead daemon is relayed and tagged none",
                    )
                } else {
                    Finding::fail(
                        CHECK,
                        format!(
                            "{said} for {who}: support mail that comes past a dead daemon is not relayed or not judged"
                        ),
                        "write { ADDRESS, default_action=tempfail }, which relay = \"inline\" and the desk side need: clients come again",
                    )
                };
            }
        }
        if self.ours().next().is_none() {
            Finding::fail(CHECK, "not attached".to_owned(), "see above")
        } else {
            let and_signed = if wanted == "accept" { ", and tempfail where mail must not leave unsigned" } else { "" };
            Finding::ok(CHECK, format!("{wanted}{and_signed}"))
        }
    }

    /// Whether mail that `who` takes had better wait for us: what a ticket system hands in by its login, and what a content
    /// filter hands back sealed.
    fn must_not_pass_us(&self, who: &str) -> bool {
        let is_it = |service: &Service| service.label() == who;
        let submission = |service: &Service| {
            is_it(service) && self.takes_logins(service) && service.overrides.contains_key("smtpd_sasl_auth_enable")
        };
        (self.takes_notifications && self.services.iter().any(submission))
            || (self.seals && self.second_pass().any(is_it))
    }

    fn last(&self) -> Finding {
        const CHECK: &str = "last in order";
        for (who, list) in self.ours() {
            if let Some(last) = list.last().filter(|last| !self.is_ours(last)) {
                return Finding::fail(
                    CHECK,
                    format!("{} comes after it for {who}, and may change or refuse what was judged", last.endpoint),
                    "move deskmilter's entry to the end",
                );
            }
        }
        if self.ours().next().is_none() {
            Finding::fail(CHECK, "not attached".to_owned(), "see above")
        } else {
            Finding::ok(CHECK, "no milter comes after it".to_owned())
        }
    }

    /// Whether a content filter after the queue would see mail only when the milter has relayed it already.
    fn no_filter_after(&self, installation: &Installation) -> Result<Finding, PostfixError> {
        const CHECK: &str = "no filter after inline relay";
        let takes_mail = |service: &&Service| service.receives_smtp() || service.command == "pickup";
        for service in self.services.iter().filter(takes_mail) {
            let filter = self.filter_of(service);
            if !filter.is_empty() {
                return Ok(Finding::fail(
                    CHECK,
                    format!("content_filter = {filter} of {} sees mail when it is relayed already", service.label()),
                    "filter before the queue (a milter before deskmilter), or write relay = \"transport\"",
                ));
            }
        }
        let proxy = installation.parameter("smtpd_proxy_filter")?;
        if !proxy.is_empty() {
            let found = format!("smtpd_proxy_filter = {proxy} shows the milter no client");
            return Ok(Finding::warn(CHECK, found, "filter by a milter before deskmilter instead"));
        }
        Ok(Finding::ok(CHECK, "no content_filter".to_owned()))
    }

    /// Whether Postfix would hand each support address to us: the first table that knows the whole address counts
    /// (transport(5): whole addresses are looked up in all tables before domains are).
    fn transport(&self, installation: &Installation) -> Result<Finding, PostfixError> {
        const CHECK: &str = "transport";
        for address in &self.attachment.copies {
            for table in &self.transport_maps {
                if let Some(found) = installation.look_up(table, address)?
                    && found.contains("deskmilter")
                {
                    return Ok(Finding::fail(
                        CHECK,
                        format!("{table} sends {address} to {found}, though the milter relays it and a copy stays"),
                        "take the address out there, or remove keep_copy: each message would make two tickets",
                    ));
                }
            }
        }
        if self.attachment.routes.is_empty() && !self.attachment.inline.is_empty() {
            return Ok(Finding::ok(
                CHECK,
                format!("not needed: the milter relays {} addresses", self.attachment.inline.len()),
            ));
        }
        for (address, next_hop) in &self.attachment.routes {
            let mut answer = None;
            for table in &self.transport_maps {
                answer = installation.look_up(table, address)?.map(|answer| (table, answer));
                if answer.is_some() {
                    break;
                }
            }
            match answer {
                Some((_, found)) if found == *next_hop => {}
                Some((table, found)) => {
                    return Ok(Finding::fail(
                        CHECK,
                        format!("{table} sends {address} to {found}"),
                        &format!(
                            "take the address out there, or put {} before it in transport_maps",
                            self.attachment.map
                        ),
                    ));
                }
                None => {
                    return Ok(Finding::fail(
                        CHECK,
                        format!("no table knows {address}"),
                        "run: deskmilter postfix --apply",
                    ));
                }
            }
        }
        Ok(Finding::ok(CHECK, format!("{} table entries lead to deskmilter", self.attachment.routes.len())))
    }
}
