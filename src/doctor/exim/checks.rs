//! Is deskmilter attached to this Exim as it should be? Each check says what was found and, where it matters, what to do.

use super::{Exim, EximError, acls, fragments};
use crate::config::{Config, Connector, Listen};
use crate::doctor::Finding;

/// Runs all checks.
///
/// # Errors
/// Exim cannot be run, or reads no configuration.
pub fn check(config: &Config, exim: &Exim) -> Result<Vec<Finding>, EximError> {
    let version = exim.says(&["-bV"])?;
    let settings = config.exim.as_ref();
    let settings = settings
        .ok_or_else(|| EximError::Configuration("there is no [exim] in deskmilter's configuration".to_owned()))?;
    let mut findings = vec![judge(
        version.contains("Content_Scanning"),
        "content scanning",
        "Exim is built with it".to_owned(),
        "Exim is built without it".to_owned(),
        "install exim4-daemon-heavy",
    )];
    let spool = exim.option("spool_directory")?;
    let ours = settings.spool_directory.display().to_string();
    findings.push(judge(
        spool == ours,
        "spool directory",
        spool.clone(),
        format!("Exim has {spool}, exim.spool_directory is {ours}"),
        "set exim.spool_directory to Exim's",
    ));
    let wire = exim.option("spool_wireformat")?;
    findings.push(judge(
        wire == "no_spool_wireformat",
        "spool format",
        "lines ended by LF".to_owned(),
        "spool_wireformat is on: the scan file of a message that came by BDAT is not the message".to_owned(),
        "take spool_wireformat out",
    ));
    for listen in &settings.listen {
        if let Listen::Unix(path) = listen {
            findings.push(judge(
                std::os::unix::net::UnixStream::connect(path).is_ok(),
                "socket",
                format!("{} answers", path.display()),
                format!("nobody answers at {}", path.display()),
                "start deskmilter, and look at its log",
            ));
        }
    }
    findings.extend(acls::check(exim, config)?);
    for connector in config.connectors.iter().filter(|connector| connector.endpoint.is_some()) {
        findings.push(match fragments::is_routed(config, connector) {
            true => routes(exim, connector)?,
            false => kept(exim, connector)?,
        });
    }
    if config.takes_notifications() || config.signs() {
        findings.extend(filters(exim)?);
        findings.extend(rewriting(exim, config)?);
    }
    Ok(findings)
}

/// Each support address leads to the connector's socket.
fn routes(exim: &Exim, connector: &Connector) -> Result<Finding, EximError> {
    let name = fragments::name(connector);
    for address in &connector.addresses {
        let output = exim.run(&["-bt", &address.to_string()])?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if !told.contains(&format!("transport = {name}")) {
            let told = told.lines().map(str::trim).collect::<Vec<_>>().join(", ");
            return Ok(judge(
                false,
                "routes",
                String::new(),
                format!("{address} is not routed to {name}: {told}"),
                "run deskmilter exim --apply; our routers must stand before yours",
            ));
        }
    }
    Ok(judge(true, "routes", format!("{} addresses lead to {name}", connector.addresses.len()), String::new(), ""))
}

/// What is relayed before the queue, and whose copy is kept, must not lead to the ticket system again.
fn kept(exim: &Exim, connector: &Connector) -> Result<Finding, EximError> {
    let name = fragments::name(connector);
    for address in &connector.addresses {
        let output = exim.run(&["-bt", &address.to_string()])?;
        if String::from_utf8_lossy(&output.stdout).contains(&format!("transport = {name}")) {
            let found = format!(
                "{address} is routed to {name}, and relayed inline as well: each message would make two tickets"
            );
            return Ok(Finding::fail("routes", found, "run deskmilter exim --apply, and reload Exim"));
        }
    }
    let found =
        format!("not needed: the DATA ACL relays {} addresses of {}", connector.addresses.len(), connector.name);
    Ok(Finding::ok("routes", found))
}

/// Each transport that sends by SMTP runs the filter.
fn filters(exim: &Exim) -> Result<Vec<Finding>, EximError> {
    let said = exim.says(&["-bP", "transports"])?;
    let mut transports: Vec<(String, Vec<&str>)> = Vec::new();
    for line in said.lines().map(str::trim) {
        match (line.strip_suffix(" transport:"), transports.last_mut()) {
            (Some(name), _) => transports.push((name.to_owned(), Vec::new())),
            (None, Some((_, options))) => options.push(line),
            (None, None) => {}
        }
    }
    transports.retain(|(_, options)| options.contains(&"driver = smtp"));
    let finding = |(transport, options): (String, Vec<&str>)| {
        let filter = options.iter().find_map(|line| line.strip_prefix("transport_filter = ")).unwrap_or_default();
        judge(
            filter.contains("exim-filter"),
            "last hop",
            format!("transport {transport} runs the filter"),
            format!("transport {transport} runs the filter {filter:?}"),
            "a notification that leaves this way would carry our seal and no signature: add transport_filter = DESKMILTER_LAST_HOP",
        )
    };
    Ok(transports.into_iter().map(finding).collect())
}

/// What `begin rewrite` does to a support address it does before anybody sees the message.
fn rewriting(exim: &Exim, config: &Config) -> Result<Vec<Finding>, EximError> {
    let mut findings = Vec::new();
    for connector in config.connectors.iter().filter(|connector| connector.submission.is_some()) {
        let Some(address) = connector.addresses.first().map(ToString::to_string) else { continue };
        let said = exim.says(&["-brw", &address])?;
        let changed = said.lines().find(|line| line.split_once(": ").is_some_and(|(_, after)| after.trim() != address));
        let found = changed.map(str::trim).unwrap_or_default().to_owned();
        findings.push(judge(
            changed.is_none(),
            "rewriting",
            format!("{address} stays as it is"),
            format!("{address} is rewritten ({found}) before deskmilter sees the message"),
            "exempt the connector's addresses from that rule",
        ));
    }
    Ok(findings)
}

fn judge(good: bool, check: &'static str, ok: String, fail: String, remedy: &'static str) -> Finding {
    match good {
        true => Finding::ok(check, ok),
        false => Finding::fail(check, fail, remedy),
    }
}
