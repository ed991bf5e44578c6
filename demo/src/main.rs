//! `make demo`: the whole circle, in both directions, on real mail servers. Starts, on loopback and in temporary folders, an end
//! user's Postfix, the company's Postfix or Exim (`make demo MTA=exim`) with deskmilter, and the sandbox as the ticket system; a mail
//! becomes a ticket, an impostor's becomes a marked one, the support address is verified, the ticket is answered; ends with the
//! report of what the end user's provider saw of the answer, and with 0 only if all of it is green. Cleans up.

use std::process::ExitCode;
use std::time::Duration;

use support::{COMPANY, Circle, Client, Message, Mta, Terms, Ticket};

/// Longer than this the demo never takes.
const DEADLINE: Duration = Duration::from_secs(90);

/// Somebody else's mail server.
const IMPOSTOR: (&str, &str) = ("203.0.113.66", "host66.elsewhere.example");

/// The tag of a ticket that came over the authenticated path, whoever its sender is.
const AUTHENTICATED: &str = "system_authenticated_email_ticket";

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("demo: private mail servers must be started as root; run: sudo make demo");
        return ExitCode::FAILURE;
    }
    let mta = match std::env::args().nth(1).as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("postfix") => Mta::Postfix,
        Some("exim") => Mta::Exim,
        Some(other) => {
            eprintln!("demo: {other:?} is no mail server of this demo; write postfix or exim");
            return ExitCode::FAILURE;
        }
    };
    // Each step fails by panicking with what it waited for and the log that explains it; unwinding ends every process.
    let demo = std::thread::spawn(move || demo(mta));
    let start = std::time::Instant::now();
    while !demo.is_finished() {
        if start.elapsed() > DEADLINE {
            eprintln!("demo: not done after {} s; the step shown last hangs", DEADLINE.as_secs());
            return ExitCode::FAILURE;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    match demo.join() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            eprintln!("demo: the step shown last failed, for the reason above");
            ExitCode::FAILURE
        }
    }
}

fn demo(mta: Mta) {
    let company = format!("{mta:?}");
    println!("-- customer.example: Jane's Postfix, where her provider judges what comes in");
    println!("-- acme.example: {company} with submission (TLS, Dovecot SASL) and deskmilter; sends from {COMPANY}");
    println!("-- the ticket system: deskmilter sandbox, and deskmilter as its transport to acme.example");
    let circle = Circle::with(mta, &Terms::default());

    println!(
        "\n== 1. Jane writes to support@acme.example: her Postfix -> {company}, deskmilter -> TLS, AUTH -> ticket"
    );
    circle.write_as_jane("Where is order 4711?");
    let jane = circle.desk().tickets().pop().expect("Jane's ticket");
    show(&jane);
    assert_eq!(jane.facts["sender_auth"], "pass", "Jane's provider signed her mail");

    println!("\n== 2. An impostor writes in her name, from {} [{}]", IMPOSTOR.1, IMPOSTOR.0);
    let spoofed = Message::new("Jane <jane@customer.example>", "support@acme.example", "Change my bank account");
    let impostor = Client::new(IMPOSTOR.0, IMPOSTOR.1);
    let to = ["support@acme.example"];
    let reply = circle.company.receive(&impostor, "jane@customer.example", &to, &spoofed.octets());
    assert_eq!(reply.code, 250, "{company} takes the message: {reply}");
    let spoofed = circle.desk().wait_for_tickets(2).pop().expect("the impostor's ticket");
    show(&spoofed);
    assert_eq!(spoofed.facts["sender_auth"], "fail", "customer.example disowns it");

    println!(
        "\n== 3. Verification mail: transport -> TLS, AUTH -> {company}, deskmilter -> TLS, AUTH -> ticket system"
    );
    let mut verify = circle.transport();
    verify.extend(["support@acme.example", "--within", "30"].map(str::to_owned));
    let verified = circle.desk().run("verify", &verify);
    indented(verified.told.lines().last().unwrap_or_default());
    assert_eq!(verified.code, 0, "the address is verified\n{}\n{}", verified.told, circle.logs());

    println!("\n== 4. Ticket 1 is answered: transport -> TLS, AUTH -> {company}, deskmilter signs -> Jane's Postfix");
    let (sent, report) = circle.notify_and_report(1);
    indented(&sent.told);
    assert_eq!(sent.code, 0, "the company takes the notification\n{}", circle.logs());
    let log = circle.company.daemon().log();
    let signed = log.lines().rev().find_map(|line| line.split_once(" signed=")?.1.split(' ').next());
    println!("   deskmilter signed as {}", signed.unwrap_or("nobody"));

    println!("\n== 5. What Jane's provider saw of it: deskmilter sandbox report 1");
    indented(&report.told);
    assert_eq!(report.code, 0, "the report is all green\n{}", circle.logs());
    let mail = circle.end_user.wait_for_mail("jane@customer.example", 1);
    assert_eq!(mail.len(), 1, "Jane has the answer, once");
    drop(circle);
    println!("\ndemo: once round, all green; everything is stopped and removed");
}

fn show(ticket: &Ticket) {
    let name = ticket.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fact = |name: &str| ticket.facts[name].as_str().unwrap_or("-").to_owned();
    println!("   ticket {name}: {}, {}", fact("auth_status"), ticket.tags().join(" "));
    println!("   sender: {}, {}", fact("sender_auth"), fact("sender_auth_reasons"));
    assert_eq!(ticket.tags(), [AUTHENTICATED], "it came over TLS with AUTH");
}

fn indented(text: &str) {
    text.lines().for_each(|line| println!("   {line}"));
}
