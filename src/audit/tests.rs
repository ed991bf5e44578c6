use time::{OffsetDateTime, UtcOffset};

use super::*;

/// Postfix 3.7's lines of a message that a killed deskmilter took, and that came again.
const DOUBLED: &str = "\
Nov 22 12:32:26 mx postfix/smtpd[24570]: 7091099281B: client=unknown[127.0.0.1]
Nov 22 12:32:26 mx postfix/cleanup[24581]: 7091099281B: message-id=<chaos.7@plain.example>
Nov 22 12:32:26 mx postfix/qmgr[24566]: 7091099281B: from=<a@plain.example>, size=1503, nrcpt=1 (queue active)
Nov 22 12:32:27 mx postfix/lmtp[24651]: 7091099281B: to=<support@acme.example>, relay=mx.acme.example[deskmilter/transport/acme.sock], delay=1.5, delays=0.08/0.96/0.01/0.42, dsn=4.4.2, status=deferred (lost connection with mx.acme.example[deskmilter/transport/acme.sock] while sending end of data -- message may be sent more than once)
Nov 22 12:32:30 mx postfix/qmgr[24566]: 7091099281B: from=<a@plain.example>, size=1503, nrcpt=1 (queue active)
Nov 22 12:32:31 mx postfix/lmtp[24607]: 7091099281B: to=<support@acme.example>, relay=mx.acme.example[deskmilter/transport/acme.sock], conn_use=2, delay=0.98, delays=0.07/0.77/0.01/0.13, dsn=2.0.0, status=sent (250 2.0.0 localhost[127.0.0.1] said: ticket 2 created)
Nov 22 12:32:31 mx postfix/qmgr[24566]: 7091099281B: removed
";
const DOUBLED_OWN: &str = "\
2026-11-22T12:32:20Z INFO ready version=0.1.0 connectors=1
2026-11-22T12:32:28Z INFO ready version=0.1.0 connectors=1
2026-11-22T12:32:31Z INFO 7091099281B: relay decision=relayed message_id=<chaos.7@plain.example> connector=acme from=<a@plain.example> to=<support@acme.example> size=1503 auth=\"none; reason=not-judged\" remote=localhost[127.0.0.1]:19686 tls=\"TLSv1.3 TLS13_AES_256_GCM_SHA384\" credential=acme.example reply=\"250 2.0.0 localhost[127.0.0.1] said: ticket 2 created\" delay_ms=43
";
/// A message with a long queue id (Postfix 3.11, RFC 3339 times), up to its acceptance.
const ACCEPTED: &str = "\
2026-11-22T12:40:08.101234+00:00 mx postfix/smtpd[1]: 4XyzAb1kQ9z1Rt: client=mail.customer.example[192.0.2.10]
2026-11-22T12:40:08.111234+00:00 mx postfix/cleanup[2]: 4XyzAb1kQ9z1Rt: message-id=<m@customer.example>
2026-11-22T12:40:08.121234+00:00 mx postfix/qmgr[3]: 4XyzAb1kQ9z1Rt: from=<j@customer.example>, size=1292, nrcpt=1 (queue active)
";
const READY: &str = "2026-11-22T12:00:00Z INFO ready version=0.1.0 connectors=1\n";
const JUDGED: &str = "2026-11-22T12:40:08Z INFO 4XyzAb1kQ9z1Rt: judged decision=tagged connector=acme domain=acme.example message_id=<m@customer.example> client=192.0.2.10 helo=mail.customer.example from=<j@customer.example> to=<support@acme.example> size=1292 auth=pass forged=0 delay_ms=40\n";
const REMOVED: &str = "2026-11-22T12:40:09+00:00 mx postfix/qmgr[3]: 4XyzAb1kQ9z1Rt: removed\n";

fn clock() -> Clock {
    Clock { now: OffsetDateTime::from_unix_timestamp(1_795_400_000).unwrap(), zone: |_| UtcOffset::UTC }
}

fn audit_since(since: &str, logs: &[&str], tickets: Option<&Tickets>) -> Report {
    let scope = Scope {
        since: parse_time(since, &clock()).unwrap(),
        until: None,
        supports: Box::new(|name| name.eq_ignore_ascii_case("support@acme.example")),
        sockets: vec!["acme.sock".to_owned()],
    };
    let mut audit = Audit::new(scope, clock());
    logs.iter().flat_map(|log| log.lines()).for_each(|line| audit.line(line).unwrap());
    audit.report(tickets)
}

fn audit(logs: &[&str]) -> Report {
    audit_since("2026-11-22", logs, None)
}

fn relay_line(decision: &str, reply: &str, more: &str) -> String {
    format!(
        "2026-11-22T12:40:09Z INFO 4XyzAb1kQ9z1Rt: relay decision={decision} message_id=<m@customer.example> connector=acme \
         from=<j@customer.example> to=<support@acme.example> size=1292 auth=pass remote=- tls=- credential=- \
         reply=\"{reply}\"{more} delay_ms=5\n"
    )
}

fn delivery_line(status: &str) -> String {
    format!(
        "2026-11-22T12:40:09.5+00:00 mx postfix/lmtp[9]: 4XyzAb1kQ9z1Rt: to=<support@acme.example>, \
         orig_to=<info@acme.example>, relay=mx.acme.example[deskmilter/transport/acme.sock], delay=1, delays=0/0/0/1, dsn=2.0.0, \
         status={status}\n"
    )
}

fn ticket(times: usize) -> Tickets {
    let mut tickets = Tickets::default();
    (0..times).for_each(|_| {
        tickets.add(
            br#"{"id":1,"domain":"acme.example","sender":"a@plain.example","recipients":["support@acme.example"],
            "message_id":"chaos.7@plain.example","updates":[]}"#,
        );
    });
    tickets
}

#[test]
fn a_message_that_a_killed_daemon_took_is_named_with_that_reason() {
    let report = audit_since("2026-11-22", &[DOUBLED_OWN, DOUBLED], Some(&ticket(2)));
    assert_eq!((report.messages, report.relayed, report.lost.len()), (1, 1, 0), "{report}");
    let [doubled] = &report.doubled[..] else { panic!("{report}") };
    assert_eq!((doubled.times, &doubled.queue_ids[..]), (2, &["7091099281B".to_owned()][..]));
    assert!(doubled.reason.starts_with("deskmilter was killed") && doubled.reason.contains("12:32:27"), "{report}");
    // Without the tickets nobody can know.
    let report = audit(&[DOUBLED_OWN, DOUBLED]);
    assert_eq!((report.doubled.len(), report.may_be_doubled), (0, 1), "{report}");
}

#[test]
fn a_message_of_which_the_ticket_system_knows_nothing_is_lost() {
    let report = audit_since("2026-11-22", &[DOUBLED_OWN, DOUBLED], Some(&Tickets::default()));
    assert!(!report.is_good() && report.lost[0].reason.contains("has no ticket"), "{report}");
}

#[test]
fn what_is_accepted_and_nowhere_is_lost() {
    let report = audit(&[READY, JUDGED, ACCEPTED, REMOVED]);
    assert_eq!((report.lost.len(), report.lost[0].queue_id.as_str()), (1, "4XyzAb1kQ9z1Rt"), "{report}");
    // Postfix says that we took it, and we say nothing.
    let report = audit(&[READY, ACCEPTED, &delivery_line("sent (250 2.0.0 ok)"), REMOVED]);
    assert_eq!(report.lost.len(), 1, "{report}");
    assert!(report.to_string().contains("deskmilter's log has nothing of that"), "{report}");
}

#[test]
fn each_fate_is_counted_as_what_it_is() {
    let relayed = relay_line("relayed", "250 2.0.0 ok", "");
    let report = audit(&[READY, &relayed, ACCEPTED, &delivery_line("sent (250 2.0.0 ok)"), REMOVED]);
    assert_eq!((report.messages, report.relayed, report.relayed_inline), (1, 1, 0), "{report}");
    let inline = relay_line("relayed", "250 2.0.0 ok", " note=inline");
    let report = audit(&[READY, JUDGED, &inline, ACCEPTED, REMOVED]);
    assert_eq!((report.messages, report.relayed_inline), (1, 1), "{report}");
    let before =
        relay_line("relayed", "250 2.0.0 taken before: the journal knows it", " note=\"inline, taken before\"");
    let report = audit(&[READY, JUDGED, &inline, &before, ACCEPTED, REMOVED]);
    assert_eq!((report.relayed, report.doubled.len()), (1, 0), "{report}");
    let report = audit(&[READY, JUDGED, ACCEPTED]);
    assert_eq!((report.queued, report.lost.len()), (1, 0), "{report}");
    let later = relay_line("deferred", "451 4.4.1 no", "");
    let report = audit(&[READY, &later, ACCEPTED, &delivery_line("deferred (host said: 451 4.4.1 no)")]);
    assert_eq!(report.queued, 1, "{report}");
    let refused = relay_line("refused", "550 5.1.1 no", "");
    let report = audit(&[READY, &refused, ACCEPTED, &delivery_line("bounced (host said: 550)"), REMOVED]);
    assert_eq!(report.bounced, 1, "{report}");
    let handed = " rejected_to=postmaster@acme.example";
    let back = relay_line("relayed", "250 2.0.0 handed to <postmaster@acme.example> instead; 550 5.1.1 no", handed);
    let report = audit(&[READY, &back, ACCEPTED, &delivery_line("sent (250 2.0.0 handed)"), REMOVED]);
    assert_eq!((report.handed_to_rejected_to, report.relayed), (1, 0), "{report}");
    let inline = relay_line("refused", "550 5.1.1 no", " note=inline rejected_to=postmaster@acme.example");
    let report = audit(&[READY, JUDGED, &inline, ACCEPTED, REMOVED]);
    assert_eq!(report.handed_to_rejected_to, 1, "{report}");
    let mailbox = delivery_line("sent (delivered to maildir)").replace("postfix/lmtp", "postfix/virtual");
    let report = audit(&[
        READY,
        ACCEPTED,
        &mailbox.replace("mx.acme.example[deskmilter/transport/acme.sock]", "virtual"),
        REMOVED,
    ]);
    assert_eq!((report.elsewhere, &report.look_at[0].reason[..]), (1, "relay=virtual"), "{report}");
    let by_hand = REMOVED.replace("qmgr", "postsuper");
    let report = audit(&[READY, ACCEPTED, &delivery_line("deferred (no)"), &by_hand]);
    assert_eq!((report.deleted, report.lost.len()), (1, 0), "{report}");
}

#[test]
fn what_was_refused_while_it_arrived_is_no_accepted_message() {
    let refused = "\
Nov 22 12:40:08 mx postfix/smtpd[12303]: NOQUEUE: milter-reject: RCPT from unknown[127.0.0.1]: 451 4.4.1 localhost:19686: the ticket system does not answer; try again later; from=<a@plain.example> to=<support@acme.example> proto=ESMTP helo=<plain.example>
Nov 22 12:40:09 mx postfix/smtpd[1]: 56EF69A2930: client=unknown[127.0.0.1]
Nov 22 12:40:09 mx postfix/cleanup[2]: 56EF69A2930: message-id=<chaos.0@plain.example>
Nov 22 12:40:12 mx postfix/cleanup[2]: 56EF69A2930: milter-reject: END-OF-MESSAGE from unknown[127.0.0.1]: 5.7.1 no; from=<a@plain.example> to=<support@acme.example> proto=ESMTP helo=<plain.example>
";
    let report = audit(&[READY, refused]);
    assert_eq!((report.messages, report.refused_at_smtp, report.put_off_at_smtp), (0, 1, 1), "{report}");
    assert!(report.is_good());
}

#[test]
fn a_short_queue_id_that_is_used_again_is_another_message() {
    let again = DOUBLED.replace("chaos.7", "chaos.8").replace("12:32", "12:52");
    let report = audit(&[DOUBLED_OWN, DOUBLED, &again]);
    assert_eq!((report.messages, report.relayed, report.lost.len()), (2, 1, 1), "{report}");
    assert_eq!(report.lost[0].message_id, "chaos.8@plain.example");
}

#[test]
fn a_log_that_was_rotated_away_or_cut_makes_nothing_lost() {
    let sent = delivery_line("sent (250 2.0.0 ok)");
    // Ours is missing, or begins later.
    for own in ["", "2026-11-22T13:00:00Z INFO ready version=0.1.0 connectors=1\n"] {
        let report = audit(&[own, ACCEPTED, &sent, REMOVED]);
        assert_eq!((report.unknown, report.lost.len()), (1, 0), "{report}");
        assert!(!report.notes.is_empty());
    }
    // Postfix's begins in the middle of a message.
    let report = audit(&[READY, &sent, REMOVED]);
    assert_eq!((report.messages, report.lost.len()), (0, 0), "{report}");
    assert!(report.to_string().contains("1 messages were accepted before"), "{report}");
    // Any end of the log, also within a line.
    let whole = [ACCEPTED, &sent, REMOVED].concat();
    for end in 0..whole.len() {
        let report = audit(&[READY, &relay_line("relayed", "250 2.0.0 ok", ""), &whole[..end]]);
        assert!(report.is_good(), "{end}: {report}");
    }
}

#[test]
fn what_was_accepted_outside_the_time_is_not_looked_at() {
    assert_eq!(audit_since("2026-11-22 12:33", &[DOUBLED_OWN, DOUBLED], None).messages, 0);
    assert_eq!(audit_since("2026-11-22T12:32:00Z", &[DOUBLED_OWN, DOUBLED], None).messages, 1);
}

#[test]
fn journalctl_and_system_logs_say_the_same_as_files() {
    let journal = DOUBLED.replace("Nov 22 12:", "2026-11-22T12:").replace(" mx postfix", "+0000 mx postfix-out/x");
    let own = DOUBLED_OWN
        .replace("2026-11-22T12:32:31Z INFO", "2026-11-22T13:32:31+01:00 mx deskmilter[7]: 2026-11-22T12:32:31Z INFO");
    let syslog = DOUBLED_OWN.replace("2026-11-22T12:32:", "Nov 22 12:32:").replace("Z INFO", " mx deskmilter[7]:");
    for (own, postfix) in [(&own, &journal), (&syslog, &DOUBLED.to_owned())] {
        let report = audit(&[own, postfix]);
        assert_eq!((report.messages, report.relayed), (1, 1), "{report}\n{own}{postfix}");
    }
}

#[test]
fn a_stranger_cannot_write_log_lines_by_what_is_logged_of_him() {
    let name = "<\"x>, relay=none, status=sent (250\"@acme.example>";
    let line = delivery_line("deferred (no)").replace("<info@acme.example>", name);
    let report = audit(&[READY, ACCEPTED, &line]);
    assert_eq!((report.queued, report.elsewhere), (1, 0), "{report}");
    let id = ACCEPTED.replace("<m@customer.example>", "<\u{1b}[2J\u{202e}evil\u{7}>");
    let report = audit(&[READY, &id, &delivery_line("sent (250 ok)"), REMOVED]);
    let told = report.to_string();
    assert!(report.lost.len() == 1 && !told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    let words = relay_line("deferred", "451 said \\\" note=inline decision=relayed", "");
    assert_eq!(audit(&[READY, &words, ACCEPTED, &delivery_line("deferred (no)")]).queued, 1);
}

#[test]
fn nonsense_is_counted_and_passed_over() {
    let nonsense = [
        "",
        "x",
        "Nov",
        "Nov 99 99:99:99 a b: c",
        "2026-",
        "9999-99-99T99:99:99Z a b: c",
        "Nov 22 12:00:00 mx",
        "\u{0}",
    ];
    let report = audit(&[&nonsense.join("\n"), READY, ACCEPTED]);
    assert!(report.notes.iter().any(|note| note.contains("no known format")), "{report}");
    let cut: String =
        DOUBLED.lines().chain(DOUBLED_OWN.lines()).map(|line| format!("{}\n", &line[..line.len() / 2])).collect();
    assert!(audit(&[&cut]).is_good());
}

#[test]
fn a_line_without_a_year_is_of_the_last_one_that_fits() {
    let at = |line: &str| line::Line::parse(line, &clock()).map(|line| line.at.year());
    assert_eq!(at("Nov 22 12:00:00 mx postfix/qmgr[1]: x"), Some(2026));
    assert_eq!(at("Dec  1 12:00:00 mx postfix/qmgr[1]: x"), Some(2025));
}

#[test]
fn times_are_taken_as_people_write_them() {
    let at = |text: &str| parse_time(text, &clock()).map(|at| at.unix_timestamp()).ok();
    let now = clock().now.unix_timestamp();
    assert_eq!((at("2h"), at("30m"), at("3d")), (Some(now - 7_200), Some(now - 1_800), Some(now - 259_200)));
    assert_eq!(at("2026-11-22 08:00"), at("2026-11-22T08:00:00Z"));
    assert_eq!(at("2026-11-22T08:00:00+01:00"), at("2026-11-22T07:00:00Z"));
    assert_eq!(at("yesterday"), at("today").map(|at| at - 86_400));
    assert!(
        ["", "soon", "2026-13-01", "-5h", "2026-11-22T25:00", "99999999999h"].iter().all(|text| at(text).is_none())
    );
}

#[test]
fn a_message_id_that_each_log_shows_in_its_own_way_is_one_message() {
    let postfix = ledger::normal_id("<evil??[2J? 08:00 relayed???\"=\\@x>");
    assert_eq!(postfix, ledger::normal_id("evil?[2J 08:00 relayed?\"=\\@x"));
    assert_eq!(postfix, ledger::normal_id("<evil\u{b}\u{1b}[2J\r\n 08:00 relayed\u{2028}\u{fffd}\"=\\@x>"));
    assert_ne!(postfix, ledger::normal_id("<evil[2J08:00relayed\"=\\@x>"));
}

#[test]
fn recipients_that_a_line_of_ours_has_no_room_for_are_unknown_and_never_lost() {
    let others: String = (0..60).map(|n| format!("<number{n}@acme.example>,")).collect();
    let cut = format!("to={}...", &others[..1_024]);
    for line in [
        relay_line("relayed", "250 2.0.0 ok", "").replace("to=<support@acme.example>", &cut),
        relay_line("mixed", "<number0@acme.example> 550 5.1.1 no; <number1@acme...", ""),
    ] {
        let report = audit(&[READY, &line, ACCEPTED, &delivery_line("sent (250 2.0.0 ok)"), REMOVED]);
        assert_eq!((report.messages, report.unknown, report.lost.len()), (1, 1, 0), "{report}");
        assert!(report.to_string().contains("more recipients than a line"), "{report}");
    }
}
