//! Trouble of our own: nothing leaves unsigned, the message stays with the ticket system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::{Company, Mta, OutboundSite, SmtpSession, Terms, deskmilter, notification};

use super::{JANE, assert_signed};

support::for_each_mta! {
    a_key_that_breaks_while_running_does_not_stop_signing,
    a_spool_that_cannot_be_written_leaves_the_message_with_the_ticket_system,
    a_daemon_that_ends_while_a_message_comes_leaves_it_with_the_ticket_system,
    no_key_and_no_password_is_ever_logged,
}

#[test]
fn a_key_that_cannot_be_used_keeps_the_daemon_from_starting_and_is_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 8] = [
        ("missing", |key| fs::remove_file(key).unwrap(), "no such file"),
        ("readable by all", |key| fs::set_permissions(key, PermissionsExt::from_mode(0o644)).unwrap(), "0644"),
        ("a folder", |key| fs::remove_file(key).and_then(|()| fs::create_dir(key)).unwrap(), ""),
        ("empty", |key| fs::write(key, "").unwrap(), ""),
        ("truncated", |key| fs::write(key, &fs::read(key).unwrap()[..600]).unwrap(), ""),
        (
            "a certificate",
            |key| {
                openssl(&format!(
                    "req -x509 -newkey ed25519 -nodes -keyout /dev/null -subj /CN=x -out {}",
                    key.display()
                ))
            },
            "",
        ),
        (
            "an EC key",
            |key| openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {}", key.display())),
            "",
        ),
        (
            "RSA-512",
            |key| openssl(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:512 -out {}", key.display())),
            "512",
        ),
    ];
    let site = OutboundSite::prepare(&Terms::default());
    let key = site.keys().join("desk2026.pem");
    let good = fs::read(&key).unwrap();
    for (what, damage, word) in cases {
        damage(&key);
        let output = Command::new(deskmilter()).arg("serve").arg("-c").arg(&site.configuration).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what}: started");
        assert!(told.contains("desk2026.pem") && told.to_lowercase().contains(word), "{what}: {told}");
        assert!(!told.contains("PRIVATE KEY"), "{what}: {told}");
        if key.is_dir() {
            fs::remove_dir(&key).unwrap();
        }
        fs::write(&key, &good).unwrap();
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn openssl(arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn a_key_that_breaks_while_running_does_not_stop_signing(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    fs::write(site.keys().join("desk2026.pem"), "nonsense").unwrap();
    assert_signed(&site, &site.deliver(&site.notification()));
}

fn a_spool_that_cannot_be_written_leaves_the_message_with_the_ticket_system(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let large = notification().body(&"0123456789\r\n".repeat(50_000)).octets();
    let spool = site.keys().join("state/spool");
    fs::rename(&spool, spool.with_extension("away")).unwrap();
    let reply = site.submit(&[JANE], &large);
    assert!(reply.code == 451 && reply.text.starts_with("4.3"), "{reply}");
    fs::rename(spool.with_extension("away"), &spool).unwrap();
    assert_eq!(site.submit(&[JANE], &large).code, 250);
    assert_signed(&site, &site.delivered(1).message);
    assert_eq!(site.customer().transactions().len(), 1);
}

#[test]
fn while_the_daemon_is_down_the_message_stays_with_the_ticket_system() {
    let mut site = OutboundSite::start(&Terms::default());
    site.daemon.kill();
    // Postfix says so from the first command on.
    let mut session = SmtpSession::connect_as(site.submission.address(), &OutboundSite::zendesk_host());
    let reply = session.command("STARTTLS");
    assert_eq!(reply.code, 454, "{reply}");
    site.daemon.resume();
    assert_signed(&site, &site.deliver(&site.notification()));
    assert_eq!(site.customer.transactions().len(), 1);
}

fn a_daemon_that_ends_while_a_message_comes_leaves_it_with_the_ticket_system(mta: Mta) {
    let mut site = Company::outbound(mta, &Terms::default());
    let message = site.notification();
    let mut session = site.login(support::SUPPORT_LOGIN);
    session.expect(250, "MAIL FROM:<support@acme.example>");
    session.expect(250, &format!("RCPT TO:<{JANE}>"));
    session.expect(354, "DATA");
    site.daemon_mut().kill();
    let reply = session.data(&message);
    assert_eq!(reply.code, 451, "{reply}");
    site.daemon_mut().resume();
    assert_signed(&site, &site.deliver(&message));
    assert_eq!(site.customer().transactions().len(), 1);
}

fn no_key_and_no_password_is_ever_logged(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    site.deliver(&site.notification());
    let log = site.daemon().log();
    let key = fs::read_to_string(site.keys().join("desk2026.pem")).unwrap();
    for line in key.lines().filter(|line| line.len() > 20) {
        assert!(!log.contains(line));
    }
    assert!(!log.contains(&site.password(support::SUPPORT_LOGIN)), "{log}");
}
