//! Which way mail came to the desk side, what its ticket is told, and what nobody else can say of it: real Postfixes, no sandbox.

use std::time::{Duration, Instant};

use support::{Message, SmtpSession};

use crate::both::Place;
use crate::desk::issued;
use crate::sides::{Company, DeskSide, judged, said, scripted_host};

const SUPPORT: &str = "support@acme.example";
const NEW: &str = "system_authenticated_email_ticket";
const UPDATE: &str = "system_unauthenticated_email_update";
const PASS: &str = "pass; login=acme.example; reason=issued";
const NONE: &str = "none; login=-; reason=no-login";

fn from_jane(subject: &str) -> Message {
    Message::new("Jane <jane@customer.example>", SUPPORT, subject)
}

/// What the ticket system answers to a message.
fn notification(subject: &str, answers: &str) -> Message {
    let message = Message::new("Acme Support <support@acme.example>", "Jane <jane@customer.example>", subject);
    if answers.is_empty() { message } else { message.field("In-Reply-To", answers) }
}

fn told(path: &str, tags: &[&str]) -> (String, Vec<String>) {
    (path.to_owned(), tags.iter().map(|&tag| tag.to_owned()).collect())
}

/// The refusal of one transaction in a session.
fn refusal(session: &mut SmtpSession, to: &[&str]) -> String {
    let reply = session.send("jane@customer.example", to, &from_jane("Order").octets());
    format!("{} {}", reply.code, reply.text)
}

#[test]
fn mail_goes_round_between_company_and_desk_and_each_side_knows_the_other() {
    let place = Place::sqlite();
    let mut company = Company::prepare();
    let desk = DeskSide::start(&place.url(), &company.host(), "");
    let set = desk.issue("--domain acme.example");
    company.start(&desk, &set);

    let first = from_jane("Order 4711").field("X-Deskmilter-Path-Auth", "pass; login=forged; reason=issued");
    company.write_as_jane(&first.octets());
    let ticket = desk.postfix.wait_for_mail(SUPPORT, 1).remove(0);
    assert_eq!(judged(&ticket), told(PASS, &[NEW]), "{}", desk.logs());
    let word = said(&ticket, "X-Deskmilter-Sender-Auth");
    assert!(word.len() == 1 && word[0].starts_with("pass; reason=dmarc;"), "the company's word stays: {word:?}");
    let signature = support::fields(&ticket, "DKIM-Signature");
    assert_eq!(signature.len(), 1, "and so does the sender's signature");

    let note = notification("Re: [Ticket#4711] Order", first.id());
    desk.notify(&note.octets());
    let got = company.customer.wait_for(1, || company.logs()).remove(0).message;
    assert_eq!(said(&got, "In-Reply-To"), [first.id()]);
    assert!(support::fields(&got, "X-Deskmilter-Path-Auth").is_empty());

    company.write_as_jane(&from_jane("Re: Order").field("In-Reply-To", note.id()).octets());
    let update = desk.postfix.wait_for_mail(SUPPORT, 2).remove(1);
    assert_eq!(judged(&update), told(PASS, &[]), "an update is no new ticket");
    let past = desk.forwarded(SUPPORT, &from_jane("Re: Order").field("In-Reply-To", note.id()).octets());
    assert_eq!(judged(&past), told(NONE, &[UPDATE]));

    // A wrong password keeps the mail at the company, and nothing is lost.
    company.set_password("wrong");
    let waits = from_jane("Waits");
    company.write_as_jane(&waits.octets());
    company.postfix.wait_for("the refused login", |postfix| postfix.log().contains("status=deferred"));
    assert!(desk.daemon.wait_for_log("reason=wrong-password").contains("login=acme.example"));
    company.set_password(&set.password);
    desk.postfix.wait_for("the mail that waited", |_| {
        // A refused secret is not shown again at once: touching the file says that it is another one.
        company.set_password(&set.password);
        company.postfix.flush();
        desk.postfix.mailbox(SUPPORT).messages().len() == 4
    });
    let log = desk.daemon.wait_for_log("path=\"pass; login=acme.example; reason=issued\"");
    for word in [
        "decision=tagged",
        "connector=acme",
        "tls=TLSv1.3",
        "login=acme.example",
        &format!("tags={NEW}"),
        "message_id=",
    ] {
        assert!(log.contains(word), "{word} in {log}");
    }
}

#[test]
fn a_login_is_good_for_what_it_was_issued_for_and_for_nothing_else() {
    let place = Place::sqlite();
    let (_runtime, _endpoint, host) = scripted_host();
    let desk = DeskSide::start(&place.url(), &host, "");
    let acme = desk.issue("--domain acme.example");
    let billing = desk.issue("--domain acme.example --address billing@acme.example");
    let other = desk.issue("--domain other.example");

    let got = desk.send_as(&acme, SUPPORT, &from_jane("Order").octets());
    assert_eq!(judged(&got).0, PASS);
    let got = desk.send_as(&billing, "billing+4711@acme.example", &from_jane("Order").octets());
    assert_eq!(judged(&got).0, "pass; login=billing@acme.example; reason=issued");
    let got = desk.send_as(&other, "help@other.example", &from_jane("Order").octets());
    assert_eq!(judged(&got), told("pass; login=other.example; reason=issued", &[NEW]), "no connector has that domain");

    // Right after it was issued.
    let fresh = issued(&desk.credential("issue --domain desk.example --address agent@desk.example"));
    let got = desk.send_as(&fresh, "agent@desk.example", &from_jane("Order").octets());
    assert_eq!(judged(&got).0, "pass; login=agent@desk.example; reason=issued");

    for (set, to, words) in [
        (
            &acme,
            &["help@other.example"][..],
            "login acme.example was issued for acme.example and is not good for <help@other",
        ),
        (&acme, &[SUPPORT, "help@other.example"], "login acme.example was issued for acme.example"),
        (
            &billing,
            &[SUPPORT],
            "login billing@acme.example was issued for billing@acme.example and is not good for <support@acme",
        ),
        (&other, &[SUPPORT], "login other.example was issued for other.example and is not good for <support@acme"),
        (&acme, &["agent@desk.example"], "is not good for <agent@desk.example>"),
    ] {
        let said = refusal(&mut desk.login(set), to);
        assert!(said.starts_with("550 5.7.1 ") && said.contains(words), "{said}\n{}", desk.logs());
        assert!(!said.contains(&set.password));
    }
    // Nothing of what was refused is anywhere.
    desk.postfix.wait_for_empty_queue();
    assert_eq!(desk.postfix.mailbox("help@other.example").messages().len(), 1);

    assert_eq!(desk.connect_over_tls("192.0.2.1").login(&acme.user, "wrong").code, 535);
    assert_eq!(desk.connect_over_tls("192.0.2.2").login(&acme.user, &other.password).code, 535);
    assert!(!matches!(desk.connect("192.0.2.3").login(&acme.user, &acme.password).code, 235 | 334), "in the clear");
    // Who guesses is slowed down, and the owner is not.
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(desk.connect_over_tls("192.0.2.66").login(&acme.user, "guess").code, 535);
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_400), "{:?}", begun.elapsed());
    let mut open = desk.login(&acme);

    desk.credential(&format!("revoke {}", acme.number));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(desk.connect_over_tls("203.0.113.25").login(&acme.user, &acme.password).code, 535);
    let said = refusal(&mut open, &[SUPPORT]);
    assert!(said.starts_with("451 4.7.8 login acme.example was revoked"), "an open session ends, too: {said}");
}

#[test]
fn mail_without_a_credential_is_taken_and_loses_what_only_others_may_say() {
    let place = Place::sqlite();
    let (_runtime, _endpoint, host) = scripted_host();
    let desk = DeskSide::start(&place.url(), &host, "");
    let acme = desk.issue("--domain acme.example");
    let other = desk.issue("--domain other.example");
    let forged = [
        ("X-Deskmilter-Path-Auth", "pass; login=acme.example; reason=issued"),
        ("x-deskmilter-TAGS", NEW),
        ("X-DESKMILTER-Sender-Auth", "pass; reason=dmarc"),
        ("X-Deskmilter-Anything ", "x"),
        ("X-Zammad-Ticket-Priority", "3 high"),
        ("x-ZAMMAD-ignore", "true"),
        ("X-Zammad-Ticket-Owner ", "\r\n\tadmin"),
        ("Authentication-Results", "desk.example; dmarc=pass"),
    ];
    let mut message = from_jane("Order");
    for (name, value) in forged.iter().chain(&forged) {
        message = message.field(name, value);
    }
    let message = message.field("X-OTRS-Queue", "Root").field("X-Loop", "yes").octets();

    let got = desk.forwarded(SUPPORT, &message);
    assert_eq!(judged(&got), told(NONE, &[]));
    for (name, _) in forged.iter().filter(|(name, _)| !name.ends_with("Path-Auth")) {
        assert!(support::fields(&got, name.trim()).is_empty(), "{name}: {}", String::from_utf8_lossy(&got));
    }
    assert_eq!(said(&got, "X-OTRS-Queue"), ["Root"], "which is nothing to Zammad");
    assert_eq!(said(&got, "X-Loop"), ["yes"]);
    // Without a connector it may be any ticket system.
    let got = desk.forwarded("help@other.example", &message);
    assert!(support::fields(&got, "X-Zammad-Ignore").is_empty() && support::fields(&got, "X-OTRS-Queue").is_empty());

    // With a credential the ticket system's fields are the company's affair, and ours are still nobody's.
    let got = desk.send_as(&acme, SUPPORT, &message);
    assert_eq!(judged(&got), told(PASS, &[NEW]));
    assert_eq!(support::fields(&got, "X-Zammad-Ticket-Priority").len(), 2);
    assert!(
        support::fields(&got, "X-Deskmilter-Sender-Auth").is_empty(),
        "an end user wrote it, not the company's deskmilter"
    );
    assert!(support::fields(&got, "X-Deskmilter-Anything").is_empty());
    // The server of a company without deskmilter puts its own Received above what its end user makes up.
    let made_up = "Received: from pc by mx.acme.example (Postfix) with ESMTPS id 1; Sun, 22 Nov 2026 08:00:00 +0000\r\n\
        Received: by mx.acme.example (deskmilter connector=acme); Sun, 22 Nov 2026 08:00:00 +0000\r\n\
        X-Deskmilter-Sender-Auth: pass; reason=dmarc; from=acme.example\r\n";
    let got = desk.send_as(&acme, SUPPORT, &[made_up.as_bytes(), &from_jane("Order").octets()].concat());
    assert_eq!(judged(&got).0, PASS);
    assert!(said(&got, "X-Deskmilter-Sender-Auth").is_empty(), "{}", String::from_utf8_lossy(&got));

    // A domain whose sets are all revoked: forwarding goes on, and mail is taken.
    desk.credential(&format!("revoke {}", other.number));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(judged(&desk.forwarded("help@other.example", &message)), told(NONE, &[]));
    // Mail for others is none of our business.
    let got = desk.forwarded("agent@desk.example", &message);
    assert_eq!(support::fields(&got, "X-Zammad-Ignore").len(), 2);
}

fn an_update_is_told_from_a_new_ticket_and_its_way_from_that_of_the_ticket(place: Place) {
    let (_runtime, _endpoint, host) = scripted_host();
    let desk = DeskSide::start(&place.url(), &host, "");
    let set = desk.issue("--domain acme.example");
    let by_login = |message: Message| judged(&desk.send_as(&set, SUPPORT, &message.octets()));
    let by_anybody = |message: Message| judged(&desk.forwarded(SUPPORT, &message.octets()));

    let first = from_jane("Order 4711");
    assert_eq!(by_login(first.clone()), told(PASS, &[NEW]));
    // It comes again, as mail does that was answered too late: it is as new as before.
    assert_eq!(by_login(first.clone()), told(PASS, &[NEW]));
    let note = notification("[Ticket#4711] Order", first.id());
    desk.notify(&note.octets());
    for answer in [
        from_jane("Re: Order").field("In-Reply-To", note.id()),
        from_jane("Re: Order").field("References", &format!("<x@y>\r\n {}", first.id())),
        from_jane("Re: TICKET#4711"),
        from_jane("=?UTF-8?Q?Re:_=5BTicket=234711=5D?="),
    ] {
        assert_eq!(by_login(answer.clone()), told(PASS, &[]));
        assert_eq!(by_anybody(answer), told(NONE, &[UPDATE]));
    }
    // Whoever answers the stranger's answer updates the same ticket.
    let strangers = from_jane("Re: Order").field("In-Reply-To", note.id());
    assert_eq!(by_anybody(strangers.clone()), told(NONE, &[UPDATE]));
    assert_eq!(by_anybody(from_jane("Re: Re:").field("In-Reply-To", strangers.id())), told(NONE, &[UPDATE]));

    // A ticket that began without a credential, and one that an agent began.
    let plain = from_jane("Hello");
    assert_eq!(by_anybody(plain.clone()), told(NONE, &[]));
    let note = notification("[Ticket#4712] Hello", plain.id());
    desk.notify(&note.octets());
    let agents = notification("[Ticket#4713] Are you there?", "");
    desk.notify(&agents.octets());
    for id in [note.id(), agents.id()] {
        assert_eq!(by_anybody(from_jane("Re:").field("In-Reply-To", id)), told(NONE, &[]));
        assert_eq!(by_login(from_jane("Re:").field("In-Reply-To", id)), told(PASS, &[]), "an update all the same");
    }
    // What answers something else is new.
    assert_eq!(by_login(from_jane("Re: lunch").field("In-Reply-To", "<lunch@customer.example>")), told(PASS, &[NEW]));
    assert_eq!(by_anybody(from_jane("Re: [Ticket#9999]")), told(NONE, &[]));
    let kept = String::from_utf8_lossy(&place.content()).into_owned();
    for id in [first.id(), note.id(), "customer.example"] {
        assert!(!kept.contains(id.trim_matches(['<', '>'])), "{id} is in the store");
    }
}

#[test]
fn an_update_is_told_from_a_new_ticket_with_a_file_of_sqlite() {
    an_update_is_told_from_a_new_ticket_and_its_way_from_that_of_the_ticket(Place::sqlite());
}

#[test]
fn an_update_is_told_from_a_new_ticket_with_a_postgresql() {
    an_update_is_told_from_a_new_ticket_and_its_way_from_that_of_the_ticket(Place::postgres());
}

#[test]
fn tags_and_stripped_fields_are_what_the_configuration_says() {
    let place = Place::sqlite();
    let (_runtime, _endpoint, host) = scripted_host();
    let more = "strip = [\"X-Steer-*\", \"!X-Steer-Not\"]\nticket_tag = \"by_login\"\nupdate_tag = \"by_mail\"\n\
                subject_token = \"Case \"\n";
    let desk = DeskSide::start(&place.url(), &host, more);
    let set = desk.issue("--domain acme.example");
    let first = from_jane("Order").field("X-Steer-Here", "x");
    let got = desk.send_as(&set, SUPPORT, &first.octets());
    assert_eq!(judged(&got), told(PASS, &["by_login"]));
    desk.notify(&notification("Case 815: Order", first.id()).octets());
    let answer =
        from_jane("AW: case 815").field("X-Steer-Here", "x").field("X-Steer-Not", "y").field("X-Zammad-A", "z");
    let got = desk.forwarded(SUPPORT, &answer.octets());
    assert_eq!(judged(&got), told(NONE, &["by_mail"]));
    assert!(support::fields(&got, "X-Steer-Here").is_empty());
    assert_eq!((said(&got, "X-Steer-Not"), said(&got, "X-Zammad-A")), (vec!["y".to_owned()], vec!["z".to_owned()]));
}

fn while_the_store_is_away_what_was_right_a_minute_ago_still_is(mut place: Place) {
    let (_runtime, _endpoint, host) = scripted_host();
    let desk = DeskSide::start(&place.url(), &host, "");
    let set = desk.issue("--domain acme.example");
    let first = from_jane("Order");
    desk.send_as(&set, SUPPORT, &first.octets());
    let mut open = desk.login(&set);
    let send = |session: &mut SmtpSession, message: &Message| {
        let reply = session.send("jane@customer.example", &[SUPPORT], &message.octets());
        format!("{} {}", reply.code, reply.text)
    };

    place.stop();
    desk.daemon.wait_for_log("the store is away");
    let away = Instant::now();
    let second = from_jane("Another order");
    assert!(send(&mut open, &second).starts_with("250 "), "{}", desk.logs());
    assert_eq!(judged(&desk.arrived(SUPPORT)), told(PASS, &[NEW]));
    assert!(desk.forward(SUPPORT, &from_jane("Hello").octets()).code == 250, "nothing of it is asked of the store");
    let answer = from_jane("Re: Order").field("In-Reply-To", first.id());
    let reply = desk.forward(SUPPORT, &answer.octets());
    assert!(reply.code == 451 && reply.text.starts_with("4.3.0 the store is away"), "nobody can say: {reply}");
    // What came meanwhile is remembered, and a notification on its way out is not held up.
    let note = notification("Re: Another order", second.id());
    desk.notify(&note.octets());
    let patience = Duration::from_secs(80);
    support::wait_within(
        patience,
        "an end of what was known",
        || desk.logs(),
        || {
            std::thread::sleep(Duration::from_secs(1));
            send(&mut open, &from_jane("More")).starts_with("451 4.3.0 the store of issued credentials is away")
        },
    );
    assert!(away.elapsed() > Duration::from_secs(45), "{:?}", away.elapsed());
    assert_eq!(desk.forward(SUPPORT, &from_jane("Hello").octets()).code, 250, "strangers' mail never waits for that");

    place.resume();
    desk.daemon.wait_for_log("the store is there again");
    assert_eq!(judged(&desk.forwarded(SUPPORT, &answer.octets())), told(NONE, &[UPDATE]));
    std::thread::sleep(Duration::from_secs(3));
    for id in [second.id(), note.id()] {
        let answer = from_jane("Re: Another order").field("In-Reply-To", id);
        assert_eq!(judged(&desk.forwarded(SUPPORT, &answer.octets())), told(NONE, &[UPDATE]), "{}", desk.logs());
    }
    assert!(send(&mut open, &from_jane("More")).starts_with("250 "));
}

#[test]
fn while_a_file_of_sqlite_is_away_what_was_right_a_minute_ago_still_is() {
    while_the_store_is_away_what_was_right_a_minute_ago_still_is(Place::sqlite());
}

#[test]
fn while_a_postgresql_is_away_what_was_right_a_minute_ago_still_is() {
    while_the_store_is_away_what_was_right_a_minute_ago_still_is(Place::postgres());
}
