//! The Dovecot authentication protocol, version 1, the server's side: lines in, lines and questions out. No I/O.
//!
//! <https://doc.dovecot.org/latest/core/plugins/auth_protocol.html>, as Postfix (`xsasl_dovecot_server.c`) and Exim
//! (`auths/dovecot.c`) speak it. Lines end in LF; fields are separated by tabs; `\001` escapes what cannot stand in a field.

use std::fmt::Write;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::mechanism::{Exchange, Step};
use crate::config::Secret;

/// Octets of a line at most, its ending included. Postfix and Exim send no more than 12,288 octets of a response.
pub(super) const LINE_MAX: usize = 16 * 1024;
/// Fields of a line at most: Dovecot's own clients send about twenty.
const FIELDS_MAX: usize = 64;
/// Exchanges under way on one connection at most. Postfix and Exim have one; but Postfix never says that it has given one up, so that
/// each client who hangs up in the middle leaves one behind, for as long as that smtpd lives. The oldest one gives way.
const EXCHANGES_MAX: usize = 16;
/// The version that we speak. The minor one tells of additions that need not be understood.
const MAJOR: &[u8] = b"1";

/// What to do next.
#[derive(Debug)]
pub(super) enum Action {
    /// Nothing.
    Wait,
    /// Send this line.
    Send(String),
    /// An attempt that fails before anybody is asked: send `reply`, and log the word for it.
    Refuse { reply: String, facts: Facts, reason: &'static str },
    /// Find out whether this is right; then [`accepted`] or [`refused`].
    Check(Attempt),
    /// It is not this protocol: close the connection, for this reason.
    Close(&'static str),
}

/// A complete login.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: u32,
    pub(super) user: String,
    pub(super) password: Secret,
    pub(super) facts: Facts,
}

/// What the MTA told of an attempt, for the log and the delays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) mechanism: &'static str,
    /// The client's address (`rip`).
    pub(super) client: Option<IpAddr>,
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Session {
    version_seen: bool,
    /// The oldest first.
    exchanges: Vec<(u32, Exchange, Facts)>,
}

/// What the server says before it has heard anything. The order matters: Postfix and Exim take an SPID before the first MECH for a
/// master connection, and Exim is silent until DONE.
pub(super) fn greeting(pid: u32, connection: u64, cookie: &[u8; 16]) -> String {
    let mut cookie_text = String::with_capacity(32);
    for octet in cookie {
        // A String takes all.
        let _ = write!(cookie_text, "{octet:02x}");
    }
    format!(
        "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t{pid}\nCUID\t{connection}\nCOOKIE\t{cookie_text}\nDONE\n"
    )
}

/// The login is right; `user` is the name that the MTA goes on with.
pub(super) fn accepted(id: u32, user: &str) -> String {
    format!("OK\t{id}\tuser={}\n", escaped(user))
}

/// It is not. The client learns only what `reason` says.
pub(super) fn refused(id: u32, reason: &str) -> String {
    format!("FAIL\t{id}\treason={}\n", escaped(reason))
}

/// What clients are told of a login that is wrong in whatever way.
pub(super) const WRONG: &str = "invalid user name or password";

impl Session {
    /// Takes one line without its ending.
    pub(super) fn receive(&mut self, line: &[u8]) -> Action {
        let mut fields = line.split(|&b| b == b'\t');
        let command = fields.next().unwrap_or_default();
        let fields: Vec<&[u8]> = fields.collect();
        if fields.len() > FIELDS_MAX {
            return Action::Close("a line with too many fields");
        }
        if !self.version_seen && command != b"VERSION" {
            return Action::Close("the first line is not VERSION");
        }
        match (command, fields.as_slice()) {
            (b"VERSION", [major, ..]) if *major == MAJOR => {
                self.version_seen = true;
                Action::Wait
            }
            (b"VERSION", _) => Action::Close("a version of the protocol that is not known"),
            (b"AUTH", [id, mechanism, parameters @ ..]) => match number(id) {
                Some(id) => self.begin(id, mechanism, parameters),
                None => Action::Close("AUTH without a number"),
            },
            (b"CONT", [id, response @ ..]) => match number(id) {
                Some(id) => self.go_on(id, response.first().copied().unwrap_or_default()),
                None => Action::Close("CONT without a number"),
            },
            (b"CANCEL", [id, ..]) => {
                let id = number(id);
                self.exchanges.retain(|(other, ..)| Some(*other) != id);
                Action::Wait
            }
            (b"AUTH" | b"CONT" | b"CANCEL", _) => Action::Close("a line with too few fields"),
            // CPID, and whatever later versions add.
            _ => Action::Wait,
        }
    }

    fn begin(&mut self, id: u32, mechanism: &[u8], parameters: &[&[u8]]) -> Action {
        let value = |name: &[u8]| {
            let mut values = parameters.iter().filter_map(|field| field.strip_prefix(name)?.strip_prefix(b"="));
            values.next()
        };
        let mut facts = Facts { mechanism: "unknown", client: value(b"rip").and_then(address) };
        let refuse =
            |facts: Facts, reason: &'static str, told: &str| Action::Refuse { reply: refused(id, told), facts, reason };
        if self.exchanges.iter().any(|(other, ..)| *other == id) {
            return Action::Close("a number that is in use");
        }
        let Some((exchange, challenge)) = Exchange::begin(mechanism) else {
            return refuse(facts, "mechanism-not-offered", "that mechanism is not offered; use PLAIN or LOGIN");
        };
        facts.mechanism = if matches!(exchange, Exchange::Plain) { "PLAIN" } else { "LOGIN" };
        // Before the response is looked at: what came in the clear is not taken for a password. `secured=tls` in later versions.
        if !parameters.iter().any(|field| *field == b"secured" || field.starts_with(b"secured=")) {
            return refuse(facts, "not-secured", "authentication needs TLS");
        }
        match value(b"resp") {
            // Exim sends an empty one where the client gave none.
            None | Some(b"") => self.ask(id, exchange, facts, challenge),
            Some(response) => self.respond(id, exchange, facts, response),
        }
    }

    fn go_on(&mut self, id: u32, response: &[u8]) -> Action {
        let Some(place) = self.exchanges.iter().position(|(other, ..)| *other == id) else {
            return Action::Close("CONT for an exchange that is not under way");
        };
        let (id, exchange, facts) = self.exchanges.remove(place);
        self.respond(id, exchange, facts, response)
    }

    fn respond(&mut self, id: u32, exchange: Exchange, facts: Facts, response: &[u8]) -> Action {
        let step = decoded(response).map_or(Step::Malformed, |response| exchange.respond(&response));
        match step {
            Step::Ask(exchange, challenge) => self.ask(id, exchange, facts, challenge),
            Step::Done { user, password } => Action::Check(Attempt { id, user, password, facts }),
            Step::Malformed => Action::Refuse { reply: refused(id, WRONG), facts, reason: "malformed" },
        }
    }

    fn ask(&mut self, id: u32, exchange: Exchange, facts: Facts, challenge: &str) -> Action {
        if self.exchanges.len() >= EXCHANGES_MAX {
            self.exchanges.remove(0);
        }
        self.exchanges.push((id, exchange, facts));
        // The tab stays before an empty challenge: Postfix looks for it.
        Action::Send(format!("CONT\t{id}\t{}\n", STANDARD.encode(challenge)))
    }
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn address(field: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn decoded(response: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(response).ok().map(Zeroizing::new)
}

/// A value as it stands in a field.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\x01' => escaped.push_str("\x011"),
            '\0' => escaped.push_str("\x010"),
            '\t' => escaped.push_str("\x01t"),
            '\r' => escaped.push_str("\x01r"),
            '\n' => escaped.push_str("\x01n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn session() -> Session {
        let mut session = Session::default();
        assert!(matches!(session.receive(b"VERSION\t1\t0"), Action::Wait));
        assert!(matches!(session.receive(b"CPID\t4711"), Action::Wait));
        session
    }

    fn told(action: Action) -> String {
        match action {
            Action::Wait => "wait".to_owned(),
            Action::Send(line) => line,
            Action::Refuse { reply, reason, .. } => format!("{reason}: {reply}"),
            Action::Check(Attempt { id, user, password, facts }) => {
                let password = String::from_utf8_lossy(password.expose()).into_owned();
                let client = facts.client.map(|client| client.to_string()).unwrap_or_default();
                format!("check {id} {user} {password} {} {client}", facts.mechanism)
            }
            Action::Close(reason) => format!("close: {reason}"),
        }
    }

    fn say(session: &mut Session, line: &str) -> String {
        told(session.receive(line.as_bytes()))
    }

    #[test]
    fn the_greeting_stands_in_the_order_that_postfix_and_exim_need() {
        let greeting = greeting(12, 34, &[0xab; 16]);
        assert_eq!(
            greeting,
            format!(
                "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t12\nCUID\t34\nCOOKIE\t{}\nDONE\n",
                "ab".repeat(16)
            )
        );
    }

    #[test]
    fn plain_as_postfix_says_it() {
        let mut session = session();
        let line =
            "AUTH\t1\tPLAIN\tservice=smtp\tnologin\tlip=192.0.2.2\trip=198.51.100.7\tsecured\tresp=AGFjbWUAczNjcmV0";
        assert_eq!(say(&mut session, line), "check 1 acme s3cret PLAIN 198.51.100.7");
        // Without an initial response, and with an empty one as Exim sends it.
        for (id, end) in [(2, ""), (3, "\tresp=")] {
            assert_eq!(say(&mut session, &format!("AUTH\t{id}\tplain\tsecured{end}")), format!("CONT\t{id}\t\n"));
            assert_eq!(
                say(&mut session, &format!("CONT\t{id}\tAGFjbWUAczNjcmV0")),
                format!("check {id} acme s3cret PLAIN ")
            );
        }
    }

    #[test]
    fn login_in_two_steps_or_with_the_name_at_once_and_several_at_a_time() {
        let mut session = session();
        assert_eq!(say(&mut session, "AUTH\t1\tLOGIN\tsecured\trip=2001:db8::1"), "CONT\t1\tVXNlcm5hbWU6\n");
        assert_eq!(say(&mut session, "AUTH\t2\tLOGIN\tsecured\tresp=YWNtZQ=="), "CONT\t2\tUGFzc3dvcmQ6\n");
        assert_eq!(say(&mut session, "CONT\t1\tYWNtZQ=="), "CONT\t1\tUGFzc3dvcmQ6\n");
        assert_eq!(say(&mut session, "CONT\t2\tdHdv"), "check 2 acme two LOGIN ");
        assert_eq!(say(&mut session, "CONT\t1\tb25l"), "check 1 acme one LOGIN 2001:db8::1");
        assert_eq!(say(&mut session, "CONT\t1\tb25l"), "close: CONT for an exchange that is not under way");
    }

    #[test]
    fn what_came_in_the_clear_is_refused_before_it_is_read() {
        let reply = "not-secured: FAIL\t1\treason=authentication needs TLS\n";
        assert_eq!(say(&mut session(), "AUTH\t1\tPLAIN\tservice=smtp\tresp=AGFjbWUAczNjcmV0"), reply);
        assert_eq!(say(&mut session(), "AUTH\t1\tLOGIN\tservice=smtp\tunsecured\tnot=secured"), reply);
        assert!(say(&mut session(), "AUTH\t1\tPLAIN\tsecured=tls\tresp=AGFjbWUAczNjcmV0").starts_with("check"));
    }

    #[test]
    fn what_is_no_login_fails_without_a_word_why() {
        for line in [
            "PLAIN\tsecured\tresp=!!",
            "PLAIN\tsecured\tresp=YWNtZQ==",
            "LOGIN\tsecured\tresp=AA==",
            "LOGIN\tsecured\tresp==",
        ] {
            assert_eq!(
                say(&mut session(), &format!("AUTH\t1\t{line}")),
                "malformed: FAIL\t1\treason=invalid user name or password\n"
            );
        }
        assert!(say(&mut session(), "AUTH\t1\tCRAM-MD5\tsecured").starts_with("mechanism-not-offered: FAIL\t1\t"));
    }

    #[test]
    fn another_protocol_is_not_answered() {
        for first in ["AUTH\t1\tPLAIN\tsecured", "VERSION\t2\t0", "VERSION", "GET / HTTP/1.1", ""] {
            assert!(say(&mut Session::default(), first).starts_with("close"), "{first}");
        }
        let mut session = session();
        for line in ["AUTH", "AUTH\t1", "CONT", "AUTH\t-1\tPLAIN", "AUTH\t99999999999\tPLAIN\tsecured", "CONT\t9\tx"] {
            assert!(say(&mut session, line).starts_with("close"), "{line}");
        }
        assert!(say(&mut session, &format!("AUTH\t1\tPLAIN{}", "\tx".repeat(FIELDS_MAX))).starts_with("close"));
        assert_eq!(say(&mut session, "SOMETHING\tnew"), "wait");
    }

    #[test]
    fn exchanges_that_clients_gave_up_are_bounded_and_keep_nobody_from_logging_in() {
        let mut session = session();
        for id in 1..=EXCHANGES_MAX + 1 {
            assert!(say(&mut session, &format!("AUTH\t{id}\tLOGIN\tsecured")).starts_with("CONT"));
        }
        assert_eq!(session.exchanges.len(), EXCHANGES_MAX);
        assert_eq!(say(&mut session, "AUTH\t99\tPLAIN\tsecured\tresp=AGFjbWUAczNjcmV0"), "check 99 acme s3cret PLAIN ");
        assert!(say(&mut session, "AUTH\t2\tPLAIN\tsecured").starts_with("close"), "in use");
        assert_eq!(say(&mut session, "CANCEL\t2"), "wait");
        assert!(say(&mut session, "AUTH\t2\tPLAIN\tsecured").starts_with("CONT"));
        // The youngest is the one that a client is at.
        assert_eq!(say(&mut session, "CONT\t2\tAGFjbWUAczNjcmV0"), "check 2 acme s3cret PLAIN ");
        assert_eq!(say(&mut session, "CONT\t1\tYWNtZQ=="), "close: CONT for an exchange that is not under way");
    }

    #[test]
    fn nothing_in_a_name_breaks_out_of_its_field() {
        assert_eq!(accepted(1, "a\tb\nc\x01d\re\0"), "OK\t1\tuser=a\x01tb\x01nc\x011d\x01re\x010\n");
    }

    proptest! {
        #[test]
        fn no_octets_make_a_session_panic_or_say_more_than_a_line(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)
        ) {
            let mut session = session();
            for line in lines {
                if let Action::Send(reply) | Action::Refuse { reply, .. } = session.receive(&line) {
                    prop_assert!(reply.ends_with('\n') && reply.matches('\n').count() == 1);
                }
            }
        }
    }
}
