//! By HTTP: what the ticket system is asked, and what each of its answers comes to.

use std::fs;
use std::time::{Duration, Instant};

use support::endpoint::Certificate;
use support::{DeliverySite, HttpAnswer, TICKET_SECRET, TICKET_SECRET_BASE64, TicketHttp};

use super::MESSAGE;

const SUPPORT: &[&str] = &["support@acme.example"];

fn os_ticket(certificate: Certificate, answer: HttpAnswer) -> (DeliverySite, TicketHttp) {
    let ticket = TicketHttp::https(answer, certificate);
    let lines = format!("preset = \"osticket\"\nurl = \"{}\"\nkey_file = \"key\"\nca_file = \"ca.pem\"", ticket.url());
    (DeliverySite::start(&lines, Some(ticket.ca())), ticket)
}

fn plain(preset: &str, proof: &str, answer: HttpAnswer) -> (DeliverySite, TicketHttp) {
    let ticket = TicketHttp::plain(answer);
    (DeliverySite::start(&format!("preset = \"{preset}\"\nurl = \"{}\"\n{proof}", ticket.url()), None), ticket)
}

#[test]
fn osticket_gets_each_octet_with_its_key_and_its_ticket_number_stands_in_the_reply() {
    let (site, ticket) = os_ticket(Certificate::Good, HttpAnswer::OsTicket);
    let replies = site.send(&["support@acme.example", "Billing+9@acme.example"], MESSAGE);
    assert!(
        replies.iter().all(|reply| reply.code == 250 && reply.text == "2.0.0 osticket: HTTP 201: 471100"),
        "{replies:?}"
    );
    let [request] = ticket.requests().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/api/tickets.email"));
    assert_eq!((request.header("x-api-key"), request.header("content-type")), (TICKET_SECRET, "message/rfc822"));
    assert_eq!(
        (request.header("host"), request.header("connection")),
        (ticket.url().trim_start_matches("https://"), "close")
    );
    assert!(request.content == MESSAGE, "{}", String::from_utf8_lossy(&request.content));
    let log = site.daemon.wait_for_log(" relay ");
    for words in [
        "decision=relayed",
        "connector=acme",
        "system=osticket",
        "status=\"HTTP 201\"",
        " 4XyzAb1kQ9z1: relay ",
        "TLSv1.3",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!site.daemon.log().contains(TICKET_SECRET));
}

#[test]
fn each_answer_of_osticket_and_each_failure_has_its_reply() {
    use HttpAnswer::{Close, CloseAmid, Endless, Hang, Octets, OsTicket, Say};
    let (site, ticket) = os_ticket(Certificate::Good, OsTicket);
    for (answer, code, words, log) in [
        (
            Say(200, "", "<html>welcome</html>"),
            451,
            "4.3.5 osticket: HTTP 200; no success of osticket: that would be 201",
            "ERROR",
        ),
        (Say(400, "", "Unexpected or invalid data received"), 451, "4.3.0 osticket: HTTP 400: Unexpected", "WARN"),
        (Say(401, "", "Valid API key required"), 451, "4.7.0 osticket: HTTP 401 (not let in): Valid API key", "ERROR"),
        (Say(403, "", "Ticket denied"), 451, "4.7.1 osticket: HTTP 403: Ticket denied", "WARN"),
        (Say(404, "", "<html>"), 451, "4.3.5 osticket: HTTP 404 (is the url right?)", "ERROR"),
        (Say(413, "", ""), 451, "4.3.4 osticket: HTTP 413 (too large for its web server)", "ERROR"),
        (Say(415, "", "Unsupported data format"), 554, "5.6.0 osticket: HTTP 415: Unsupported", "decision=refused"),
        (Say(416, "", ""), 554, "5.6.0 osticket: HTTP 416", "decision=refused"),
        (Say(417, "", ""), 554, "5.6.0 osticket: HTTP 417", "decision=refused"),
        (Say(429, "Retry-After: 60\r\n", ""), 451, "4.3.2 osticket: HTTP 429", "WARN"),
        (Say(500, "", "Unable to create new ticket: unknown error"), 451, "4.3.0 osticket: HTTP 500: Unable", "WARN"),
        (Say(501, "", ""), 554, "5.6.0 osticket: HTTP 501", "decision=refused"),
        (Say(503, "", "down for maintenance"), 451, "4.3.2 osticket: HTTP 503: down", "WARN"),
        (
            Say(302, "Location: https://elsewhere.example/\r\n", ""),
            451,
            "4.3.5 osticket: HTTP 302 (not followed; it leads to https://elsewhere",
            "ERROR",
        ),
        (
            Octets(b"hello\r\nworld\r\n\r\n"),
            451,
            "4.5.0 osticket: localhost: answered nonsense, after the whole message was sent, unknown whether",
            "WARN",
        ),
        (
            Octets(b"HTTP/1.1 201 Created\r\nContent-Le"),
            451,
            "4.4.2 osticket: localhost: lost connection, after the whole",
            "WARN",
        ),
        (
            Octets(b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n4711"),
            250,
            "2.0.0 osticket: HTTP 201: 4711",
            "decision=relayed",
        ),
        (
            Octets(
                b"HTTP/1.1 201 Created\r\nX-Folded: a\r\n b\r\nX-Blank : a\r\nno field\r\nX-\xfc: a\r\nContent-Length: 4\r\n\r\n4711",
            ),
            250,
            "2.0.0 osticket: HTTP 201: 4711",
            "decision=relayed",
        ),
        (
            Octets(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 201 Created\r\n\
                Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;x=y\r\n47\r\n2\r\n11\r\n0\r\nX-Sum: 1\r\n\r\n",
            ),
            250,
            "2.0.0 osticket: HTTP 201: 4711",
            "decision=relayed",
        ),
        (
            Octets(b""),
            451,
            "4.4.2 osticket: localhost: lost connection, after the whole message was sent, unknown",
            "WARN",
        ),
        (Close, 451, "4.4.2 osticket: localhost: lost connection", "WARN"),
        (CloseAmid, 451, "4.4.2 osticket: localhost: lost connection", "WARN"),
        (Endless, 451, "4.3.5 osticket: HTTP 200: ooooo", "ERROR"),
        (Hang, 451, "4.4.2 osticket: localhost: timed out, unknown whether it was taken", "WARN"),
        (OsTicket, 250, "2.0.0 osticket: HTTP 201: 471100", "decision=relayed"),
    ] {
        let before = (ticket.connections(), site.daemon.log().len());
        ticket.answer(answer.clone());
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == code && reply.text.contains(words), "{answer:?}: {reply}");
        assert_eq!(ticket.connections(), before.0 + 1, "{answer:?}");
        let told = || site.daemon.log().get(before.1..).unwrap_or_default().to_owned();
        support::wait_until("both lines", told, || told().contains(" relay ") && told().contains(log));
    }
}

#[test]
fn nothing_is_shown_to_a_server_whose_certificate_does_not_hold() {
    for (certificate, words) in [
        (Certificate::Expired, "certificate expired"),
        (Certificate::NotYet, "certificate not valid yet"),
        (Certificate::OtherName, "certificate not valid for the name localhost"),
        (Certificate::SelfSigned, "self-signed or from an unknown issuer"),
        (Certificate::OtherCa, "unknown issuer"),
    ] {
        let (site, ticket) = os_ticket(certificate, HttpAnswer::OsTicket);
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == 451 && reply.text.starts_with("4.7.5 osticket: localhost: no trusted TLS"), "{reply}");
        assert!(reply.text.contains(words), "{reply}");
        assert!(ticket.requests().is_empty() && site.daemon.wait_for_log("ERROR").contains(words));
    }
}

#[test]
fn a_system_that_is_down_leaves_the_message_with_the_caller() {
    let port = support::free_port();
    let site = DeliverySite::start(&format!("preset = \"rt\"\nurl = \"http://127.0.0.1:{port}\""), None);
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.starts_with("4.4.1 rt: 127.0.0.1: cannot connect: "), "{reply}");
}

#[test]
fn who_says_success_before_the_whole_message_was_sent_is_not_believed() {
    let (site, ticket) =
        os_ticket(Certificate::Good, HttpAnswer::Early(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n4711"));
    let large = [MESSAGE, b"x".repeat(70).as_slice(), b"\r\n"].concat();
    let large = [large, b"0123456789abcdef0123456789abcdef\r\n".repeat(800_000)].concat();
    let [reply] = site.send(SUPPORT, &large).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.contains("HTTP 201 before the whole message was sent"), "{reply}");
    assert!(ticket.requests().is_empty());
}

#[test]
fn who_refuses_a_large_message_by_its_header_section_alone_is_heard() {
    let (site, ticket) =
        os_ticket(Certificate::Good, HttpAnswer::Early(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"));
    let large = [MESSAGE, b"0123456789abcdef0123456789abcdef\r\n".repeat(800_000).as_slice()].concat();
    let [reply] = site.send(SUPPORT, &large).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.starts_with("4.3.4 osticket: HTTP 413 (too large"), "{reply}");
    assert!(ticket.requests().is_empty());
}

#[test]
fn a_success_counts_though_the_end_of_the_answer_never_comes() {
    let proof = |lines: &str| format!("{lines}\ndeadline = \"20s\"");
    for (preset, lines, answer) in [
        ("osticket", proof("key_file = \"key\""), &b"HTTP/1.1 201 Created\r\n\r\n4711"[..]),
        ("osticket", proof("key_file = \"key\""), b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("rt", String::new(), b"HTTP/1.1 200 OK\r\n\r\nok\nTicket: 1\n"),
        ("gitlab", "jwt_secret_file = \"key.base64\"".to_owned(), b"HTTP/1.1 200 OK\r\n\r\n{\"success\":true}"),
    ] {
        let (site, _ticket) = plain(preset, &lines, HttpAnswer::Unfinished(answer));
        let begun = Instant::now();
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == 250, "{preset}: {reply}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{preset}: {:?}", begun.elapsed());
    }
    let (site, _ticket) = plain("rt", "", HttpAnswer::Unfinished(b"HTTP/1.1 200 OK\r\n\r\nok"));
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.contains("cut off, unknown whether it was taken"), "{reply}");
}

#[test]
fn a_message_that_was_not_sent_to_its_end_is_told_apart_from_one_that_may_have_been_taken() {
    let (site, _ticket) = plain("rt", "", HttpAnswer::Deaf);
    let large = [MESSAGE, b"0123456789abcdef0123456789abcdef\r\n".repeat(800_000).as_slice()].concat();
    let [reply] = site.send(SUPPORT, &large).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.ends_with("timed out before the whole message was sent"), "{reply}");
}

#[test]
fn action_mailbox_and_chatwoot_get_the_message_with_their_password() {
    for preset in ["action-mailbox", "chatwoot"] {
        let (site, ticket) = plain(preset, "password_file = \"key\"", HttpAnswer::ActionMailbox);
        assert_eq!(site.send(SUPPORT, MESSAGE)[0].text, format!("2.0.0 {preset}: HTTP 204"));
        assert!(ticket.requests()[0].content == MESSAGE);
        site.set_secret("key", "wrong");
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == 451 && reply.text.starts_with("4.7.0 "), "{reply}");
        // A replaced secret counts at once.
        site.set_secret("key", TICKET_SECRET);
        assert_eq!(site.send(SUPPORT, MESSAGE)[0].code, 250);
        fs::remove_file(site.folder().join("key")).unwrap();
        let requests = ticket.connections();
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == 451 && reply.text.contains("/key: "), "{reply}");
        assert_eq!(ticket.connections(), requests, "without a secret nobody is asked");
    }
}

#[test]
fn gitlab_takes_the_token_and_no_other() {
    let (site, ticket) = plain("gitlab", "jwt_secret_file = \"key.base64\"", HttpAnswer::GitLab);
    assert_eq!(site.send(SUPPORT, MESSAGE)[0].text, "2.0.0 gitlab: HTTP 200: {\"success\":true}");
    assert!(ticket.requests()[0].content == MESSAGE);
    site.set_secret("key.base64", "d3Jvbmcgc2VjcmV0");
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.starts_with("4.7.0 gitlab: HTTP 401"), "{reply}");
    let tokens: Vec<_> =
        ticket.requests().iter().map(|request| request.header("gitlab-mailroom-api-request").to_owned()).collect();
    assert!(tokens[0] != tokens[1] && !site.daemon.log().contains(&tokens[0]));
}

#[test]
fn a_system_that_repeats_the_secret_does_not_get_it_into_replies_or_the_log() {
    let (site, ticket) = plain("osticket", "key_file = \"key\"", HttpAnswer::OsTicket);
    ticket.answer(HttpAnswer::Say(500, "", "no ticket for S3CRETKEY4711S3CRETKEY4711"));
    let [error] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    ticket.answer(HttpAnswer::Say(302, "Location: http://127.0.0.1/?key=S3CRETKEY4711S3CRETKEY4711\r\n", ""));
    let [redirection] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    site.daemon.wait_for_log("HTTP 302");
    for text in [error.text, redirection.text, site.daemon.log()] {
        assert!(!text.contains(TICKET_SECRET) && !text.contains(TICKET_SECRET_BASE64), "{text}");
    }
}

#[test]
fn a_large_message_is_streamed() {
    let (mut site, ticket) = plain("rt", "deadline = \"60s\"", HttpAnswer::Rt);
    assert_eq!(site.send(SUPPORT, MESSAGE)[0].code, 250);
    let pid = site.daemon.pid();
    let peak = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok()).unwrap()
    };
    let before = peak();
    let large =
        [MESSAGE, b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(250_000).as_slice()]
            .concat();
    assert_eq!(site.send(SUPPORT, &large)[0].code, 250);
    let grown = peak().saturating_sub(before);
    assert!(grown < 12 * 1024, "{} MiB took {grown} KiB of memory", large.len() >> 20);
    let lf = String::from_utf8_lossy(&large).replace("\r\n", "\n");
    assert!(String::from_utf8_lossy(&ticket.requests()[1].form()["message"]) == lf);
}

#[test]
fn a_reload_leads_elsewhere_and_a_replaced_authority_counts_without_one() {
    let (old, new) = (TicketHttp::plain(HttpAnswer::Rt), TicketHttp::https(HttpAnswer::Rt, Certificate::Good));
    let mut site = DeliverySite::start(&format!("preset = \"rt\"\nurl = \"{}\"", old.url()), Some(old.ca()));
    let file = site.folder().join("deskmilter.toml");
    let text = fs::read_to_string(&file).unwrap().replace(&old.url(), &format!("{}\"\nca_file = \"ca.pem", new.url()));
    fs::write(&file, text).unwrap();
    site.daemon.reload();
    let told = site.daemon.wait_for_log("configuration reloaded");
    assert!(told.contains("changed=acme"), "{told}");
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.starts_with("4.7.5 "), "{reply}");
    fs::write(site.folder().join("ca.new"), new.ca()).unwrap();
    fs::rename(site.folder().join("ca.new"), site.folder().join("ca.pem")).unwrap();
    site.daemon.wait_for_log("replaced files taken over");
    assert_eq!(site.send(SUPPORT, MESSAGE)[0].code, 250);
    assert_eq!((old.connections(), new.requests().len()), (0, 1));
}

#[test]
fn only_support_addresses_of_the_connector_are_taken() {
    let (site, ticket) = plain("rt", "", HttpAnswer::Rt);
    let mut client = support::LmtpClient::connect(&site.socket());
    assert_eq!(client.command("MAIL FROM:<jane@end.example>").code, 250);
    let reply = client.command("RCPT TO:<sales@acme.example>");
    assert!(reply.code == 451 && reply.text.contains("not a support address"), "{reply}");
    assert_eq!(ticket.connections(), 0);
}

#[test]
fn a_message_that_goes_round_is_refused_and_nobody_is_asked() {
    let (site, ticket) = plain("rt", "", HttpAnswer::Rt);
    let again = [b"Delivered-To: support@acme.example\r\n".repeat(4).as_slice(), MESSAGE].concat();
    let [reply] = site.send(SUPPORT, &again).try_into().unwrap();
    assert!(reply.code == 554 && reply.text.starts_with("5.4.6 mail loop"), "{reply}");
    assert_eq!(ticket.connections(), 0);
}

#[test]
fn each_queue_of_rt_has_its_own_post_and_its_own_reply() {
    let queues = "queue = \"General\"\nqueues = [{ address = \"billing@acme.example\", queue = \"Missing\" }]";
    let (site, ticket) = plain("rt", queues, HttpAnswer::Rt);
    let replies = site.send(&["billing@acme.example", "support@acme.example", "support+2@acme.example"], MESSAGE);
    assert_eq!(replies.iter().map(|reply| reply.code).collect::<Vec<_>>(), [451, 250, 250]);
    let queues: Vec<_> = ticket.requests().iter().map(|request| request.form()["queue"].clone()).collect();
    assert_eq!(queues, [b"Missing".to_vec(), b"General".to_vec()]);
}

#[test]
fn the_deadline_holds_however_slow_the_system_is() {
    let (site, _ticket) = os_ticket(Certificate::Good, HttpAnswer::Hang);
    let begun = Instant::now();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let sent: Vec<_> = (0..12).map(|_| scope.spawn(|| site.send(SUPPORT, MESSAGE).remove(0))).collect();
        sent.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| reply.code == 451), "{replies:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
