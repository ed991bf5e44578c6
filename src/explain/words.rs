//! Log lines in words.

use super::Kept;
use crate::audit::own::Fields;

/// What a line of ours says.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) what: String,
    fields: Vec<(String, String)>,
}

impl Own {
    pub(super) fn of(line: &Kept) -> Self {
        for what in ["judged", "relay"] {
            if let Some(fields) = line.text.strip_prefix(what).and_then(|rest| rest.strip_prefix(' ')) {
                let fields = Fields(fields).all().map(|(key, value)| (key.to_owned(), value)).collect();
                return Self { what: what.to_owned(), fields };
            }
        }
        Self { what: line.text.to_string(), fields: Vec::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let value = self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty() && *value != "-")
    }

    fn or_dash(&self, key: &str) -> &str {
        self.get(key).unwrap_or("-")
    }

    /// `judged`, as sentences.
    pub(super) fn judged(&self) -> Vec<String> {
        let what = if self.get("observed").is_some() { "deskmilter only observed it" } else { "deskmilter judged it" };
        let mut told = vec![format!(
            "{what}: from {} to {}, {} octets, client {}{}{}",
            self.or_dash("from"),
            self.or_dash("to"),
            self.or_dash("size"),
            self.or_dash("client"),
            self.get("helo").map(|helo| format!(" ({helo})")).unwrap_or_default(),
            self.get("login").map(|login| format!(", logged in as {login}")).unwrap_or_default(),
        )];
        if let Some(connector) = self.get("notification") {
            told.push(format!("it is a notification of connector {connector}"));
        }
        match (self.get("connector"), self.get("domain")) {
            (Some(connector), _) => told.push(format!("it is for support addresses of connector {connector}")),
            (None, Some(domain)) => told.push(format!("it is for {domain}, for none of its support addresses")),
            (None, None) => {}
        }
        told.extend(self.get("auth").map(sender));
        if let Some(why) = self.get("spf") {
            told.push(format!("SPF was {why}"));
        }
        if let Some(path) = self.get("path") {
            told.push(format!("on the desk side: path {path}, tags {}", self.or_dash("tags")));
        }
        if let Some(count) = self.get("forged").filter(|count| *count != "0") {
            told.push(format!("{count} forged header fields were removed"));
        }
        let reply = self.get("reply").unwrap_or("no reply is in the log");
        if self.get("observed").is_some() {
            let decision = self.get("decision").unwrap_or_default();
            told.push(format!("nothing was done; without observe it would have been {decision}"));
            told.extend(self.get("reply").map(|reply| format!("its client would have been told: {reply}")));
            return told;
        }
        told.push(match self.get("decision").unwrap_or_default() {
            "tagged" => "it went on, tagged with that verdict".to_owned(),
            "passed" => "it went on; nothing of it is deskmilter's business".to_owned(),
            "signed" => format!("it went on, signed by {}", self.or_dash("signed")),
            "sealed" => "it went on, sealed for the pass after the content filter or on its last hop".to_owned(),
            "deferred" => format!("it was put off, and its client told: {reply}"),
            "refused" => format!("it was refused, and its client told: {reply}"),
            other => format!("the decision was: {other}"),
        });
        told
    }

    /// `relay`, as sentences.
    pub(super) fn relayed(&self) -> Vec<String> {
        let inline = self.get("note").is_some_and(|note| note.starts_with("inline"));
        let remote = match (self.get("system"), self.get("remote")) {
            (Some(system), Some(remote)) => format!("into the ticket system {system} at {remote}"),
            (Some(system), None) => format!("into the ticket system {system}"),
            (None, Some(remote)) => format!("at {remote}"),
            (None, None) => "nobody was contacted".to_owned(),
        };
        let tls = self.get("tls").map(|tls| format!(" over {tls}")).unwrap_or_default();
        let credential = self.get("credential").map(|name| format!(" with the credential {name}")).unwrap_or_default();
        let mut told = vec![format!(
            "deskmilter {} connector {} for {}, {remote}{tls}{credential}",
            if inline { "relayed it while it arrived, by" } else { "relayed it by" },
            self.or_dash("connector"),
            self.or_dash("to"),
        )];
        let reply = self.get("reply").unwrap_or("no reply is in the log");
        told.push(match self.get("decision").unwrap_or_default() {
            "relayed" => format!("it was taken: {reply}"),
            "deferred" => format!("it was put off: {reply}"),
            "refused" => format!("it was refused: {reply}"),
            "mixed" => format!("each recipient got another reply: {reply}"),
            other => format!("{other}: {reply}"),
        });
        if let Some(mailbox) = self.get("rejected_to") {
            told.push(format!("what was refused was handed to {mailbox} instead of a bounce"));
        }
        told
    }
}

/// `pass; reason=dmarc; dmarc=pass; spf=fail; dkim=pass; arc=none; from=a.example` in words.
fn sender(auth: &str) -> String {
    let mut words = auth.split("; ");
    let status = words.next().unwrap_or_default();
    let fields: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
    let get = |wanted: &str| fields.iter().find(|(key, _)| *key == wanted).map_or("-", |(_, value)| *value);
    let reason = match get("reason") {
        "dmarc" if status == "pass" => "the DMARC policy of the From domain is met".to_owned(),
        "dmarc" => "the From domain has a DMARC policy and this is not its mail".to_owned(),
        "dkim-aligned" => "a DKIM signature of the From domain is good".to_owned(),
        "spf-aligned" => "SPF says that the client sends for the From domain".to_owned(),
        "spf" => "SPF says that the client does not send for the From domain".to_owned(),
        "smtp-auth" => "the sender has logged in".to_owned(),
        "from-missing" => "there is no From".to_owned(),
        "from-ambiguous" => "the From field names several authors or is malformed".to_owned(),
        "dns-temporary" => "DNS did not answer, so nothing could be proven".to_owned(),
        "nothing-aligned" => "neither SPF nor DKIM says anything for the From domain".to_owned(),
        "too-large" => "it is larger than limits.message_size".to_owned(),
        "local-error" => "deskmilter had trouble of its own, see its log".to_owned(),
        "body-changed" => "its text was changed after it was judged".to_owned(),
        "not-judged" => "it came past the milter".to_owned(),
        other => other.to_owned(),
    };
    let status = match status {
        "pass" => "authenticated",
        "fail" => "not authenticated: failed",
        _ => "not authenticated: nothing proven",
    };
    let methods: Vec<String> = ["dmarc", "spf", "dkim", "arc"]
        .into_iter()
        .filter(|method| get(method) != "-")
        .map(|method| format!("{method}={}", get(method)))
        .collect();
    let methods =
        if methods.is_empty() { String::new() } else { format!(" ({}, From {})", methods.join(", "), get("from")) };
    format!("sender {status}, for {reason}{methods}")
}

/// What to do about a reply that keeps a message from getting on; `None` where it needs no more words.
pub(super) fn advice(reply: &str) -> Option<&'static str> {
    // Who speaks with its own words knows best, but these are ours (docs/architecture.md).
    let code = reply.split(' ').nth(1)?;
    if reply.contains(" said: ") {
        return Some(
            "the remote server asked to come again: the MTA does so by itself; if it goes on, ask its operator",
        );
    }
    Some(match code {
        "4.4.1" => "the remote server does not answer: is it up, and the way to it? The MTA tries again by itself",
        "4.4.2" => {
            "the connection broke or was too slow: the MTA tries again by itself; look at the remote server if it goes on"
        }
        "4.4.3" => "the name of the remote server has no address, or DNS does not answer: correct the one or the other",
        "4.7.5" => {
            "the remote server's certificate is not good: renew it there, or correct endpoint.ca_file or endpoint.host"
        }
        "4.7.4" => "the remote server offers no TLS or no AUTH on this port: correct endpoint.port and endpoint.tls",
        "4.7.8" => {
            "the remote server refuses the credentials: put the right password into the password file; it counts at once"
        }
        "4.7.0" => "the remote server objects to the session: its words say why",
        "4.5.0" => "the remote server does not speak SMTP as it should: ask its operator",
        "4.3.5" => "a setting is wrong: the reply names it; correct it and reload",
        "4.3.2" => {
            "too much at once: the MTA tries again by itself; raise the limit that the reply names if it goes on"
        }
        "4.3.1" => "the disk of the spool is full: make room in daemon.state_directory",
        "4.3.0" => "deskmilter had trouble of its own: look for ERROR in its log at that time",
        "5.3.4" => {
            "the message is larger than allowed: its sender knows; raise the limit that the reply names if it should pass"
        }
        "5.4.6" => "the message goes round in circles: an alias or forward of the ticket system leads back here",
        _ => return None,
    })
}
