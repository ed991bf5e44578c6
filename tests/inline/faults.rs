//! Each fault of the endpoint, and what its client hears of it.

use std::time::{Duration, Instant};

use support::endpoint::{Action, Certificate, Endpoint, Script};

use super::{PASSWORD, STRANGER, SUPPORT, connect, message, on, site, submit, taken};

/// Fault, script, and how the reply begins and what it holds.
fn faults() -> Vec<(&'static str, Script, u16, &'static str)> {
    use Action::{Close, Endless, Hang, Say};
    let certificate = |certificate| Script { certificate, ..Script::default() };
    vec![
        ("silent", on("GREETING", Hang), 451, "4.4.2 "),
        ("closes at once", on("GREETING", Close), 451, "4.4.2 "),
        ("speaks HTTP", on("GREETING", Say("HTTP/1.1 400 Bad Request\r\n")), 451, "4.5.0 "),
        ("endless reply", on("EHLO", Endless), 451, "4.5.0 "),
        ("no STARTTLS", Script { plain: vec![], ..Script::default() }, 451, "4.7.4 "),
        ("expired certificate", certificate(Certificate::Expired), 451, "certificate expired"),
        ("self-signed certificate", certificate(Certificate::SelfSigned), 451, "4.7.5 "),
        ("password refused", Script { passwords: vec![], ..Script::default() }, 451, "4.7.8 "),
        ("directory down at AUTH", on("AUTH", Say("454 4.7.0 directory down\r\n")), 454, "directory down"),
        ("4xx to MAIL", on("MAIL", Say("451 4.3.0 come later\r\n")), 451, "come later"),
        ("5xx to RCPT", on("RCPT", Say("550 5.1.1 no such ticket queue\r\n")), 550, "5.1.1 "),
        ("drops in mid-DATA", on("CONTENT", Close), 451, "4.4.2 "),
        ("4xx after the message", on("DOT", Say("452 4.3.1 disk full\r\n")), 452, "disk full"),
        ("5xx in lines", on("DOT", Say("554-5.6.0 no thanks\r\n554 5.6.0 100% sure\r\n")), 554, "100% sure"),
        ("no enhanced code", on("DOT", Say("554 just no\r\n")), 554, "just no"),
        ("enhanced code of another class", on("DOT", Say("554 4.2.0 what now\r\n")), 554, "what now"),
        ("drops after the message", on("DOT", Close), 451, "unknown whether it was taken"),
        ("nonsense after the message", on("DOT", Say("what?\r\n")), 451, "4.5.0 "),
        ("hangs after the message", on("DOT", Hang), 451, "4.4.2 "),
    ]
}

#[test]
fn each_fault_of_the_endpoint_is_told_to_the_client_and_leaves_nothing_behind() {
    let mut site = site("deadline = \"5s\"", "always_bcc = someone@other.example\n");
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("| fault | the client hears | tickets |\n| --- | --- | --- |");
    for (n, (what, script, code, words)) in faults().into_iter().enumerate() {
        let endpoint = runtime.block_on(Endpoint::start(script));
        site.point_at(endpoint.port, &endpoint.ca);
        let message = message(what);
        let reply = submit(&site, &[SUPPORT], &message);
        let number = taken(&endpoint);
        println!("| {what} | {} | {number} |", reply.to_string().replace('\n', " / "));
        assert!(reply.code == code && reply.text.contains(words), "{what}: {reply}\n{}", site.daemon.log());
        assert_eq!(number, 0, "{what}");
        assert!(site.postfix.queue().is_empty(), "{what}");
        // The client comes again, and all is well.
        let well = runtime.block_on(Endpoint::start(Script::default()));
        site.point_at(well.port, &well.ca);
        let reply = submit(&site, &[SUPPORT], &message);
        assert_eq!((reply.code, taken(&well)), (250, 1), "after {what}: {reply}");
        site.postfix.wait_for_mail("someone@other.example", n + 1);
    }
    let log = site.daemon.log();
    assert!(log.contains("ERROR") && !log.contains(PASSWORD));
}

#[test]
fn while_an_endpoint_is_down_its_mail_is_put_off_at_rcpt_and_ordinary_mail_flows() {
    let mut site = site("", "");
    site.desk.stop();
    let message = message("while it is down");
    for _ in 0..3 {
        let reply = submit(&site, &[SUPPORT], &message);
        assert!(reply.code == 451 && reply.text.contains("4.4.1"), "{reply}");
    }
    let mut session = connect(site.postfix.address());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    let reply = session.expect(451, &format!("RCPT TO:<{SUPPORT}>"));
    assert!(reply.text.starts_with("4.4.1 "), "{reply}");
    session.expect(250, &format!("RCPT TO:<{}>", super::SALES));
    session.expect(354, "DATA");
    assert_eq!(session.data(&message).code, 250);

    site.desk.resume();
    let since = Instant::now();
    loop {
        if submit(&site, &[SUPPORT], &message).code == 250 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{}", site.daemon.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(site.desk.tickets().len(), 1);
    let log = site.daemon.log();
    assert_eq!((log.matches("endpoint is down").count(), log.matches("endpoint is up again").count()), (1, 1), "{log}");
}

#[test]
fn while_the_daemon_is_down_clients_wait_and_nothing_comes_past_it() {
    let mut site = site("", "");
    site.daemon.kill();
    let message = message("nobody there");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 451);
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250);
    assert_eq!(site.desk.tickets().len(), 1);
}
