//! Faults of the endpoint and of the way to it.

use std::time::Duration;

use support::endpoint::Action::{self, Endless, Hang, Late, SayAndClose, TakeAndClose};
use support::endpoint::{Certificate, Rule, Script};

use crate::cell::{Cell, later, never, ticket};
use crate::fault::{Trouble, certificate, close, faults, offers, on, say};

/// Well within the endpoint's deadline of 8 s, and well beyond it.
const IN_TIME: Action = Late(Duration::from_millis(500));
const TOO_LATE: Action = Late(Duration::from_secs(12));

fn down() -> Trouble {
    Script { down: true, ..Script::default() }.into()
}

fn slow() -> Trouble {
    let rules = ["GREETING", "AUTH", "MAIL", "DATA", "DOT"].map(|on| Rule { on, connection: None, action: IN_TIME });
    Script { rules: rules.to_vec(), ..Script::default() }.into()
}

fn large(trouble: Trouble) -> Trouble {
    Trouble { large: true, ..trouble }
}

/// The ticket is there already, though nobody was told.
fn taken(cell: Cell) -> Cell {
    Cell { tickets: 1, ..cell }
}

faults! {
    // There or not, and how fast.
    down (transport, inline): "nobody listens there", down(),
        later("451 4.4.1 … cannot connect") => "start it, or ask its administrator; `nc -vz HOST 587`";
    slow (transport, inline): "every answer late, but in time", slow(),
        ticket() => "nothing";
    silent (transport, inline): "no greeting", on("GREETING", Hang),
        later("451 4.4.2 … timed out (waiting for the greeting)") => "a firewall, or an endpoint under load";
    silent_at_data (transport, inline): "no answer to DATA", on("DATA", Hang),
        later("451 4.4.2 … timed out (DATA)") => "an endpoint under load";
    too_late (transport, inline): "takes the message, and answers after `endpoint.deadline`", on("DOT", TOO_LATE),
        later("451 4.4.2 … timed out (waiting for the reply to the message)").each(taken).in_the_end(2)
        => "raise `endpoint.deadline` (inline, 120 s at most count); merge the two tickets";

    // Lost connections.
    drops_at_connect (transport, inline): "closes instead of a greeting", close("GREETING"),
        later("451 4.4.2 … lost connection (waiting for the greeting)") => "does it allow this host's address?";
    drops_at_ehlo (transport, inline): "closes at EHLO in plain text", close("PLAIN EHLO"),
        later("451 4.4.2 … lost connection (EHLO)") => "its log may say why";
    drops_at_starttls (transport, inline): "closes at STARTTLS", close("STARTTLS"),
        later("451 4.4.2 … lost connection (STARTTLS)") => "its log may say why";
    drops_at_handshake (transport, inline): "closes in the TLS handshake", close("HANDSHAKE"),
        later("451 4.7.5 … no trusted TLS connection") => "does it offer TLS 1.2 or 1.3?";
    drops_at_ehlo_in_tls (transport, inline): "closes at EHLO inside TLS", close("EHLO"),
        later("451 4.4.2 … lost connection (EHLO)") => "its log may say why";
    drops_at_auth (transport, inline): "closes at AUTH", close("AUTH"),
        later("451 4.4.2 … lost connection (AUTH)") => "its log may say why";
    drops_at_mail (transport, inline): "closes at MAIL", close("MAIL"),
        later("451 4.4.2 … lost connection (MAIL FROM)") => "its log may say why";
    drops_at_rcpt (transport, inline): "closes at RCPT", close("RCPT"),
        later("451 4.4.2 … lost connection (RCPT TO)") => "its log may say why";
    drops_at_data (transport, inline): "closes at DATA", close("DATA"),
        later("451 4.4.2 … lost connection (DATA)") => "its log may say why";
    drops_in_the_message (transport, inline): "closes amid the message", large(close("CONTENT")),
        later("451 4.4.2 … lost connection") => "its log may say why";
    drops_after_the_dot (transport, inline): "closes after the final dot, and has not taken it", close("DOT"),
        later("451 4.4.2 … unknown whether it was taken") => "its log may say why";
    drops_having_taken (transport, inline): "closes after the final dot, and has taken it", on("DOT", TakeAndClose),
        later("451 4.4.2 … unknown whether it was taken").each(taken).in_the_end(2)
        => "merge the two tickets; both have the same Message-ID";
    drops_at_quit (transport, inline): "closes at QUIT", close("QUIT"),
        ticket() => "nothing";

    // Nonsense.
    speaks_http (transport, inline): "speaks HTTP", say("GREETING", "HTTP/1.1 400 Bad Request\r\n"),
        later("451 4.5.0 … nonsense") => "compare `endpoint.port`; port 465 wants `tls = \"implicit\"`";
    endless_reply (transport, inline): "a reply without an end", on("EHLO", Endless),
        later("451 4.5.0 … nonsense (EHLO)") => "not an SMTP server";
    nonsense_in_the_handshake (transport, inline): "plain text instead of a TLS handshake", say("HANDSHAKE", "what?\r\n"),
        later("451 4.7.5 … no trusted TLS connection") => "not a TLS server";
    nonsense_at_rcpt (transport, inline): "354 to RCPT", say("RCPT", "354 what?\r\n"),
        later("451 4.5.0 … RCPT TO") => "not an SMTP server";
    nonsense_after_the_dot (transport, inline): "nonsense after the final dot", say("DOT", "what?\r\n"),
        later("451 4.5.0 … nonsense") => "its log may say whether it took the message";
}

/// TLS and login.
pub mod secure {
    use super::*;

    faults! {
        starttls_stripped (transport, inline): "STARTTLS is not offered",
            Script { plain: vec![], ..Script::default() }.into(),
            later("451 4.7.4 … does not offer STARTTLS") => "wrong port, or somebody strips it; nothing is sent in plain text";
        injection (transport, inline): "plain text after the reply to STARTTLS",
            say("STARTTLS", "220 go\r\n250-endpoint\r\n250 AUTH PLAIN\r\n235 ok\r\n"),
            later("451 4.7.5 … somebody may be tampering") => "find out who; do not work around it";
        wrong_name (transport, inline): "certificate of another name", certificate(Certificate::OtherName),
            later("451 4.7.5 … not valid for the name localhost") => "`endpoint.host` is the name that came with the credentials";
        expired (transport, inline): "certificate expired", certificate(Certificate::Expired),
            later("451 4.7.5 … certificate expired") => "its administrator renews it; compare this host's clock";
        not_yet_valid (transport, inline): "certificate not valid yet", certificate(Certificate::NotYet),
            later("451 4.7.5 … certificate not valid yet") => "compare this host's clock";
        self_signed (transport, inline): "self-signed certificate", certificate(Certificate::SelfSigned),
            later("451 4.7.5 … self-signed or from an unknown issuer") => "a private authority belongs into `endpoint.ca_file`";
        unknown_authority (transport, inline): "certificate of an unknown authority", certificate(Certificate::OtherCa),
            later("451 4.7.5 … unknown issuer") => "`endpoint.ca_file`, or the package `ca-certificates`";
        starttls_4xx (transport, inline): "4xx to STARTTLS", say("STARTTLS", "454 4.7.0 no key\r\n"),
            later("454 4.7.0 … said: no key") => "its administrator";
        starttls_5xx (transport, inline): "5xx to STARTTLS", say("STARTTLS", "501 5.5.4 no\r\n"),
            later("451 4.5.0 … (STARTTLS)") => "its administrator";
        auth_not_offered (transport, inline): "AUTH is not offered", offers(&["PIPELINING"]),
            later("451 4.7.4 … neither AUTH PLAIN nor AUTH LOGIN") => "not the authenticated endpoint: compare host and port";
        auth_of_another_kind (transport, inline): "only mechanisms that we do not speak", offers(&["AUTH GSSAPI"]),
            later("451 4.7.4 … neither AUTH PLAIN nor AUTH LOGIN") => "ask for AUTH PLAIN";
        auth_4xx (transport, inline): "4xx to AUTH", say("AUTH", "454 4.7.0 directory down\r\n"),
            later("454 4.7.0 … said: directory down") => "its administrator";
        auth_refused (transport, inline): "user name or password refused",
            Script { passwords: vec![], ..Script::default() }.into(),
            later("451 4.7.8 … refused the credentials of acme.example") => "write the new password into its file";
        login_wanted (transport, inline): "530 to MAIL after a good login", say("MAIL", "530 5.7.0 authenticate first\r\n"),
            later("451 4.7.0 … authenticate first") => "its administrator";
    }
}

/// What it says of us and of the message.
pub mod verdict {
    use super::*;

    faults! {
        greeting_4xx (transport, inline): "421 instead of a greeting", on("GREETING", SayAndClose("421 4.3.2 busy\r\n")),
            later("451 4.3.2 … said: busy") => "wait";
        greeting_5xx (transport, inline): "554 instead of a greeting", say("GREETING", "554 5.7.1 not you\r\n"),
            later("451 4.7.0 … refused our session … not you") => "does it allow this host's address?";
        ehlo_4xx (transport, inline): "4xx to EHLO", say("EHLO", "451 4.3.0 later\r\n"),
            later("451 4.3.0 … said: later") => "wait";
        ehlo_5xx (transport, inline): "5xx to EHLO", say("EHLO", "550 5.7.1 no such host\r\n"),
            later("451 4.7.0 … no such host") => "does it like `daemon.hostname`?";
        mail_4xx (transport, inline): "4xx to MAIL", say("MAIL", "451 4.3.0 come later\r\n"),
            later("451 4.3.0 … come later") => "wait";
        mail_421 (transport, inline): "421 to MAIL, and closes", on("MAIL", SayAndClose("421 4.3.2 bye\r\n")),
            later("451 4.3.2 … said: bye") => "wait";
        mail_5xx (transport, inline): "5xx to MAIL", say("MAIL", "550 5.7.1 sender unwanted\r\n"),
            never("550 5.7.1 … sender unwanted") => "talk to the ticket system; `rejected_to` keeps such mail";
        rcpt_4xx (transport, inline): "4xx to RCPT", say("RCPT", "450 4.2.1 mailbox busy\r\n"),
            later("450 4.2.1 … mailbox busy") => "wait";
        rcpt_5xx (transport, inline): "5xx to RCPT", say("RCPT", "550 5.1.1 no such ticket queue\r\n"),
            never("550 5.1.1 … no such ticket queue") => "does the ticket system know the address?";
        data_4xx (transport, inline): "4xx to DATA", say("DATA", "451 4.3.0 not now\r\n"),
            later("451 4.3.0 … not now") => "wait";
        data_5xx (transport, inline): "5xx to DATA", say("DATA", "554 5.7.1 policy\r\n"),
            never("554 5.7.1 … policy") => "talk to the ticket system";
        data_out_of_order (transport, inline): "503 to DATA: a quarrel with us", say("DATA", "503 5.5.1 no\r\n"),
            later("451 4.5.0 … DATA") => "report it";
        message_4xx (transport, inline): "4xx to the message", say("DOT", "452 4.3.1 disk full\r\n"),
            later("452 4.3.1 … disk full") => "wait; its administrator";
        message_421 (transport, inline): "421 to the message, and closes", on("DOT", SayAndClose("421 4.3.2 down\r\n")),
            later("451 4.3.2 … said: down") => "wait";
        message_5xx (transport, inline): "5xx to the message", say("DOT", "554 5.6.0 no thanks\r\n"),
            never("554 5.6.0 … no thanks") => "talk to the ticket system";
        message_5xx_in_lines (transport, inline): "5xx in several lines",
            say("DOT", "554-5.6.0 no thanks\r\n554 5.6.0 100% sure\r\n"),
            never("554 … no thanks … 100% sure") => "talk to the ticket system";
        message_5xx_bare (transport, inline): "5xx without an enhanced code", say("DOT", "554 just no\r\n"),
            never("554 … just no") => "talk to the ticket system";
        message_5xx_of_two_minds (transport, inline): "5xx with an enhanced code 4.x.x", say("DOT", "554 4.2.0 what now\r\n"),
            never("554 … what now") => "talk to the ticket system: the first digit counts";
        size_exceeded (transport, inline): "SIZE smaller than the message", offers(&["AUTH PLAIN", "SIZE 100"]),
            never("552 5.3.4 … at most 100 octets") => "lower Postfix's `message_size_limit`: then senders are told at once";
    }
}
