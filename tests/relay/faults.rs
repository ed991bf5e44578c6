//! What becomes of a message when the ticket endpoint, the network or the configuration misbehaves: the reply for each
//! recipient, the tickets that came to be, and that no credential ever left in plain text.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::site::{Site, mail, short};
use deskmilter::relay::Bounds;
use support::endpoint::{Action, Certificate, Endpoint, Rule, Script};

/// Expected: code and enhanced code, and words of the text, for each of two recipients; and the number of tickets.
struct Row {
    what: &'static str,
    script: Script,
    expected: [(&'static str, &'static str); 2],
    tickets: usize,
}

fn rule(on: &'static str, action: Action) -> Script {
    Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() }
}

fn say(on: &'static str, text: &'static str) -> Script {
    rule(on, Action::Say(text))
}

fn both(what: &'static str, script: Script, code: &'static str, words: &'static str) -> Row {
    Row { what, script, expected: [(code, words); 2], tickets: 0 }
}

fn without_pipelining(mut script: Script) -> Script {
    script.secure.retain(|extension| *extension != "PIPELINING");
    script
}

fn certificate(certificate: Certificate) -> Script {
    Script { certificate, ..Script::default() }
}

fn rows() -> Vec<Row> {
    use Action::{Close, Endless, Hang, Say, SayAndClose, Trickle};
    let taken = ("250 2.0.0", "said: ticket 4711");
    vec![
        // Before TLS.
        both("greeting 421", rule("GREETING", SayAndClose("421 4.3.2 busy\r\n")), "451 4.3.2", "said: busy"),
        both("greeting 554", say("GREETING", "554 5.7.1 not you\r\n"), "451 4.7.0", "refused our session"),
        both("no SMTP at all", say("GREETING", "HTTP/1.1 400 Bad Request\r\n"), "451 4.5.0", "nonsense"),
        both("silence", rule("GREETING", Hang), "451 4.4.2", "timed out (waiting for the greeting)"),
        both("closed at once", rule("GREETING", Close), "451 4.4.2", "lost connection"),
        both("endless line", rule("GREETING", Endless), "451 4.5.0", "longer than 2048"),
        both("trickle", rule("GREETING", Trickle), "451 4.4.2", "timed out"),
        both("EHLO 502", say("PLAIN EHLO", "502 5.5.1 what?\r\n"), "451 4.5.0", "EHLO"),
        both("STARTTLS stripped", Script { plain: vec![], ..Script::default() }, "451 4.7.4", "STARTTLS"),
        both("STARTTLS 454", say("STARTTLS", "454 4.7.0 no key\r\n"), "454 4.7.0", "said: no key"),
        both("STARTTLS 501", say("STARTTLS", "501 5.5.4 no\r\n"), "451 4.5.0", "STARTTLS"),
        both(
            "plain text injected after STARTTLS",
            say("STARTTLS", "220 go\r\n250-endpoint\r\n250 AUTH PLAIN\r\n235 ok\r\n"),
            "451 4.7.5",
            "tampering",
        ),
        both("STARTTLS hangs", rule("STARTTLS", Hang), "451 4.4.2", "STARTTLS"),
        // TLS.
        both("handshake garbage", say("HANDSHAKE", "554 what?\r\n"), "451 4.7.5", "TLS"),
        both("handshake hangs", rule("HANDSHAKE", Hang), "451 4.4.2", "TLS handshake"),
        both("handshake closed", rule("HANDSHAKE", Close), "451 4.7.5", "no trusted TLS"),
        both("expired", certificate(Certificate::Expired), "451 4.7.5", "certificate expired"),
        both("not yet valid", certificate(Certificate::NotYet), "451 4.7.5", "not valid yet"),
        both("other name", certificate(Certificate::OtherName), "451 4.7.5", "not valid for the name localhost"),
        both("self-signed", certificate(Certificate::SelfSigned), "451 4.7.5", "self-signed or from an unknown issuer"),
        both("unknown CA", certificate(Certificate::OtherCa), "451 4.7.5", "self-signed or from an unknown issuer"),
        both(
            "implicit TLS, unknown CA",
            Script { implicit: true, ..certificate(Certificate::OtherCa) },
            "451 4.7.5",
            "unknown issuer",
        ),
        // Inside TLS, before MAIL.
        both("EHLO 421", say("EHLO", "421 4.3.0 later\r\n"), "451 4.3.0", "said: later"),
        both("no AUTH", Script { secure: vec!["PIPELINING"], ..Script::default() }, "451 4.7.4", "AUTH"),
        both(
            "only an unknown mechanism",
            Script { secure: vec!["AUTH GSSAPI"], ..Script::default() },
            "451 4.7.4",
            "neither AUTH PLAIN nor AUTH LOGIN",
        ),
        both(
            "password refused",
            Script { passwords: vec![], ..Script::default() },
            "451 4.7.8",
            "refused the credentials of acme.example",
        ),
        both("AUTH 454", say("AUTH", "454 4.7.0 directory down\r\n"), "454 4.7.0", "said: directory down"),
        both("AUTH challenge instead of an end", say("AUTH", "334 more?\r\n"), "451 4.5.0", "AUTH"),
        both("AUTH 250", say("AUTH", "250 hm\r\n"), "451 4.5.0", "AUTH"),
        both("AUTH closed", rule("AUTH", Close), "451 4.4.2", "AUTH"),
        // MAIL and RCPT.
        both("MAIL 550", say("MAIL", "550 5.7.1 no such sender\r\n"), "550 5.7.1", "said: no such sender"),
        both("MAIL 451", say("MAIL", "451 4.3.0 later\r\n"), "451 4.3.0", "said: later"),
        both("MAIL 530", say("MAIL", "530 5.7.0 authenticate first\r\n"), "451 4.7.0", "authenticate first"),
        both("MAIL 550 about the login", say("MAIL", "550 5.7.8 log in anew\r\n"), "451 4.7.0", "refused our session"),
        both("DATA 554 about TLS", say("DATA", "554 5.7.10 encryption needed\r\n"), "451 4.7.0", "refused our session"),
        both("MAIL 550 about the sender", say("MAIL", "550 5.7.1 not you\r\n"), "550 5.7.1", "not you"),
        both("MAIL 535", say("MAIL", "535 5.7.8 who?\r\n"), "451 4.7.0", "refused our session"),
        both("MAIL 503", say("MAIL", "503 5.5.1 not now\r\n"), "451 4.5.0", "not now"),
        both("MAIL 501 for the address", say("MAIL", "501 5.1.7 bad sender\r\n"), "501 5.1.7", "said: bad sender"),
        both("MAIL 354", say("MAIL", "354 what\r\n"), "451 4.5.0", "out of place"),
        both("MAIL 421", rule("MAIL", SayAndClose("421 4.4.5 too busy\r\n")), "451 4.4.5", "said: too busy"),
        both("MAIL, several lines", say("MAIL", "550-5.7.1 a\r\n550 5.7.1 b\r\n"), "550 5.7.1", "said: a b"),
        both("MAIL, codes differ", say("MAIL", "250-a\r\n550 b\r\n"), "451 4.5.0", "differ"),
        both("MAIL without text", say("MAIL", "550\r\n"), "550", "said:"),
        both("MAIL hangs", rule("MAIL", Hang), "451 4.4.2", "timed out"),
        Row {
            what: "one RCPT 550",
            script: say("RCPT TO:<a@", "550 5.1.1 no such user\r\n"),
            expected: [("550 5.1.1", "said: no such user"), taken],
            tickets: 1,
        },
        Row {
            what: "one RCPT 550 without pipelining",
            script: without_pipelining(say("RCPT TO:<b@", "550 5.1.1 no such user\r\n")),
            expected: [taken, ("550 5.1.1", "no such user")],
            tickets: 1,
        },
        Row {
            what: "one RCPT 452",
            script: say("RCPT TO:<b@", "452 4.5.3 too many\r\n"),
            expected: [taken, ("452 4.5.3", "said: too many")],
            tickets: 1,
        },
        Row {
            what: "one RCPT too many, as for good",
            script: say("RCPT TO:<b@", "552 5.5.3 too many recipients\r\n"),
            expected: [taken, ("452 4.5.3", "said: 552 5.5.3 too many")],
            tickets: 1,
        },
        Row {
            what: "one RCPT too many, by the book of 1982",
            script: without_pipelining(say("RCPT TO:<b@", "552 Too many recipients\r\n")),
            expected: [taken, ("452 4.5.3", "said: 552 Too many")],
            tickets: 1,
        },
        both("each RCPT too many", say("RCPT", "552 5.5.3 too many recipients\r\n"), "552 5.5.3", "said: too many"),
        Row {
            what: "one RCPT over its quota",
            script: say("RCPT TO:<b@", "552 5.2.2 mailbox full\r\n"),
            expected: [taken, ("552 5.2.2", "said: mailbox full")],
            tickets: 1,
        },
        Row {
            what: "one RCPT 501",
            script: say("RCPT TO:<b@", "501 what?\r\n"),
            expected: [taken, ("451 4.5.0", "what?")],
            tickets: 1,
        },
        Row {
            what: "RCPT 550, then the connection is lost",
            script: Script {
                rules: vec![
                    Rule { on: "RCPT TO:<a@", connection: None, action: Say("550 5.1.1 no\r\n") },
                    Rule { on: "RCPT TO:<b@", connection: None, action: Close },
                ],
                ..Script::default()
            },
            expected: [("550 5.1.1", "no"), ("451 4.4.2", "lost connection")],
            tickets: 0,
        },
        both("all RCPT 550", say("RCPT", "550 5.1.1 nobody\r\n"), "550 5.1.1", "said: nobody"),
        both(
            "all RCPT 550, step by step",
            without_pipelining(say("RCPT", "550 5.1.1 nobody\r\n")),
            "550 5.1.1",
            "nobody",
        ),
        both("RCPT 421", rule("RCPT TO:<a@", SayAndClose("421 4.3.2 bye\r\n")), "451 4.3.2", "said: bye"),
        both("RCPT 354", say("RCPT", "354 what\r\n"), "451 4.5.0", "out of place"),
        // DATA and the message.
        both("DATA 554", say("DATA", "554 5.7.1 policy\r\n"), "554 5.7.1", "said: policy"),
        both("DATA 451", without_pipelining(say("DATA", "451 4.3.1 full\r\n")), "451 4.3.1", "said: full"),
        both("DATA 250", say("DATA", "250 what\r\n"), "451 4.5.0", "out of place"),
        both("DATA 503", say("DATA", "503 5.5.1 no\r\n"), "451 4.5.0", "DATA"),
        both("DATA hangs", rule("DATA", Hang), "451 4.4.2", "timed out"),
        both("DATA and a reply too many", say("DATA", "354 go\r\n250 taken\r\n"), "451 4.5.0", "nobody asked for"),
        both("lost in the message", rule("CONTENT", Close), "451 4.4.2", "lost connection"),
        both("lost after the dot", rule("DOT", Close), "451 4.4.2", "unknown whether it was taken"),
        both("no reply to the dot", rule("DOT", Hang), "451 4.4.2", "waiting for the reply to the message"),
        both("garbage after the dot", say("DOT", "ok thanks\r\n"), "451 4.5.0", "nonsense"),
        both("354 after the dot", say("DOT", "354 more\r\n"), "451 4.5.0", "out of place"),
        both("421 after the dot", say("DOT", "421 4.3.2 down\r\n"), "451 4.3.2", "said: down"),
        both("451 after the dot", say("DOT", "451 4.7.1 greylisted\r\n"), "451 4.7.1", "said: greylisted"),
        both("552 after the dot", say("DOT", "552 5.2.2 quota\r\n"), "552 5.2.2", "said: quota"),
        both("554 after the dot", say("DOT", "554 5.6.0 no\r\n"), "554 5.6.0", "said: no"),
        both("530 after the dot", say("DOT", "530 5.7.0 log in\r\n"), "451 4.7.0", "log in"),
        both(
            "larger than SIZE",
            Script { secure: vec!["SIZE 10", "AUTH PLAIN"], ..Script::default() },
            "552 5.3.4",
            "at most 10 octets",
        ),
        // Where all goes well after all.
        Row {
            what: "slow",
            script: rule("DOT", Action::Late(Duration::from_millis(200))),
            expected: [taken; 2],
            tickets: 1,
        },
        Row {
            what: "AUTH LOGIN alone",
            script: Script { secure: vec!["AUTH LOGIN"], ..Script::default() },
            expected: [taken; 2],
            tickets: 1,
        },
        Row {
            what: "implicit TLS",
            script: Script { implicit: true, ..Script::default() },
            expected: [taken; 2],
            tickets: 1,
        },
        Row {
            what: "TLS 1.2",
            script: Script { tls12_only: true, ..Script::default() },
            expected: [taken; 2],
            tickets: 1,
        },
        Row {
            what: "no extension but AUTH",
            script: Script { secure: vec!["AUTH PLAIN"], ..Script::default() },
            expected: [taken; 2],
            tickets: 1,
        },
        Row {
            what: "SIZE without a limit",
            script: Script { secure: vec!["SIZE 0", "AUTH PLAIN"], ..Script::default() },
            expected: [taken; 2],
            tickets: 1,
        },
    ]
}

#[tokio::test]
async fn every_fault_of_the_endpoint_has_its_reply_and_no_credential_leaves_in_plain_text() {
    let mut trials: JoinSet<Vec<String>> = rows().into_iter().map(try_out).collect();
    let mut wrong = Vec::new();
    while let Some(trial) = trials.join_next().await {
        wrong.extend(trial.unwrap());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a row; returns what is not as it should be.
async fn try_out(row: Row) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str, found: &dyn std::fmt::Debug| {
        if !holds {
            wrong.push(format!("{}: {what}: {found:?}", row.what));
        }
    };
    let implicit = row.script.implicit;
    let endpoint = Endpoint::start(row.script).await;
    let site = Site::new(&endpoint).implicit(implicit);
    let message = mail(&["a@acme.example", "b@acme.example"], b"A: b\r\n\r\nhello\r\n");
    let start = Instant::now();
    let delivery = site.relay(short()).send(&message).await;
    let took = start.elapsed();
    check(took < Duration::from_secs(7), "longer than the deadline", &took);
    check(delivery.replies.len() == 2, "not a reply for each recipient", &delivery.replies);
    for (reply, (code, words)) in delivery.replies.iter().zip(row.expected) {
        let text = reply.to_string();
        let names_host = text.contains("localhost");
        check(text.starts_with(code) && text.contains(words) && names_host, &format!("not {code:?} {words:?}"), &text);
    }
    check(!format!("{delivery:?}").contains("s3cret"), "the password", &delivery);
    endpoint.see(|record| {
        check(record.taken.len() == row.tickets, "tickets", &record.taken.len());
        let harmless = |line: &String| line.starts_with("EHLO ") || line == "STARTTLS";
        check(record.plain.iter().all(harmless), "said in plain text", &record.plain);
        check(record.handshakes > 0 || record.logins.is_empty(), "logins without TLS", &record.logins);
    });
    wrong
}

#[tokio::test]
async fn a_reply_in_several_lines_comes_back_in_several_lines() {
    let endpoint = Endpoint::start(say("DOT", "550-5.7.1 policy:\r\n550-5.7.1 see\r\n550 5.7.1 there\r\n")).await;
    let site = Site::new(&endpoint);
    let delivery = site.relay(short()).send(&mail(&["a@acme.example"], b"\r\n")).await;
    let wire = String::from_utf8(delivery.replies.first().unwrap().to_wire()).unwrap();
    let expected = "550-5.7.1 localhost[127.0.0.1] said: policy:\r\n550-5.7.1 see\r\n550 5.7.1 there\r\n";
    assert_eq!(wire, expected);
}

#[tokio::test]
async fn all_steps_lie_within_the_deadline() {
    let steps = ["GREETING", "STARTTLS", "HANDSHAKE", "AUTH", "MAIL", "DATA", "DOT"];
    let trials: JoinSet<()> = steps
        .into_iter()
        .map(async |on| {
            let endpoint = Endpoint::start(rule(on, Action::Hang)).await;
            let site = Site::new(&endpoint).deadline(Duration::from_secs(1));
            let relay = site.relay(Default::default());
            let start = Instant::now();
            let delivery = relay.send(&mail(&["a@acme.example"], b"\r\nx\r\n")).await;
            assert!(start.elapsed() < Duration::from_secs(3), "{on}: {:?}", start.elapsed());
            assert_eq!(delivery.replies.first().unwrap().enhanced().unwrap(), "4.4.2", "{on}: {delivery:?}");
        })
        .collect();
    trials.join_all().await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_temporary() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint).port(1);
    let closed = site.relay(short()).send(&mail(&["a@acme.example"], b"\r\n")).await;
    assert!(
        closed.replies.first().unwrap().to_string().starts_with("451 4.4.1 localhost: cannot connect: "),
        "{closed:?}"
    );
    let site = Site::new(&endpoint).host("no-such-host.invalid");
    let unknown = site.relay(short()).send(&mail(&["a@acme.example"], b"\r\n")).await;
    let text = unknown.replies.first().unwrap().to_string();
    assert!(text.starts_with("451 4.4.3 no-such-host.invalid: ") || text.starts_with("451 4.4.2 "), "{text}");
}

#[tokio::test]
async fn a_message_that_stalls_half_way_times_out() {
    let endpoint = Endpoint::start(rule("CONTENT", Action::Hang)).await;
    let body = b"0123456789abcdef\r\n".repeat(1_000_000);
    let delivery = Site::new(&endpoint).relay(short()).send(&mail(&["a@acme.example"], &body)).await;
    let text = delivery.replies.first().unwrap().to_string();
    assert!(text.contains("timed out") || text.contains("SIZE") || text.starts_with("552"), "{text}");
    let mut script = rule("CONTENT", Action::Hang);
    script.secure = vec!["AUTH PLAIN"];
    let endpoint = Endpoint::start(script).await;
    let delivery = Site::new(&endpoint).relay(short()).send(&mail(&["a@acme.example"], &body)).await;
    let text = delivery.replies.first().unwrap().to_string();
    assert!(text.starts_with("451 4.4.2 ") && text.contains("timed out (sending the message)"), "{text}");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_message_is_passed_back() {
    let mut script = rule("CONTENT", Action::SayAndClose("552 5.3.4 enough\r\n"));
    script.secure = vec!["AUTH PLAIN"];
    let endpoint = Endpoint::start(script).await;
    let delivery =
        Site::new(&endpoint).relay(short()).send(&mail(&["a@acme.example"], &b"x\r\n".repeat(3_000_000))).await;
    let reply = delivery.replies.first().unwrap();
    // The reset that follows may destroy the words on their way; then it is a lost connection.
    assert!(reply.to_string().contains("enough") || reply.is_transient(), "{reply}");
    assert_eq!(endpoint.see(|record| record.taken.len()), 0);
}

#[tokio::test]
async fn a_success_before_the_end_of_the_message_is_none() {
    let mut script = rule("CONTENT", Action::Say("250 2.0.0 taken\r\n"));
    script.secure = vec!["AUTH PLAIN"];
    let endpoint = Endpoint::start(script).await;
    let body = b"x\r\n".repeat(3_000_000);
    let delivery = Site::new(&endpoint).relay(Bounds::default()).send(&mail(&["a@acme.example"], &body)).await;
    let reply = delivery.replies.first().unwrap().to_string();
    assert!(reply.starts_with("451 4.5.0 ") && reply.contains("before the end of the message"), "{reply}");
    assert_eq!(endpoint.see(|record| record.taken.len()), 0);
}
