//! What is Exim's own on the way in. The main job is in `tests/inbound.rs`, for all mail servers.

use support::{EximSite, EximTerms, Message, Numbers, Site, Terms, Ticket, received_as_sent};

const SUPPORT: &str = "support@acme.example";
const JANE: &str = "jane@customer.example";

fn start() -> EximSite {
    EximSite::start(EximTerms::default())
}

fn customer_mail(site: &EximSite, to: &str) -> Vec<u8> {
    site.signer.sign(&Message::new("Jane <jane@customer.example>", to, "Order 4711").octets())
}

fn text(ticket: &Ticket) -> String {
    String::from_utf8_lossy(&ticket.messages()[0]).into_owned()
}

fn fact<'t>(ticket: &'t Ticket, name: &str) -> &'t str {
    ticket.facts[name].as_str().unwrap_or_else(|| panic!("{name} in {}", ticket.facts))
}

#[track_caller]
fn submit(site: &EximSite, to: &[&str], message: &[u8]) {
    let reply = site.exim.submit_as(&Site::customer(), JANE, to, message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
}

#[test]
fn what_exim_has_judged_and_relayed_is_counted_and_explained_by_its_id() {
    let tables = "\n[metrics]\nlisten = [\"inet:127.0.0.1:0\"]\n";
    let terms = Terms { tables, ..Terms::default() };
    let site = EximSite::start(EximTerms { terms, ..EximTerms::default() });
    submit(&site, &[SUPPORT], &customer_mail(&site, SUPPORT));
    site.desk.wait_for_tickets(1);
    site.exim.wait_for_empty_queue();
    let line = site.daemon.wait_for_log("metrics listening");
    let numbers = Numbers::at(line.rsplit("inet:").next().unwrap().parse().unwrap());
    let labels = [("attachment", "exim"), ("direction", "inbound"), ("decision", "tagged")];
    assert_eq!(numbers.sum("deskmilter_judged_total", &labels), 1.0, "{}", numbers.text());
    assert_eq!(numbers.sum("deskmilter_relayed_total", &[("decision", "relayed")]), 1.0);
    let id = site.exim.log().split(" <= ").next().unwrap().rsplit(' ').next().unwrap().to_owned();
    let mut command = std::process::Command::new(support::deskmilter());
    let output = command.args(["explain", &id, "--log"]).arg(site.daemon.log_file()).output().unwrap();
    let story = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(story.contains("sender authenticated") && story.contains("support@acme.example: relayed"), "{story}");
}

#[test]
fn what_a_stranger_writes_above_a_message_is_not_taken_for_exims_own() {
    let site = start();
    // Exim puts the sender above the message unless there is none: what a stranger writes there is not taken for it.
    let message = Message::new("MAILER-DAEMON@customer.example", SUPPORT, "Undelivered").octets();
    let message = [b"X-Envelope-From: <boss@acme.example>\r\n", &message[..]].concat();
    assert_eq!(site.exim.submit_as(&Site::customer(), "", &[SUPPORT], &message).code, 250);
    let tickets = site.desk.wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender"), "");
    assert!(received_as_sent(text(&tickets[0]).as_bytes(), &message), "{}", text(&tickets[0]));
}

#[test]
fn field_names_that_exim_would_expand_or_set_apart_are_names_as_any() {
    let site = start();
    let message = Message::new(JANE, SUPPORT, "Trust me")
        .field("X-Deskmilter-Sender-Auth", "pass; reason=dmarc; t=1; mac=AAAA")
        .field("Authentication-Results", "mx.acme.example; dmarc=pass")
        .field("x-DESKMILTER-tags ", "vip")
        .field("AUTHENTICATION-results", "mx.other.example; dmarc=pass header.from=kept.example")
        .field(
            "authentication-results",
            "\r\n\t(comment) \"MX.ACME.example.\" 1;\r\n dkim=pass header.d=forged.example",
        )
        .field("X-Deskmilter-$${run{/bin/false}}", "x")
        .field("X-Deskmilter-Seal", "v=1; p=AAAA; mac=AAAA")
        .octets();
    let to = [SUPPORT, "sales@acme.example"];
    let reply = site.exim.submit_as(&Site::stranger(), "x@stranger.example", &to, &message);
    assert_eq!(reply.code, 250, "{reply}");
    let relayed = text(&site.desk.wait_for_tickets(1)[0]);
    let delivered = String::from_utf8_lossy(&site.exim.wait_for_mail("sales@acme.example", 1)[0]).into_owned();
    for received in [&relayed, &delivered] {
        assert!(!received.contains("forged.example") && !received.contains("vip"), "{received}");
        assert!(!received.contains("AAAA") && !received.contains("run{"), "{received}");
        assert!(received.contains("header.from=kept.example"), "{received}");
        let ours = received.lines().map(str::to_lowercase);
        let verdicts: Vec<String> = ours.filter(|line| line.starts_with("x-deskmilter-")).collect();
        assert_eq!(verdicts.len(), 1, "{received}");
        assert!(verdicts[0].starts_with("x-deskmilter-sender-auth: fail; "), "{received}");
    }
}

#[test]
fn an_address_that_exim_alone_takes_leads_nobody_past_us() {
    let site = start();
    for (n, sender) in
        ["a\\\"b@stranger.example", "a\\ b@stranger.example", "a\u{e4}@stranger.example"].iter().enumerate()
    {
        let message = Message::new("boss@acme.example", "sales@acme.example", "Trust me")
            .field("Authentication-Results", "mx.acme.example; dmarc=pass header.d=forged.example")
            .field("X-Deskmilter-Sender-Auth", "pass; reason=dmarc; t=1; mac=AAAA")
            .octets();
        let reply = site.exim.submit_as(&Site::stranger(), sender, &["sales@acme.example"], &message);
        assert_eq!(reply.code, 250, "{sender}: {reply}");
        let delivered = String::from_utf8_lossy(&site.exim.wait_for_mail("sales@acme.example", n + 1)[n]).into_owned();
        assert!(!delivered.contains("forged.example") && !delivered.contains("AAAA"), "{sender}: {delivered}");
        assert!(delivered.contains("X-Deskmilter-Sender-Auth: "), "{sender}: {delivered}");
    }
}

#[test]
fn fields_behind_a_line_that_exim_alone_takes_for_one_are_hidden_from_nobody() {
    let site = start();
    for line in [&b": no name"[..], b"N\xe4me: x", b"Authentication-Results\r\n : mx.acme.example; dmarc=pass"] {
        let message = Message::new("a@plain.example", SUPPORT, "Trust me").octets();
        let hidden = b"\r\nX-Deskmilter-Tags: vip\r\n";
        let message = [line, hidden, &message[..]].concat();
        let shown = String::from_utf8_lossy(line).into_owned();
        let reply =
            site.exim.submit_as(&Site::stranger(), "a@plain.example", &["sales@acme.example", SUPPORT], &message);
        assert!(reply.code == 550 && reply.text.starts_with("5.6.0 a line of the header section"), "{shown}: {reply}");
    }
    assert!(site.exim.queue().is_empty() && site.desk.tickets().is_empty());
}

#[test]
fn mail_that_is_none_of_our_business_is_not_looked_at() {
    let site = start();
    let message = Message::new("a@plain.example", "someone@other.example", "hello").octets();
    let to = ["sales@other.example"];
    assert_eq!(site.exim.submit_as(&Site::stranger(), "a@plain.example", &to, &message).code, 250);
    let delivered = site.exim.wait_for_mail("sales@other.example", 1);
    assert!(!String::from_utf8_lossy(&delivered[0]).contains("X-Deskmilter"));
    assert!(!site.daemon.log().contains("judged"), "{}", site.daemon.log());
    assert!(!site.exim.spool().join("scan").exists(), "Exim wrote no file for it");
}

/// Both ways of relaying: lines of `[connector.endpoint]`.
const MODES: [&str; 2] = ["relay = \"transport\"", "relay = \"inline\""];

#[test]
fn messages_of_every_shape_arrive_as_exim_took_them_in_both_modes() {
    let body = |body: &[u8]| [b"From: a@plain.example\r\nSubject: x\r\n\r\n", body].concat();
    let long = [b"x".repeat(900), b"\r\n".to_vec()].concat();
    let shapes = [
        body(b"caf\xc3\xa9 \xff\xfe\r\n"),
        body(b"nul\0nul\r\n\0\r\n"),
        body(b".\r\n..\r\n.x\r\n.\r\n"),
        body(b"From someone\r\n>From x\r\ntrailing \t \r\n\r\n\r\n"),
        body(b""),
        b"\r\nno header section at all\r\n".to_vec(),
        b"From: a@plain.example\r\nSubject:\r\n\tfolded\r\n \t twice\r\nX-Odd :  blank \r\n\r\nx\r\n".to_vec(),
        body(&long.repeat(3_000)),
    ];
    for mode in MODES {
        let site = EximSite::start(EximTerms { endpoint: mode.to_owned(), ..EximTerms::default() });
        for (n, message) in shapes.iter().enumerate() {
            let reply = site.exim.submit_as(&Site::stranger(), "a@plain.example", &[SUPPORT], message);
            assert_eq!(reply.code, 250, "{mode}, {n}: {reply}\n{}", site.logs());
            let tickets = site.desk.wait_for_tickets(n + 1);
            let received = tickets.last().unwrap().messages().remove(0);
            let shown = String::from_utf8_lossy(received.get(..2_000).unwrap_or(&received)).into_owned();
            // Without a header section the empty line is Exim's, below its own fields.
            assert!(received_as_sent(&received, message) || received.ends_with(message), "{mode}, {n}: {shown}");
            assert!(!shown.contains("reason=not-judged") && !shown.contains("body-changed"), "{mode}, {n}: {shown}");
        }
        site.exim.wait_for_empty_queue();
        assert_eq!(site.desk.tickets().len(), shapes.len(), "{mode}");
    }
}

#[test]
fn large_and_international_messages_pass_in_both_modes() {
    for mode in MODES {
        let site = EximSite::start(EximTerms { endpoint: mode.to_owned(), ..EximTerms::default() });
        let line = [b"y".repeat(900), b"\r\n".to_vec()].concat();
        let head = b"From: jane@customer.example\r\nSubject: x\r\n\r\n".to_vec();
        let message = site.signer.sign(&[head, line.repeat(25 * 1024 * 1024 / 902)].concat());
        submit(&site, &[SUPPORT], &message);
        let ticket = site.desk.wait_for_tickets(1).remove(0);
        assert_eq!(fact(&ticket, "sender_auth"), "pass", "{mode}");
        assert!(received_as_sent(&ticket.messages()[0], &message), "{mode}");

        let message = Message::new("J\u{fc}rgen <a@plain.example>", SUPPORT, "Gr\u{fc}\u{df}e").octets();
        let mut session = site.exim.connect(&Site::stranger());
        let reply = session.send_with("j\u{fc}rgen@plain.example", "SMTPUTF8 BODY=8BITMIME", &[SUPPORT], &message);
        assert_eq!(reply.code, 250, "{mode}: {reply}");
        let ticket = site.desk.wait_for_tickets(2).remove(1);
        assert_eq!(fact(&ticket, "sender"), "j\u{fc}rgen@plain.example", "{mode}");
        assert!(received_as_sent(&ticket.messages()[0], &message), "{mode}");
    }
}

#[test]
fn a_message_larger_than_we_take_is_refused_with_the_reason_in_both_modes() {
    for mode in MODES {
        let terms = Terms { tables: "[limits]\nmessage_size = \"64KiB\"\n", ..Terms::default() };
        let site = EximSite::start(EximTerms { endpoint: mode.to_owned(), terms, ..EximTerms::default() });
        let large = Message::new("a@plain.example", SUPPORT, "large").body(&"0123456789\r\n".repeat(10_000)).octets();
        let to = [SUPPORT, "sales@acme.example"];
        let reply = site.login(support::EMPLOYEE_LOGIN).send("boss@acme.example", &to, &large);
        if mode == MODES[1] {
            assert!(reply.code == 552 && reply.text.contains("limits.message_size"), "{reply}\n{}", site.logs());
        } else {
            // Out of the queue its sender hears of it by a bounce, and everybody else has it.
            assert_eq!(reply.code, 250, "{reply}");
            let bounce = site.exim.wait_for_mail("boss@acme.example", 1).remove(0);
            assert!(String::from_utf8_lossy(&bounce).contains("552"), "{}", String::from_utf8_lossy(&bounce));
            site.exim.wait_for_mail("sales@acme.example", 1);
        }
        site.exim.wait_for_empty_queue();
        assert!(site.desk.tickets().is_empty());
    }
}

#[test]
fn a_spool_in_wire_format_is_refused_with_the_reason() {
    let site = EximSite::start(EximTerms { main: "spool_wireformat = true", ..EximTerms::default() });
    let message = customer_mail(&site, SUPPORT);
    let mut session = site.exim.connect(&Site::customer());
    session.expect(250, "MAIL FROM:<jane@customer.example>");
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.write(format!("BDAT {} LAST\r\n", message.len()).as_bytes());
    session.write(&message);
    let mut reply = session.reply();
    if reply.code == 250 && reply.text.contains("chunk") {
        reply = session.reply();
    }
    assert!(reply.code == 451 && reply.text.contains("spool_wireformat must be off"), "{reply}\n{}", site.logs());
}
