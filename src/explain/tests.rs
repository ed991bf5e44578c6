use time::{OffsetDateTime, UtcOffset};

use super::{Search, State, Story};
use crate::audit::Clock;

fn clock() -> Clock {
    let now = OffsetDateTime::from_unix_timestamp(1_795_400_000).unwrap();
    Clock { now, zone: |_| UtcOffset::UTC }
}

/// The story of `key` in logs that are read as often as it takes.
fn story(key: &str, logs: &[&str]) -> Option<Story> {
    let mut search = Search::new(key, clock(), None, None);
    loop {
        logs.iter().flat_map(|log| log.lines()).for_each(|line| search.line(line));
        if !search.wants_more() {
            return search.story(logs.len() == 1);
        }
    }
}

fn states(story: &Story) -> Vec<(&str, State)> {
    story.recipients.iter().map(|recipient| (recipient.address.as_str(), recipient.state)).collect()
}

const RELAYED: &str = "\
Nov 22 08:00:00 mx postfix/smtpd[1]: 4A1B2C: client=mail.customer.example[192.0.2.10]
Nov 22 08:00:00 mx postfix/cleanup[2]: 4A1B2C: message-id=<m1@customer.example>
Nov 22 08:00:00 mx deskmilter[3]: 4A1B2C: judged decision=tagged connector=acme domain=acme.example message_id=<m1@customer.example> client=192.0.2.10 helo=mail.customer.example from=<j@customer.example> to=<support@acme.example> size=512 auth=\"pass; reason=dmarc; dmarc=pass; spf=pass; dkim=none; arc=none; from=customer.example\" forged=2 delay_ms=3
Nov 22 08:00:01 mx postfix/qmgr[4]: 4A1B2C: from=<j@customer.example>, size=600, nrcpt=1 (queue active)
Nov 22 08:00:01 mx deskmilter[3]: 4A1B2C: endpoint: cannot relay now connector=acme host=endpoint.example reply=\"451 4.4.1 endpoint.example: cannot connect\"
Nov 22 08:00:01 mx deskmilter[3]: 4A1B2C: relay decision=deferred message_id=<m1@customer.example> connector=acme from=<j@customer.example> to=<support@acme.example> size=600 auth=\"pass; reason=dmarc\" remote=- tls=- credential=- reply=\"451 4.4.1 endpoint.example: cannot connect\" delay_ms=2
Nov 22 08:00:01 mx postfix/lmtp[5]: 4A1B2C: to=<support@acme.example>, relay=mx[deskmilter/transport/acme.sock], delay=1, delays=0/0/0/0, dsn=4.4.1, status=deferred (host mx said: 451 4.4.1 endpoint.example: cannot connect (in reply to end of DATA command))
";
const TAKEN: &str = "\
Nov 22 08:05:01 mx postfix/qmgr[4]: 4A1B2C: from=<j@customer.example>, size=600, nrcpt=1 (queue active)
Nov 22 08:05:01 mx deskmilter[3]: 4A1B2C: relay decision=relayed message_id=<m1@customer.example> connector=acme from=<j@customer.example> to=<support@acme.example> size=600 auth=\"pass; reason=dmarc\" remote=endpoint.example[192.0.2.9]:587 tls=\"TLSv1.3 TLS13_AES_256_GCM_SHA384\" credential=acme.example reply=\"250 2.0.0 ticket 7\" delay_ms=2
Nov 22 08:05:01 mx postfix/lmtp[5]: 4A1B2C: to=<support@acme.example>, relay=mx[deskmilter/transport/acme.sock], delay=300, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 ticket 7)
Nov 22 08:05:01 mx postfix/qmgr[4]: 4A1B2C: removed
";

#[test]
fn a_relayed_message_is_told_from_its_arrival_to_the_reply_by_either_name() {
    let log = format!("{RELAYED}{TAKEN}");
    let by_id = story("4A1B2C", &[&log]).unwrap();
    assert_eq!(by_id, story("<m1@customer.example>", &[&log]).unwrap());
    assert_eq!(by_id, story("m1@customer.example", &[&log]).unwrap());
    assert_eq!(states(&by_id), [("support@acme.example", State::Relayed)]);
    assert_eq!((by_id.advice.len(), by_id.notes.len()), (0, 0));
    let text = by_id.to_string();
    let mut from = 0;
    for told in [
        "it came to Postfix from mail.customer.example[192.0.2.10]",
        "deskmilter judged it: from <j@customer.example>",
        "sender authenticated, for the DMARC policy of the From domain is met",
        "2 forged header fields were removed",
        "Postfix has queued it",
        "it was put off: 451 4.4.1",
        "at endpoint.example[192.0.2.9]:587 over TLSv1.3 TLS13_AES_256_GCM_SHA384 with the credential acme.example",
        "it was taken: 250 2.0.0 ticket 7",
        "Postfix is done with it",
        "now:\n  support@acme.example: relayed",
    ] {
        let at = text[from..].find(told).unwrap_or_else(|| panic!("{told:?} is not after the rest in\n{text}"));
        from += at + told.len();
    }
}

#[test]
fn a_message_that_waits_says_where_and_what_to_do() {
    let story = story("4A1B2C", &[RELAYED]).unwrap();
    assert_eq!(states(&story), [("support@acme.example", State::Queued)]);
    assert!(story.advice[0].contains("does not answer"), "{:?}", story.advice);
}

#[test]
fn two_logs_whose_seconds_are_alike_are_told_in_the_order_of_things() {
    let log = format!("{RELAYED}{TAKEN}");
    let own: String = log.lines().filter(|line| line.contains("deskmilter[")).map(|line| format!("{line}\n")).collect();
    let postfix: String =
        log.lines().filter(|line| line.contains("postfix/")).map(|line| format!("{line}\n")).collect();
    let text = story("4A1B2C", &[&own, &postfix]).unwrap().to_string();
    let places: Vec<usize> =
        ["it came to Postfix", "judged it", "has queued it", "it was put off", "it was taken", "is done with it"]
            .map(|told| text.find(told).unwrap())
            .to_vec();
    assert!(places.is_sorted(), "{text}");
    assert_eq!(states(&story("4A1B2C", &[&postfix, &own]).unwrap()), [("support@acme.example", State::Relayed)]);
}

#[test]
fn a_queue_id_that_was_another_messages_before_tells_the_last_and_a_message_id_its_own() {
    let other = "\
Nov 21 08:00:00 mx postfix/smtpd[1]: 4A1B2C: client=other.example[192.0.2.11]
Nov 21 08:00:00 mx postfix/cleanup[2]: 4A1B2C: message-id=<old@other.example>
Nov 21 08:00:01 mx postfix/qmgr[4]: 4A1B2C: from=<x@other.example>, size=600, nrcpt=1 (queue active)
Nov 21 08:00:02 mx postfix/smtp[5]: 4A1B2C: to=<sales@acme.example>, relay=a[192.0.2.1]:25, delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (250 ok)
Nov 21 08:00:02 mx postfix/qmgr[4]: 4A1B2C: removed
";
    let log = format!("{other}{RELAYED}{TAKEN}");
    let last = story("4A1B2C", &[&log]).unwrap();
    assert_eq!(states(&last), [("support@acme.example", State::Relayed)]);
    assert!(!last.to_string().contains("other.example["), "{last}");
    let old = story("old@other.example", &[&log]).unwrap();
    assert_eq!(states(&old), [("sales@acme.example", State::Delivered)]);
    assert!(!old.to_string().contains("judged"), "{old}");
}

#[test]
fn a_message_that_came_back_from_a_filter_is_one_story_under_two_ids() {
    let log = "\
2026-11-22T08:00:00Z mx postfix/smtpd[1]: AAAAA1: client=desk.example[192.0.2.10], sasl_method=PLAIN, sasl_username=zendesk-support
2026-11-22T08:00:00Z mx postfix/cleanup[2]: AAAAA1: message-id=<n1@desk.example>
2026-11-22T08:00:00Z mx deskmilter[3]: AAAAA1: judged decision=sealed connector= notification=acme message_id=<n1@desk.example> client=192.0.2.10 login=zendesk-support from=<support@acme.example> to=<jane@customer.example> size=5 forged=0 delay_ms=1
2026-11-22T08:00:01Z mx postfix/smtp[5]: AAAAA1: to=<jane@customer.example>, relay=127.0.0.1[127.0.0.1]:10025, delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as BBBBB2)
2026-11-22T08:00:01Z mx postfix/qmgr[4]: AAAAA1: removed
2026-11-22T08:00:01Z mx postfix/smtpd[1]: BBBBB2: client=localhost[127.0.0.1]
2026-11-22T08:00:01Z mx postfix/cleanup[2]: BBBBB2: message-id=<n1@desk.example>
2026-11-22T08:00:01Z mx deskmilter[3]: BBBBB2: judged decision=signed connector= notification=acme message_id=<n1@desk.example> client=127.0.0.1 from=<support@acme.example> to=<jane@customer.example> size=5 forged=0 signed=acme/desk2026 delay_ms=1
2026-11-22T08:00:02Z mx postfix/smtp[5]: BBBBB2: to=<jane@customer.example>, relay=mx.customer.example[192.0.2.1]:25, delay=1, delays=0/0/0/0, dsn=5.1.1, status=bounced (host mx.customer.example said: 550 5.1.1 no such user)
2026-11-22T08:00:02Z mx postfix/bounce[6]: BBBBB2: sender non-delivery notification: CCCCC3
2026-11-22T08:00:02Z mx postfix/qmgr[4]: BBBBB2: removed
";
    let story = story("AAAAA1", &[log]).unwrap();
    assert_eq!(story.queue_ids, ["AAAAA1", "BBBBB2"]);
    assert_eq!(states(&story), [("jane@customer.example", State::Bounced)]);
    let text = story.to_string();
    for told in [
        "logged in as zendesk-support",
        "notification of connector acme",
        "signed by acme/desk2026",
        "notification: CCCCC3",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn what_was_refused_before_the_queue_was_told_to_its_client() {
    let log = "\
2026-11-22T08:00:00Z INFO 4D: judged decision=refused connector=acme message_id=<r@x.example> client=192.0.2.1 from=<a@x.example> to=<support@acme.example>,<b@acme.example> size=5 forged=101 reply=\"554 5.7.1 too many forged fields\" delay_ms=1
";
    let story = story("r@x.example", &[log]).unwrap();
    assert_eq!(states(&story), [("support@acme.example", State::Refused), ("b@acme.example", State::Refused)]);
    assert!(story.notes.iter().any(|note| note.contains("no line of Postfix")), "{:?}", story.notes);
}

#[test]
fn what_was_only_observed_is_told_as_what_it_is_and_changes_nothing() {
    let log = "\
2026-11-22T08:00:00Z mx postfix/cleanup[2]: AAAAA1: message-id=<o@x.example>
2026-11-22T08:00:00Z mx deskmilter[3]: AAAAA1: judged decision=refused observed=yes connector=acme message_id=<o@x.example> client=192.0.2.1 from=<a@x.example> to=<support@acme.example> size=5 forged=101 reply=\"554 5.7.1 too many\" delay_ms=1
2026-11-22T08:00:02Z mx postfix/local[5]: AAAAA1: to=<support@acme.example>, relay=local, delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)
";
    let story = story("AAAAA1", &[log]).unwrap();
    assert_eq!(states(&story), [("support@acme.example", State::Delivered)]);
    let text = story.to_string();
    assert!(text.contains("only observed it") && text.contains("without observe it would have been refused"), "{text}");
    assert!(story.advice.is_empty(), "{:?}", story.advice);
}

#[test]
fn what_a_ticket_systems_own_way_in_said_is_told() {
    let log = "\
2026-11-22T08:00:00Z INFO AAAAA1: relay decision=deferred message_id=<d@x.example> connector=acme from=<a@x.example> to=<support@acme.example> size=5 auth=- remote=\"http https://desk.example/in\" system=rt status=503 tls=- credential=- reply=\"451 4.3.2 rt: busy\" delay_ms=1
";
    let text = story("AAAAA1", &[log]).unwrap().to_string();
    assert!(text.contains("into the ticket system rt at http https://desk.example/in"), "{text}");
    assert!(text.contains("support@acme.example: in the queue"), "{text}");
}

#[test]
fn every_form_of_our_log_tells_the_same() {
    let line = crate::log::tests_line();
    let texts = line.map(|line| story("4A1B2C", &[&line]).unwrap().to_string());
    assert!(texts[0].contains("relayed") && texts[0].contains("a \"b\" \\ c"), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
}

#[test]
fn nothing_found_is_no_story_and_nonsense_does_no_harm() {
    assert_eq!(story("4XXXXX", &[RELAYED]), None);
    assert_eq!(story("", &[RELAYED]), None);
    let nonsense = "\u{0}\n: : :\nNov 99 x\n{\"time\":\ntime=\"\n4A1B2C: judged \nNov 22 08:00:00 mx deskmilter[3]: 4A1B2C: relay decision=\n";
    assert!(story("4A1B2C", &[&format!("{nonsense}{RELAYED}")]).is_some());
    let hostile = "2026-11-22T08:00:00Z INFO 4D5E6F: judged decision=tagged message_id=<r@x.example> from=<\u{202e}x\u{9b}> to=<a@b> size=1\n";
    let text = story("4D5E6F", &[hostile]).unwrap().to_string();
    assert!(!text.contains('\u{202e}') && !text.contains('\u{9b}'), "{text}");
}
