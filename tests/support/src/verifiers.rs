//! What independent verifiers say about a message that arrived: OpenDKIM, dkimpy and mail-auth about its signatures, mail-auth and
//! OpenDMARC about DMARC.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::dkim::VerifySignature;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{AuthenticatedMessage, DkimResult, DmarcResult, MessageAuthenticator};
use serde_json::{Value, json};

use crate::process::{folder, run};
use crate::{Client, NameServer, fields};

const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers/verify.py");

/// A signature and what a verifier says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// Whether it is valid.
    pub valid: bool,
}

/// What the verifiers say of one message.
#[derive(Debug, Clone)]
pub struct Verdicts {
    /// OpenDKIM, run on the message.
    pub opendkim: Vec<Signature>,
    /// dkimpy.
    pub dkimpy: Vec<Signature>,
    /// mail-auth.
    pub mail_auth: Vec<Signature>,
    /// DMARC by mail-auth: `pass`, `none` or what went wrong.
    pub dmarc_mail_auth: String,
    /// DMARC by OpenDMARC, resting on dkimpy and pyspf.
    pub dmarc_opendmarc: String,
}

impl Verdicts {
    /// Judges `message`, that came with the envelope sender `sender` from `client`, CRLF line endings.
    ///
    /// # Panics
    /// When a verifier is missing or fails.
    pub fn of(message: &[u8], client: &Client, sender: &str, names: &NameServer) -> Self {
        let (mail_auth, dmarc_mail_auth) = by_mail_auth(message, client, sender, names.address());
        let (dkimpy, dmarc_opendmarc) = by_python(message, client, sender, names.address());
        let opendkim = by_opendkim(message, names.address());
        Self { opendkim, dkimpy, mail_auth, dmarc_mail_auth, dmarc_opendmarc }
    }

    /// Whether all three agree that there is at least one signature of this domain and selector, and that each is valid.
    pub fn all_valid(&self, domain: &str, selector: &str) -> bool {
        [&self.opendkim, &self.dkimpy, &self.mail_auth].into_iter().all(|signatures| {
            let mut ours = signatures.iter().filter(|s| s.domain == domain && s.selector == selector).peekable();
            ours.peek().is_some() && ours.all(|signature| signature.valid)
        })
    }

    /// Whether all three agree that there is no valid signature of this domain and selector.
    pub fn none_valid(&self, domain: &str, selector: &str) -> bool {
        [&self.opendkim, &self.dkimpy, &self.mail_auth]
            .into_iter()
            .all(|found| !found.iter().any(|s| s.domain == domain && s.selector == selector && s.valid))
    }

    /// Whether both agree that DMARC passes.
    pub fn dmarc_passes(&self) -> bool {
        self.dmarc_mail_auth == "pass" && self.dmarc_opendmarc == "pass"
    }
}

/// `opendkim -t`: the filter itself fed from a file. With `-vv` it prints the Authentication-Results that it would add.
fn by_opendkim(message: &[u8], names: SocketAddr) -> Vec<Signature> {
    let folder = folder("opendkim");
    let at = |name: &str| folder.path().join(name);
    // Debian's OpenDKIM asks by libunbound, which takes a name server's port from a configuration of its own.
    let unbound = format!(
        "server:\n  do-not-query-localhost: no\n  do-ip6: no\n  module-config: \"iterator\"\n\
         forward-zone:\n  name: \".\"\n  forward-addr: {}@{}\n",
        names.ip(),
        names.port()
    );
    // By default it looks at the first three signatures alone.
    let configuration = format!(
        "Mode v\nSyslog no\nAuthservID verifier\nMaximumSignaturesToVerify 20\nResolverConfiguration {}\n",
        at("unbound.conf").display()
    );
    fs::write(at("unbound.conf"), unbound).expect("unbound.conf");
    fs::write(at("opendkim.conf"), configuration).expect("opendkim.conf");
    fs::write(at("message"), message).expect("the message");
    let mut command = Command::new("opendkim");
    let told = run(command.arg("-vv").arg("-x").arg(at("opendkim.conf")).arg("-t").arg(at("message")));
    // One signature a line; a comment may hold a semicolon.
    let clauses = told.lines().filter_map(|line| line.trim_start().strip_prefix("dkim="));
    clauses
        .filter_map(|clause| {
            let property = |name: &str| clause.split_whitespace().find_map(|word| word.strip_prefix(name));
            Some(Signature {
                domain: property("header.d=")?.trim_end_matches(';').to_owned(),
                selector: property("header.s=")?.trim_end_matches(';').to_owned(),
                valid: clause.starts_with("pass "),
            })
        })
        .collect()
}

fn by_python(message: &[u8], client: &Client, sender: &str, names: SocketAddr) -> (Vec<Signature>, String) {
    let case =
        json!({ "message": STANDARD.encode(message), "client": client.ip, "helo": client.helo, "sender": sender });
    let task = json!({ "name_server": names.to_string(), "cases": [case] });
    let mut command = Command::new(PYTHON);
    command.args([SCRIPT, "verify"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{PYTHON}: {e}; run tests/peers/install.sh"));
    child.stdin.take().expect("a pipe").write_all(task.to_string().as_bytes()).expect("writing to python");
    let output = child.wait_with_output().expect("python's end");
    assert!(output.status.success(), "{SCRIPT}: {}", output.status);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON from verify.py");
    let results = answer[0]["dkim"].as_array().cloned().unwrap_or_default();
    let signatures = fields(message, "DKIM-Signature")
        .iter()
        .zip(results)
        .map(|(field, result)| Signature {
            domain: tag(field, "d"),
            selector: tag(field, "s"),
            valid: result.as_str() == Some("pass"),
        })
        .collect();
    (signatures, answer[0]["dmarc"].as_str().unwrap_or_default().to_owned())
}

fn tag(field: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(field).split_once(':').map(|(_, value)| value.to_owned()).unwrap_or_default();
    let tags = text.split(';').filter_map(|tag| tag.split_once('='));
    let found = tags.map(|(tag, value)| (tag.trim(), value)).find(|(tag, _)| *tag == name);
    found.map(|(_, value)| value.split_whitespace().collect()).unwrap_or_default()
}

fn by_mail_auth(message: &[u8], client: &Client, sender: &str, names: SocketAddr) -> (Vec<Signature>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut server = NameServerConfig::udp_and_tcp(names.ip());
        for connection in &mut server.connections {
            connection.port = names.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let authenticator = MessageAuthenticator::new(config, ResolverOpts::default()).expect("a resolver");
        let parsed = AuthenticatedMessage::parse(message).expect("a message that can be read");
        let dkim = authenticator.verify_dkim(&parsed).await;
        let signatures = dkim
            .iter()
            .filter_map(|output| {
                let signature = output.signature()?;
                Some(Signature {
                    domain: signature.domain().to_owned(),
                    selector: signature.selector().to_owned(),
                    valid: *output.result() == DkimResult::Pass,
                })
            })
            .collect();
        let domain = sender.rsplit_once('@').map_or(client.helo.as_str(), |(_, domain)| domain);
        let ip: IpAddr = client.ip;
        let from = if sender.is_empty() { format!("postmaster@{domain}") } else { sender.to_owned() };
        let spf = authenticator.verify_spf(SpfParameters::mail_from(ip, &client.helo, "verifier", &from)).await;
        let dmarc = authenticator.verify_dmarc(DmarcParameters::new(&parsed, &dkim, domain, &spf)).await;
        let aligned = [dmarc.dkim_result(), dmarc.spf_result()].contains(&&DmarcResult::Pass);
        let verdict =
            if aligned { "pass".to_owned() } else { format!("{:?} {:?}", dmarc.dkim_result(), dmarc.spf_result()) };
        (signatures, verdict)
    })
}
