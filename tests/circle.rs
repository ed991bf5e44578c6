//! The whole circle on real servers: an end user's Postfix, the company's Postfix with deskmilter, the sandbox as the ticket system.
//! The report is green when the company does all right, and red at just the line where it does not.

#![cfg(test)]

use std::fs;

use serde_json::Value;
use support::{Circle, LmtpSink, Mta, SandboxEndpoint, Signer, Terms, Zone, circle_records, fields};

const SUPPORT: &str = "support@acme.example";
/// One signature of the company, over the core fields: what happens to a preserved field does not break it.
const CORE: Option<&str> =
    Some("[[connector.dkim]]\nselector = \"desk2026\"\nkey_file = \"desk2026.pem\"\ncover = \"core\"\n");

support::for_each_mta! {
    a_notification_comes_back_to_the_end_user_all_green,
    an_address_is_verified_by_the_message_that_goes_round_and_can_be_verified_again,
}

/// The lines of a report that are red, each down to its first two words.
fn red(report: &str) -> Vec<String> {
    let lines = report.lines().filter_map(|line| line.trim_start().strip_prefix("RED"));
    lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// A ticket of Jane's, its notification, and what the report says.
fn report(terms: &Terms) -> (i32, String) {
    let circle = Circle::start(terms);
    circle.write_as_jane("Order 4711");
    let (sent, report) = circle.notify_and_report(1);
    assert_eq!(sent.code, 0, "{}\n{}", sent.told, circle.logs());
    assert!(sent.told.contains("jane@customer.example: 250 2.0.0"), "{}", sent.told);
    (report.code, report.told)
}

fn a_notification_comes_back_to_the_end_user_all_green(mta: Mta) {
    let circle = Circle::with(mta, &Terms::default());
    let message = circle.write_as_jane("Größe");
    let ticket = circle.desk().tickets().remove(0);
    assert_eq!((&ticket.facts["auth_status"], &ticket.facts["sender_auth"]), (&"authenticated".into(), &"pass".into()));
    let (sent, report) = circle.notify_and_report(1);
    assert_eq!(sent.code, 0, "{}\n{}", sent.told, circle.logs());
    assert_eq!(report.code, 0, "{}\n{}", report.told, circle.logs());
    assert!(red(&report.told).is_empty() && report.told.ends_with("all green\n"), "{}", report.told);
    for line in [
        "ok   spf       pass    acme.example",
        "d=acme.example s=zendesk2 rsa-sha256, the ticket system's",
        "d=acme.example s=desk2026 rsa-sha256, the company's\n",
        "d=acme.example s=desk2026 rsa-sha256, the company's, over the preserved fields too\n",
        "ok   dmarc     pass    acme.example, p=reject",
        "ok   preserved Auto-Submitted, X-Auto-Response-Suppress, X-Mailer, X-Zendesk-From-Account-Id, X-Zendesk-Email-Id",
        "ok   untouched To, From, Cc, Reply-To, Message-ID, In-Reply-To, References",
    ] {
        assert!(report.told.contains(line), "{line}\n{}", report.told);
    }
    let received = circle.end_user.wait_for_mail("jane@customer.example", 1).remove(0);
    let answered = String::from_utf8(fields(&received, "In-Reply-To").remove(0)).unwrap();
    assert!(answered.contains(message.id()) && answered.contains("zendesk.com>"), "{answered}");
    let json: Value = serde_json::from_str(&circle.desk().run("report", &["--json"]).told).unwrap();
    assert_eq!((&json["green"], &json["notifications"][0]["sent"]["ticket"]), (&true.into(), &1.into()));
    // Jane answers, and it belongs to her ticket.
    let answer = circle.signer.sign(&received_answer(&received));
    circle.end_user.submit_by_sendmail("jane@customer.example", &[SUPPORT], &answer);
    support::wait_until(
        "the update",
        || circle.logs(),
        || circle.desk().tickets().first().is_some_and(|ticket| ticket.messages().len() == 2),
    );
}

/// Jane's answer to a message that she got.
fn received_answer(received: &[u8]) -> Vec<u8> {
    let id = |name| String::from_utf8(fields(received, name).remove(0)).unwrap().split_once(": ").unwrap().1.to_owned();
    let references = format!(
        "{}\r\n {}",
        id("References").trim_end().replace('\n', "\r\n").replace("\r\r", "\r"),
        id("Message-ID").trim()
    );
    support::Message::new("Jane <jane@customer.example>", SUPPORT, "Re: Order")
        .field("In-Reply-To", id("Message-ID").trim())
        .field("References", &references)
        .octets()
}

#[test]
fn a_server_that_drops_a_preserved_field_is_red_at_that_field() {
    let main_cf = "smtp_header_checks = regexp:{{/^X-Mailer:/ IGNORE}}\n";
    let (code, told) = report(&Terms { main_cf, keys: CORE, ..Terms::default() });
    assert_eq!((code, red(&told)), (1, vec!["X-Mailer missing".to_owned()]), "{told}");
    assert!(told.contains("was \"Zendesk Mailer\""), "{told}");
}

#[test]
fn a_server_that_rewrites_a_guarded_field_is_red_there_and_at_the_signatures() {
    let main_cf = "smtp_header_checks = regexp:{{/^Reply-To:.*/ REPLACE Reply-To: sales@acme.example}}\n";
    let (code, told) = report(&Terms { main_cf, keys: CORE, ..Terms::default() });
    let expected = ["dkim fail", "dkim fail", "Reply-To changed"].map(str::to_owned).to_vec();
    assert_eq!((code, red(&told)), (1, expected), "{told}");
}

#[test]
fn a_wrong_key_in_the_dns_is_red_at_the_companys_signature() {
    /// Zendesk's key where the company's should be.
    fn records(zendesk: &Signer) -> Zone {
        let mut acme = Zone::new()
            .txt("acme.example", "v=spf1 ip4:127.0.0.25 -all")
            .txt("_dmarc.acme.example", "v=DMARC1; p=reject")
            .txt("desk2026._domainkey.acme.example", &zendesk.record())
            .txt("_dmarc.customer.example", "v=DMARC1; p=reject");
        acme = Signer::new("customer.example", "mail").publish(acme);
        zendesk.publish(acme)
    }
    let (code, told) = report(&Terms { records: Some(records), keys: CORE, ..Terms::default() });
    assert_eq!((code, red(&told)), (1, vec!["dkim fail".to_owned()]), "{told}");
    assert!(told.contains("s=desk2026 rsa-sha256, the company's: "), "{told}");
}

#[test]
fn a_server_that_spf_does_not_know_is_red_at_spf() {
    let (code, told) = report(&Terms { main_cf: "smtp_bind_address = 127.0.0.66\n", ..Terms::default() });
    assert_eq!((code, red(&told)), (1, vec!["spf fail".to_owned()]), "{told}");
    assert!(told.contains("[127.0.0.66]"), "{told}");
}

#[test]
fn a_company_that_does_not_sign_is_red_at_the_signature_that_is_missing() {
    let (code, told) = report(&Terms { keys: Some(""), records: Some(circle_records), ..Terms::default() });
    assert_eq!((code, red(&told)), (1, vec!["dkim missing".to_owned()]), "{told}");
}

#[test]
fn what_the_company_refuses_or_what_never_arrives_is_red_and_told() {
    let circle = Circle::start(&Terms::default());
    circle.write_as_jane("Order 4711");
    let mut arguments = circle.host();
    arguments.extend(["1", "--to", "nobody@customer.example"].map(str::to_owned));
    let sent = circle.desk().run("notify", &arguments);
    assert!(sent.code == 0 && sent.told.contains("as zendesk-support"), "{}", sent.told);
    circle.company.wait_for_mta_log("status=bounced");
    let report = circle.desk().run("report", &["1"]);
    assert_eq!((report.code, red(&report.told)), (1, vec!["delivery missing".to_owned()]), "{}", report.told);
    // A password that was changed at the company: try again, and nothing is sent.
    let wrong = tempfile::NamedTempFile::new().unwrap();
    fs::write(wrong.path(), "wrong").unwrap();
    let place = arguments.iter().position(|argument| argument == "--password-file").unwrap() + 1;
    wrong.path().to_str().unwrap().clone_into(&mut arguments[place]);
    let refused = circle.desk().run("notify", &arguments);
    assert_eq!(refused.code, 75, "{}", refused.told);
    assert!(refused.told.contains("refused the credentials of zendesk-support"), "{}", refused.told);
    // By the transport, whose password is read anew for each login.
    let password = circle.host()[5].clone();
    fs::write(&password, "wrong").unwrap();
    let mut by_transport = circle.transport();
    by_transport.push("1".to_owned());
    let refused = circle.desk().run("notify", &by_transport);
    assert!(refused.code == 75 && refused.told.contains(" 451 4.7.8 "), "{}", refused.told);
    // No such ticket, no such file.
    arguments.retain(|argument| argument != "1");
    arguments.push("7".to_owned());
    let none = circle.desk().run("notify", &arguments);
    assert!(none.code == 78 && none.told.contains("000007"), "{}", none.told);
}

#[test]
fn a_transports_replies_are_told_for_each_recipient_and_decide_the_exit_code() {
    let desk = SandboxEndpoint::start("acme.example", &[]);
    let message = support::Message::new("Jane <jane@customer.example>", SUPPORT, "Order");
    assert_eq!(desk.session_logged_in().send("jane@customer.example", &[SUPPORT], &message.octets()).code, 250);
    let folder = support::folder("sink");
    let socket = folder.path().join("lmtp.sock");
    let arguments = ["--transport", socket.to_str().unwrap(), "1", "--cc", "bob@customer.example"];
    let down = desk.run("notify", &arguments);
    assert!(down.code == 75 && down.told.contains("jane@customer.example: 451 4.4.1"), "{}", down.told);
    let sink = LmtpSink::start(&socket);
    for (answer, code) in [("250 2.0.0 taken", 0), ("451 4.3.0 later", 75), ("550 5.1.1 nobody", 69)] {
        sink.answer(answer);
        let sent = desk.run("notify", &arguments);
        assert_eq!(sent.code, code, "{answer}: {}", sent.told);
        let words = answer.split_at(9).1.trim();
        for recipient in ["jane@customer.example: ", "bob@customer.example: "] {
            assert!(
                sent.told.contains(&format!("{recipient}{}", &answer[..9])) && sent.told.contains(words),
                "{}",
                sent.told
            );
        }
    }
    let transaction = sink.transactions().remove(0);
    assert_eq!(transaction.recipients, ["jane@customer.example", "bob@customer.example"]);
    // What was refused for good is red as that, and nobody waits for it.
    let report = desk.run("report", &["1"]);
    assert_eq!(red(&report.told).iter().filter(|line| *line == "delivery refused").count(), 2, "{}", report.told);
    // An answer to a bounce could go in circles.
    assert_eq!(
        desk.session_logged_in().send("", &[SUPPORT], &message.set("Message-ID", "<b@x.example>").octets()).code,
        250
    );
    let refused = desk.run("notify", &["--transport", socket.to_str().unwrap(), "2"]);
    assert!(refused.code == 78 && refused.told.contains("null reverse-path"), "{}", refused.told);
    assert_eq!(desk.run("notify", &["1"]).code, 64);
}

fn an_address_is_verified_by_the_message_that_goes_round_and_can_be_verified_again(mta: Mta) {
    let circle = Circle::with(mta, &Terms::default());
    for _ in 0..2 {
        let mut arguments = circle.transport();
        arguments.extend([SUPPORT, "--within", "60"].map(str::to_owned));
        let verified = circle.desk().run("verify", &arguments);
        assert_eq!(verified.code, 0, "{}\n{}", verified.told, circle.logs());
        assert!(verified.told.contains("support@acme.example  verified  came back after"), "{}", verified.told);
        assert!(verified.told.contains("with AUTH as acme.example"), "{}", verified.told);
    }
    assert_eq!(circle.desk().run("verifications", &[SUPPORT]).code, 0);
    // It makes no ticket.
    assert_eq!(circle.desk().tickets().len(), 0);
}

#[test]
fn verification_mail_that_does_not_come_back_in_time_fails_and_does_not_tick_later() {
    let mut circle = Circle::start(&Terms::default());
    circle.company.desk_mut().restart_with(&["--fault", "tempfail"]);
    let mut arguments = circle.host();
    arguments.extend([SUPPORT, "--within", "1"].map(str::to_owned));
    let failed = circle.desk().run("verify", &arguments);
    assert_eq!(failed.code, 1, "{}", failed.told);
    assert!(failed.told.contains("failed  not returned within 1 s"), "{}", failed.told);
    circle.company.desk_mut().restart_with(&[]);
    circle.company.wait_for_empty_queue();
    let late = circle.desk().run("verifications", &[SUPPORT]);
    assert!(late.code == 1 && late.told.contains("came back later than 1 s"), "{}", late.told);
}

#[test]
fn only_the_authenticated_unaltered_return_ticks() {
    let circle = Circle::start(&Terms::default());
    let desk = circle.desk();
    // A transport takes it and keeps it: the message never goes round by itself.
    let folder = support::folder("sink");
    let sink = LmtpSink::start(&folder.path().join("lmtp.sock"));
    let socket = folder.path().join("lmtp.sock").display().to_string();
    let pending = desk.run("verify", &["--transport", &socket, SUPPORT, "--no-wait"]);
    assert_eq!(pending.code, 75, "{}", pending.told);
    assert!(pending.told.contains("pending"), "{}", pending.told);
    let sent = String::from_utf8(sink.transactions().remove(0).message).unwrap();
    let verdict = "X-Deskmilter-Sender-Auth: pass; reason=smtp-auth\r\n";
    let genuine = format!("{verdict}{sent}");
    let token = sent.lines().find(|line| line.starts_with("Subject: ")).unwrap().rsplit(' ').next().unwrap();
    let state = || desk.run("verifications", &[SUPPORT]);

    let forged = desk.session().send(SUPPORT, &[SUPPORT], genuine.as_bytes());
    assert_eq!(forged.code, 250, "{forged}");
    assert!(state().told.contains("failed  came back unauthenticated"), "{}", state().told);
    let guess = genuine.replace(token, &"0".repeat(token.len()));
    for (what, message) in [
        ("came back with a wrong token", guess),
        ("the company's verdict on its sender is none", sent.clone()),
        ("the company's verdict on its sender is fail", genuine.replace("Auth: pass", "Auth: fail")),
        ("altered: X-Mailer missing", genuine.replace("X-Mailer: Zendesk Mailer\r\n", "")),
        ("altered: the body", format!("{genuine}disclaimer\r\n")),
    ] {
        let reply = desk.session_logged_in().send(SUPPORT, &[SUPPORT], message.as_bytes());
        assert_eq!(reply.code, 250, "{what}: {reply}");
        assert!(state().code == 1 && state().told.contains(what), "{what}: {}", state().told);
    }
    // None of them was swallowed.
    assert_eq!(desk.tickets().iter().map(|ticket| ticket.messages().len()).sum::<usize>(), 6);
    let genuine_reply = desk.session_logged_in().send(SUPPORT, &[SUPPORT], genuine.as_bytes());
    assert!(genuine_reply.text.contains("verified"), "{genuine_reply}");
    assert_eq!(state().code, 0, "{}", state().told);
    // What comes later does not take the tick away, and is no second one.
    desk.session().send(SUPPORT, &[SUPPORT], genuine.as_bytes());
    assert_eq!(state().code, 0, "{}", state().told);
    assert_eq!(desk.tickets().iter().map(|ticket| ticket.messages().len()).sum::<usize>(), 7);
}
