//! The checks of what happens to mail after deskmilter has seen it: that Postfix leaves whole what is signed, and that what a
//! content filter hands back comes past us again.

use super::attachment::KEEPS_EIGHT_BIT;
use super::checks::View;
use super::{Installation, PostfixError, Service};
use crate::config::Config;
use crate::doctor::Finding;

/// By these Postfix's SMTP client changes header fields and bodies as it delivers, after all milters (smtp(8)).
const REWRITERS: [&str; 5] = [
    "smtp_header_checks",
    "smtp_mime_header_checks",
    "smtp_nested_header_checks",
    "smtp_body_checks",
    "smtp_generic_maps",
];
/// Longer lines are cut as they are delivered.
const LINE_LIMIT: &str = "smtp_line_length_limit";
/// Octets in a line that may be signed (RFC 5322 section 2.1.1).
const LINE_MAX: usize = 998;

/// Runs the checks that this configuration needs: none where nothing is signed or sealed.
pub(super) fn check(config: &Config, installation: &Installation, view: &View) -> Result<Vec<Finding>, PostfixError> {
    let mut findings = Vec::new();
    if config.signs() {
        findings.push(eight_bit(config, installation, view)?);
        findings.push(rewriters(config, installation, view)?);
    }
    if config.outbound.reinjection_networks.is_empty() {
        findings.extend(config.signs().then(|| unknown_filter(view)).flatten());
    } else {
        findings.push(both_passes(view));
    }
    Ok(findings)
}

/// A parameter's value for each service that delivers by SMTP, with the service's name where it has its own.
fn of_clients(installation: &Installation, view: &View, name: &str) -> Result<Vec<(String, String)>, PostfixError> {
    let common = installation.parameter(name)?;
    let own = view.services.iter().filter(|service| service.command == "smtp").filter_map(|service| {
        let value = service.overrides.get(name)?;
        Some((format!("{}: {name} = {value}", service.label()), value.clone()))
    });
    let mut values = vec![(format!("{name} = {common}"), common)];
    values.extend(own);
    Ok(values)
}

fn eight_bit(config: &Config, installation: &Installation, view: &View) -> Result<Finding, PostfixError> {
    const CHECK: &str = "8-bit text";
    const BEFORE_US: &str = "force_mime_input_conversion";
    let converts_before =
        has_input_conversion(&installation.parameter("mail_version")?) && installation.parameter(BEFORE_US)? == "yes";
    if converts_before && config.takes_notifications() {
        return Ok(Finding::warn(
            CHECK,
            format!(
                "{BEFORE_US} = yes rewrites it before deskmilter: the ticket system's own signature does not survive"
            ),
            &format!("set {KEEPS_EIGHT_BIT} = yes in main.cf instead: deskmilter postfix --apply"),
        ));
    }
    let values = of_clients(installation, view, KEEPS_EIGHT_BIT)?;
    let rewrites = values.iter().find(|(_, value)| value != "yes");
    Ok(match rewrites {
        None => Finding::ok(CHECK, format!("{KEEPS_EIGHT_BIT} = yes: it leaves as it was signed")),
        Some(_) if converts_before => {
            Finding::ok(CHECK, format!("{BEFORE_US} = yes: it is rewritten before it is signed"))
        }
        Some((what, _)) => Finding::fail(
            CHECK,
            format!(
                "{what}: rewritten for a next hop without 8BITMIME after it was signed, which breaks the signature"
            ),
            "run: deskmilter postfix --apply; a service of master.cf that says otherwise has to be changed by hand",
        ),
    })
}

/// Whether a Postfix of this version knows `force_mime_input_conversion`: 3.9 and newer.
fn has_input_conversion(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 9)
}

fn rewriters(config: &Config, installation: &Installation, view: &View) -> Result<Finding, PostfixError> {
    const CHECK: &str = "unchanged after signing";
    let mut found = Vec::new();
    for name in REWRITERS {
        found.extend(of_clients(installation, view, name)?.into_iter().filter(|(_, value)| !value.is_empty()));
    }
    let cuts = |value: &str| value.parse::<usize>().is_ok_and(|limit| limit != 0 && limit < LINE_MAX);
    found.extend(of_clients(installation, view, LINE_LIMIT)?.into_iter().filter(|(_, value)| cuts(value)));
    if !found.is_empty() {
        let found: Vec<String> = found.into_iter().map(|(what, _)| what).collect();
        let remedy = format!(
            "see that it touches no signed field and no body, or give the mail a service of its own without it; \
             {LINE_LIMIT} must be 0 or at least {LINE_MAX}"
        );
        return Ok(Finding::warn(CHECK, format!("{} changes mail as it is delivered", found.join("; ")), &remedy));
    }
    let masquerade = installation.parameter("masquerade_domains")?;
    if config.takes_notifications() && !masquerade.is_empty() {
        return Ok(Finding::warn(
            CHECK,
            format!("masquerade_domains = {masquerade} rewrites addresses of the ticket system's header fields"),
            "leave header_sender and header_recipient out of masquerade_classes, or the connector's domain out of it (!DOMAIN)",
        ));
    }
    Ok(Finding::ok(CHECK, "no setting of the SMTP client changes header fields or bodies".to_owned()))
}

/// A filter between the signature and the next hop that nobody told us of.
fn unknown_filter(view: &View) -> Option<Finding> {
    let filtered =
        view.services.iter().find(|service| service.receives_smtp() && !view.filter_of(service).is_empty())?;
    Some(Finding::warn(
        "content filter",
        format!(
            "{} sends mail to content_filter = {} after it was signed, which may change it",
            filtered.label(),
            view.filter_of(filtered)
        ),
        "name the network from which the filter hands mail back in outbound.reinjection_networks: it is then signed after the filter",
    ))
}

/// Where a content filter hands mail back, the pass before it seals and the one after it signs: neither may be left out.
fn both_passes(view: &View) -> Finding {
    const CHECK: &str = "both passes";
    let endpoint = &view.attachment.endpoint;
    let second: Vec<&Service> = view.second_pass().collect();
    if second.is_empty() {
        return Finding::warn(
            CHECK,
            "outbound.reinjection_networks is set, but no service of master.cf looks like the one that a filter hands mail back to"
                .to_owned(),
            "give it a service with -o content_filter= on loopback",
        );
    }
    if let Some(service) = view.services.iter().find(|service| service.receives_smtp() && !view.asks_us(service)) {
        let label = service.label();
        let is_second = second.iter().any(|other| other.label() == label);
        let what = if is_second {
            "what the filter hands back there keeps its seal and is never signed"
        } else {
            "what comes in there is not sealed, so that it is never signed, and a stranger's seal is not removed"
        };
        let (why, remedy) = if view.milters_are_off(service) {
            ("receive_override_options has no_milters", "take no_milters out of its receive_override_options")
        } else {
            ("its smtpd_milters lacks deskmilter", "add deskmilter to its smtpd_milters")
        };
        let action = if is_second { "tempfail" } else { "accept" };
        return Finding::fail(
            CHECK,
            format!("{label} does not ask {endpoint} ({why}): {what}"),
            &format!("{remedy} in master.cf: -o {{ smtpd_milters = {{ {endpoint}, default_action={action} }} }}"),
        );
    }
    let names: Vec<String> = second.iter().map(|service| service.label()).collect();
    Finding::ok(CHECK, format!("{} asks {endpoint} again after the filter", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_whether_postfix_can_rewrite_before_milters() {
        for (version, expected) in
            [("3.9.0", true), ("3.10.2", true), ("4.0", true), ("3.7.11", false), ("3.8-20230101", false)]
        {
            assert_eq!(has_input_conversion(version), expected, "{version}");
        }
    }
}
