//! The company's own mail: which of several `[[signing]]` entries sign it, and mail without a Date.

use super::*;

/// Entries that overlap; one key stands twice.
const ENTRIES: &str = r#"
[daemon]
hostname = "mx.acme.example"
[authentication]
name_servers = ["127.0.0.1:9"]
[[signing]]
domain = "acme.example"
selector = "rsa"
key_file = "rsa.pem"
sign_for = ["ann@acme.example"]
[[signing]]
domain = "acme.example"
selector = "mail"
key_file = "ed.pem"
sign_for = ["*@acme.example"]
[[signing]]
domain = "acme.example"
selector = "rsa"
key_file = "rsa.pem"
sign_for = ["*@*.example"]
"#;

fn from(author: &str) -> Mail {
    let message = format!("From: {author}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0000\r\n\r\na\r\n");
    mail(connection("local", None, false), "", "x@b.example", message.as_bytes())
}

#[tokio::test]
async fn every_entry_signs_or_the_first_one_of_the_file_alone() {
    let every = site().pipeline(ENTRIES);
    let first = site().pipeline(&format!("{ENTRIES}[outbound]\nsign_with = \"first\"\n"));
    for (author, by_every, by_first) in [
        ("ann@acme.example", vec!["rsa", "mail"], vec!["rsa"]),
        ("Bob <BOB@ACME.example>", vec!["rsa", "mail"], vec!["mail"]),
        ("ann@other.example", vec!["rsa"], vec!["rsa"]),
        ("ann@acme.test", vec![], vec![]),
    ] {
        for (pipeline, expected) in [(&every, by_every), (&first, by_first)] {
            let wire = pass(pipeline, &from(author)).await.unwrap();
            assert_eq!(Verifier::new().verify(&wire).await, passes(&expected), "{author}");
        }
    }
}

#[test]
fn a_selector_of_two_keys_and_an_order_of_nothing_are_problems() {
    let problems = |text: &str| Config::parse(text, &site().file()).unwrap_err().to_string();
    let other = ENTRIES.replacen("key_file = \"rsa.pem\"", "key_file = \"ed.pem\"", 1);
    assert!(problems(&other).contains("selector rsa of acme.example stands twice"), "{}", problems(&other));
    let empty = "[daemon]\nhostname = \"mx.acme.example\"\n[outbound]\nsign_with = \"first\"\n";
    assert!(problems(empty).contains("outbound.sign_with") && problems(empty).contains("no effect"));
    let unknown = format!("{ENTRIES}[outbound]\nsign_with = \"last\"\n");
    assert!(problems(&unknown).contains("\"every\" or \"first\""), "{}", problems(&unknown));
}

#[tokio::test]
async fn mail_without_an_author_is_nobodys_to_sign_and_of_two_authors_is_refused() {
    let pipeline = site().pipeline(CONFIG);
    let own = |message: &str| mail(connection("local", None, false), "", "x@b.example", message.as_bytes());
    let nobody = "Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nSubject: a\r\n\r\na\r\n";
    assert_eq!(text(&pass(&pipeline, &own(nobody)).await.unwrap()), nobody);
    let two = format!("From: ann@acme.example\r\nFrom: ann@acme.example\r\n{nobody}");
    assert!(pass(&pipeline, &own(&two)).await.unwrap_err().starts_with("550 5.6.0 2 From fields"));
}

#[tokio::test]
async fn mail_without_date_or_message_id_is_signed_so_that_they_may_be_added() {
    let pipeline = site().pipeline(CONFIG);
    let message = "From: ann@acme.example\r\nSubject: a\r\n\r\na\r\n";
    let mail = mail(connection("local", None, false), "", "x@b.example", message.as_bytes());
    let wire = text(&pass(&pipeline, &mail).await.unwrap());
    let unfolded = wire.replace("\r\n\t", "");
    assert!(!unfolded.contains(":Date") && !unfolded.contains(":Message-ID"), "{wire}");
    let dated = format!("Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n{wire}");
    let complete = format!("Message-ID: <1@relay.example>\r\n{dated}");
    for wire in [&wire, &dated, &complete] {
        assert_eq!(Verifier::new().verify(wire.as_bytes()).await, passes(&["mail"]), "{wire}");
    }
    let subject = format!("Subject: b\r\n{wire}");
    assert_eq!(Verifier::new().verify(subject.as_bytes()).await, [("mail".to_owned(), false)]);
}
