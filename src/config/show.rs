//! The effective configuration as text: what was written and every default, never a secret.

use std::fmt;

use super::{
    BreachPolicy, Config, Connector, Cover, Environment, Mode, OnTempError, Rejected, RelayMode, SignWhen, SignWith,
    SocketAccess, Submission, Tls, quantity, show_delivery, show_desk, show_host,
};

/// TOML that [`Config::parse`] reads again. Passwords are only named by their files.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&fmt::from_fn(|f| self.write(f)).to_string()))
    }
}

/// The text with the escapes of Rust's strings, which `{:?}` writes, as those of TOML's.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            escaped.push(c);
            continue;
        }
        match chars.next() {
            Some('u') => {
                let code = chars.by_ref().take_while(|&c| c != '}').filter(char::is_ascii_hexdigit);
                escaped.push_str(&format!("\\U{:0>8}", code.collect::<String>()));
            }
            Some('0') => escaped.push_str("\\u0000"),
            Some('\'') => escaped.push('\''),
            other => escaped.extend(std::iter::once('\\').chain(other)),
        }
    }
    escaped
}

impl Config {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = &self.daemon;
        writeln!(f, "[daemon]")?;
        writeln!(f, "hostname = {:?}", daemon.hostname.as_str())?;
        writeln!(f, "state_directory = {:?}", daemon.state_directory)?;
        if let Some(user) = &daemon.user {
            writeln!(f, "user = {user:?}")?;
        }
        writeln!(f, "site_key_file = {:?}", daemon.site_key_file.path())?;
        if let Some(pid_file) = &daemon.pid_file {
            writeln!(f, "pid_file = {pid_file:?}")?;
        }

        self.log.write(f)?;
        if let Some(milter) = &self.milter {
            let listen: Vec<_> = milter.listen.iter().map(ToString::to_string).collect();
            writeln!(f, "\n[milter]\nlisten = {listen:?}")?;
            write_access(f, &milter.access)?;
        }
        if let Some(transport) = &self.transport {
            writeln!(f, "\n[transport]\ndirectory = {:?}\npeers = {:?}", transport.directory, transport.peers)?;
            write_access(f, &transport.access)?;
        }

        if let Some(exim) = &self.exim {
            let listen: Vec<_> = exim.listen.iter().map(ToString::to_string).collect();
            writeln!(f, "\n[exim]\nlisten = {listen:?}\npeers = {:?}", exim.peers)?;
            writeln!(f, "spool_directory = {:?}", exim.spool_directory)?;
            writeln!(f, "deadline = {:?}", quantity::write_duration(exim.deadline))?;
            write_access(f, &exim.access)?;
        }

        let authentication = &self.authentication;
        let name_servers: Vec<_> = authentication.name_servers.iter().map(ToString::to_string).collect();
        let on_temperror = match authentication.on_temperror {
            OnTempError::Tag => "tag",
            OnTempError::Defer => "defer",
        };
        writeln!(f, "\n[authentication]")?;
        writeln!(f, "authserv_id = {:?}", authentication.authserv_id)?;
        writeln!(f, "name_servers = {name_servers:?}")?;
        writeln!(f, "dns_timeout = {:?}", quantity::write_duration(authentication.dns_timeout))?;
        writeln!(f, "max_signatures = {}", authentication.max_signatures)?;
        writeln!(f, "on_temperror = {on_temperror:?}")?;
        writeln!(f, "verdict_lifetime = {:?}", quantity::write_duration(authentication.verdict_lifetime))?;
        writeln!(f, "verdict_covers_body = {}", authentication.verdict_covers_body)?;

        let limits = &self.limits;
        writeln!(f, "\n[limits]")?;
        writeln!(f, "message_size = {:?}", quantity::write_octets(limits.message_size))?;
        writeln!(f, "header_size = {:?}", quantity::write_octets(limits.header_size as u64))?;
        writeln!(f, "memory = {:?}", quantity::write_octets(limits.memory))?;
        writeln!(f, "milter_connections = {}", limits.milter_connections)?;
        writeln!(f, "transport_connections = {}", limits.transport_connections)?;
        writeln!(f, "hops = {}", limits.hops)?;
        writeln!(f, "addresses_per_domain = {}", limits.addresses_per_domain)?;
        writeln!(f, "domains = {}", limits.domains)?;
        writeln!(f, "inline_relays = {}", limits.inline_relays)?;

        let outbound = &self.outbound;
        writeln!(f, "\n[outbound]")?;
        writeln!(f, "signing_networks = {:?}", texts(&outbound.signing_networks))?;
        writeln!(f, "reinjection_networks = {:?}", texts(&outbound.reinjection_networks))?;
        writeln!(f, "seal_lifetime = {:?}", quantity::write_duration(outbound.seal_lifetime))?;

        let sign_with = match outbound.sign_with {
            SignWith::Every => "every",
            SignWith::First => "first",
        };
        writeln!(f, "sign_with = {sign_with:?}")?;

        write_store(f, self)?;
        if let Some(metrics) = &self.metrics {
            metrics.write(f)?;
        }
        for signing in &self.signing {
            writeln!(f, "\n[[signing]]\ndomain = {:?}", signing.domain.as_str())?;
            writeln!(f, "selector = {:?}\nkey_file = {:?}", signing.selector.as_str(), signing.key_file.path())?;
            writeln!(f, "sign_for = {:?}\nsign = {:?}", texts(&signing.sign_for), sign_when(signing.sign))?;
        }
        for connector in &self.connectors {
            write_connector(f, connector)?;
            write_outbound(f, connector)?;
        }
        Ok(())
    }
}

fn write_store(f: &mut fmt::Formatter<'_>, config: &Config) -> fmt::Result {
    writeln!(f, "\n[store]\nurl = {:?}", config.store.url.to_string())?;
    if let Some(file) = &config.store.password_file {
        writeln!(f, "password_file = {:?}", file.path())?;
    }
    if let Some(file) = &config.store.ca_file {
        writeln!(f, "ca_file = {file:?}")?;
    }
    let overlap_warning = quantity::write_duration(config.credentials.overlap_warning);
    writeln!(f, "\n[credentials]\noverlap_warning = {overlap_warning:?}")?;
    show_desk::write_conversations(f, &config.conversations)?;
    if let Some(auth) = &config.auth {
        writeln!(f, "\n[auth]\nlisten = {:?}\ncomputations = {}", texts(&auth.listen), auth.computations)?;
        write_access(f, &auth.access)?;
    }
    if let Some(lookup) = &config.lookup {
        writeln!(f, "\n[lookup]\nlisten = {:?}", texts(&lookup.listen))?;
        write_access(f, &lookup.access)?;
    }
    Ok(())
}

pub(super) fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn sign_when(sign: SignWhen) -> &'static str {
    match sign {
        SignWhen::Always => "always",
        SignWhen::UnlessSigned => "unless-signed",
    }
}

fn write_outbound(f: &mut fmt::Formatter<'_>, connector: &Connector) -> fmt::Result {
    let Some(Submission { logins, networks, rate, recipient_rate }) = &connector.submission else { return Ok(()) };
    let logins: Vec<_> = logins
        .iter()
        .map(|login| format!("{{ name = {:?}, addresses = {:?} }}", login.name, texts(&login.addresses)))
        .collect();
    writeln!(f, "\n[connector.submission]\nlogins = [{}]", logins.join(", "))?;
    writeln!(f, "networks = {:?}", texts(networks))?;
    if let Some(rate) = rate {
        writeln!(f, "rate = \"{rate}\"")?;
    }
    if let Some(rate) = recipient_rate {
        writeln!(f, "recipient_rate = \"{rate}\"")?;
    }
    let policy = match connector.preserve.policy {
        BreachPolicy::Warn => "warn",
        BreachPolicy::Reject => "reject",
    };
    writeln!(f, "\n[connector.preserve]\npolicy = {policy:?}")?;
    if let Some(headers) = &connector.preserve.headers {
        writeln!(f, "headers = {headers:?}")?;
    }
    for key in &connector.dkim {
        let cover = match key.cover {
            Cover::Core => "core",
            Cover::Preserved => "preserved",
        };
        writeln!(f, "\n[[connector.dkim]]\nselector = {:?}", key.selector.as_str())?;
        writeln!(f, "key_file = {:?}\ncover = {cover:?}\nsign = {:?}", key.key_file.path(), sign_when(key.sign))?;
    }
    Ok(())
}

pub(super) fn write_access(f: &mut fmt::Formatter<'_>, access: &SocketAccess) -> fmt::Result {
    if let Some(group) = &access.group {
        writeln!(f, "socket_group = {group:?}")?;
    }
    writeln!(f, "socket_mode = \"{:04o}\"", access.mode)
}

fn write_connector(f: &mut fmt::Formatter<'_>, connector: &Connector) -> fmt::Result {
    let system = connector.system.as_str();
    let mode = match connector.mode {
        Mode::TwoWay => "two-way",
        Mode::OutboundOnly => "outbound-only",
    };
    let environment = match connector.environment {
        Environment::Production => "production",
        Environment::Sandbox => "sandbox",
    };
    let addresses: Vec<_> = connector.addresses.iter().map(ToString::to_string).collect();
    let delimiter = connector.recipient_delimiter.map(String::from).unwrap_or_default();
    writeln!(f, "\n[[connector]]\nname = {:?}\nsystem = {system:?}", connector.name)?;
    if let Some(native) = &connector.native_domain {
        writeln!(f, "native_domain = {:?}", native.as_str())?;
    }
    writeln!(f, "domain = {:?}\nmode = {mode:?}\nenvironment = {environment:?}", connector.domain.as_str())?;
    writeln!(f, "recipient_delimiter = {delimiter:?}\naddresses = {addresses:?}")?;
    if connector.host.is_none() {
        writeln!(f, "observe = {}", connector.observe)?;
    }
    if let Some(host) = &connector.host {
        show_host::write(f, host)?;
    }
    if let Some(desk) = &connector.desk {
        show_desk::write(f, desk)?;
    }
    if let Some(delivery) = &connector.delivery {
        show_delivery::write(f, delivery)?;
    }
    let Some(endpoint) = &connector.endpoint else { return Ok(()) };
    let tls = match endpoint.tls {
        Tls::Starttls => "starttls",
        Tls::Implicit => "implicit",
    };
    writeln!(f, "\n[connector.endpoint]\nhost = {:?}\nport = {}\ntls = {tls:?}", endpoint.host, endpoint.port)?;
    match endpoint.relay {
        RelayMode::Transport => writeln!(f, "relay = \"transport\"")?,
        RelayMode::Inline { keep_copy } => writeln!(f, "relay = \"inline\"\nkeep_copy = {keep_copy}")?,
    }
    if let Some(Rejected { to, via }) = &endpoint.rejected {
        writeln!(f, "rejected_to = {:?}\nrejected_via = \"{via}\"", to.to_string())?;
    }
    if let Some(ca_file) = &endpoint.ca_file {
        writeln!(f, "ca_file = {ca_file:?}")?;
    }
    let sets: Vec<_> = endpoint
        .credentials
        .iter()
        .map(|set| format!("{{ username = {:?}, password_file = {:?} }}", set.username, set.password_file.path()))
        .collect();
    writeln!(f, "credentials = [{}]", sets.join(", "))?;
    writeln!(
        f,
        "max_connections = {}\ndeadline = {:?}",
        endpoint.max_connections,
        quantity::write_duration(endpoint.deadline)
    )
}
