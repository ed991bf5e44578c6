//! `deskmilter postfix` where mail is signed: Postfix is kept from changing it afterwards, and the check finds what would.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use support::{PrivateKey, deskmilter, write_settled};

const DEBIAN: &str = include_str!("fixtures/postfix/debian.main.cf");

/// Lines of main.cf for a site that signs.
const SIGNED: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=accept }
non_smtpd_milters = $smtpd_milters
disable_mime_output_conversion = yes
";

/// Parts of a configuration.
const JUDGES: &str = r#"
[daemon]
hostname = "mx.acme.example"
[milter]
listen = ["unix:/var/spool/postfix/deskmilter/milter.sock"]
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
mode = "outbound-only"
addresses = ["support@acme.example"]
"#;
const SIGNS: &str = r#"
[connector.submission]
logins = [{ name = "zendesk-support", addresses = ["support@acme.example"] }]
[[connector.dkim]]
selector = "desk2026"
key_file = "desk2026.pem"
"#;
const SEALS: &str = "[outbound]\nreinjection_networks = [\"127.0.0.1/32\"]\n";

/// A Postfix configuration directory with Debian's master.cf, and a configuration of deskmilter.
struct Site(tempfile::TempDir);

impl Site {
    fn new(configuration: &[&str], main_cf: &str, master_cf: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        let debian = include_str!("fixtures/postfix/debian.master.cf");
        write_settled(&site.path("main.cf"), main_cf);
        fs::write(site.path("master.cf"), format!("{debian}{master_cf}")).unwrap();
        fs::write(site.path("deskmilter.toml"), configuration.concat()).unwrap();
        PrivateKey::rsa().write(&site.path("desk2026.pem"));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn main_cf(&self) -> String {
        fs::read_to_string(self.path("main.cf")).unwrap()
    }

    fn postfix(&self, action: &str) -> Output {
        // Spares Postfix the moment that it waits after a file was written.
        write_settled(&self.path("main.cf"), &self.main_cf());
        let mut command = Command::new(deskmilter());
        command.args(["postfix", action, "--config-directory"]).arg(self.0.path());
        command.arg("-c").arg(self.path("deskmilter.toml")).output().unwrap()
    }

    /// What the check says, but for the sockets, where nobody listens in a test, and what is all right.
    fn complaints(&self) -> Vec<String> {
        let output = self.postfix("--check");
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(lines.contains("milter attached"), "{lines}{}", String::from_utf8_lossy(&output.stderr));
        let complaints = lines.lines().filter(|line| !line.starts_with("ok") && !line.contains("socket reachable"));
        complaints.map(str::to_owned).collect()
    }
}

fn complaints(configuration: &[&str], main_cf: &str, master_cf: &str) -> Vec<String> {
    Site::new(configuration, main_cf, master_cf).complaints()
}

#[test]
fn applying_keeps_eight_bit_text_as_it_is_and_undoing_restores_every_byte() {
    for (main_cf, added) in [
        (DEBIAN.to_owned(), 1),
        (format!("{DEBIAN}disable_mime_output_conversion = no\n"), 1),
        (format!("{DEBIAN}disable_mime_output_conversion = yes\n"), 0),
    ] {
        let site = Site::new(&[JUDGES, SIGNS], &main_cf, "");
        let shown = String::from_utf8(site.postfix("--apply").stdout).unwrap();
        assert_eq!(shown.matches("+disable_mime_output_conversion = yes\n").count(), added, "{shown}");
        let complaints = site.complaints();
        assert!(complaints.is_empty(), "{complaints:?}");
        assert!(site.postfix("--undo").status.success());
        assert_eq!(site.main_cf(), main_cf);
    }
    let site = Site::new(&[JUDGES], DEBIAN, "");
    assert!(site.postfix("--apply").status.success());
    assert!(!site.main_cf().contains("disable_mime_output_conversion"), "nothing is signed");
}

#[test]
fn the_check_finds_what_changes_mail_after_it_was_signed() {
    for (main_cf, master_cf, expected) in [
        ("", "", ""),
        ("disable_mime_output_conversion = no\n", "", "fail  8-bit text: disable_mime_output_conversion = no"),
        ("", "slow unix - - y - - smtp -o disable_mime_output_conversion=no\n", "fail  8-bit text: slow/unix"),
        ("smtp_header_checks = static:IGNORE\n", "", "warn  unchanged after signing: smtp_header_checks"),
        ("smtp_body_checks = static:IGNORE\n", "", "warn  unchanged after signing: smtp_body_checks"),
        ("smtp_generic_maps = inline:{a=b}\n", "", "warn  unchanged after signing: smtp_generic_maps"),
        ("smtp_line_length_limit = 990\n", "", "warn  unchanged after signing: smtp_line_length_limit = 990"),
        ("smtp_line_length_limit = 0\n", "", ""),
        ("", "slow unix - - y - - smtp -o smtp_line_length_limit=512\n", "warn  unchanged after signing: slow/unix"),
        ("masquerade_domains = acme.example\n", "", "warn  unchanged after signing: masquerade_domains"),
        ("content_filter = smtp:[127.0.0.1]:10024\n", "", "warn  content filter: smtp/inet"),
    ] {
        let main_cf = format!("{SIGNED}{main_cf}");
        let told = complaints(&[JUDGES, SIGNS], &main_cf, master_cf);
        assert_eq!(told.len(), usize::from(!expected.is_empty()), "{main_cf}{master_cf}: {told:?}");
        assert!(told.iter().all(|line| line.starts_with(expected)), "{expected}: {told:?}");
        assert!(complaints(&[JUDGES], &main_cf, master_cf).is_empty(), "{main_cf}: nothing is signed");
    }
}

#[test]
fn a_submission_service_waits_for_deskmilter_and_other_services_do_not() {
    let submission = |action: &str| {
        format!(
            "8587 inet n - y - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n  \
             -o {{ smtpd_milters = {{ unix:deskmilter/milter.sock, default_action={action} }} }}\n"
        )
    };
    assert_eq!(complaints(&[JUDGES, SIGNS], SIGNED, &submission("tempfail")), [""; 0]);
    let told = complaints(&[JUDGES, SIGNS], SIGNED, &submission("accept"));
    assert!(told.len() == 1 && told[0].starts_with("warn  default_action: accept for 8587/inet"), "{told:?}");
    let told = complaints(&[JUDGES], SIGNED, &submission("tempfail"));
    assert!(told.len() == 1 && told[0].starts_with("fail  default_action: tempfail for 8587/inet"), "{told:?}");
}

#[test]
fn with_a_content_filter_both_passes_must_ask_deskmilter() {
    let main_cf = format!("{SIGNED}content_filter = smtp:[127.0.0.1]:10024\n");
    let back = |options: &str| format!("127.0.0.1:10025 inet n - n - - smtpd -o content_filter= {options}\n");
    let ours = "-o { smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail } }";
    let sealing = |master_cf: &str| complaints(&[JUDGES, SIGNS, SEALS], &main_cf, master_cf);
    assert_eq!(sealing(&back(ours)), [""; 0]);
    for (master_cf, words) in [
        (String::new(), ["warn  both passes: ", "no service of master.cf"]),
        (back("-o smtpd_milters="), ["fail  both passes: 127.0.0.1:10025/inet", "add deskmilter to its smtpd_milters"]),
        (
            back(&format!("{ours} -o receive_override_options=no_milters")),
            ["fail  both passes: 127.0.0.1:10025/inet", "take no_milters out of its receive_override_options"],
        ),
        (
            format!("{}8025 inet n - y - - smtpd -o receive_override_options=no_milters\n", back(ours)),
            ["fail  both passes: 8025/inet", "is not sealed"],
        ),
        (
            back(&ours.replace("tempfail", "accept")),
            ["warn  default_action: accept for 127.0.0.1:10025/inet", "default_action=tempfail"],
        ),
    ] {
        let told = sealing(&master_cf);
        assert!(told.len() == 1 && words.iter().all(|word| told[0].contains(word)), "{master_cf}: {told:?}");
    }
}
