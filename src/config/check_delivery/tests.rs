use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::config::{Config, PostProof, Shape};
use crate::config::{DeliveryWay, LineEnding};

const HEAD: &str = "[daemon]\nhostname = \"desk.acme.example\"\nstate_directory = \"state\"\n\
    [transport]\ndirectory = \"sockets\"\n\
    [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\n\
    addresses = [\"support@acme.example\", \"billing@acme.example\"]\n[connector.delivery]\n";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, secret) in
        [("word", "s3cret\n"), ("base64", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=\n"), ("two", "a b\n")]
    {
        fs::write(folder.path().join(name), secret).unwrap();
        fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    folder
}

fn parse(folder: &Path, lines: &str) -> Result<Config, String> {
    let lines = lines.replace("; ", "\n");
    Config::parse(&format!("{HEAD}{lines}\n"), &folder.join("deskmilter.toml")).map_err(|problems| problems.to_string())
}

#[test]
fn each_preset_brings_its_defaults_and_what_check_prints_says_the_same() {
    let folder = folder();
    for (lines, leads_to, ending) in [
        (
            "preset = \"osticket\"; url = \"https://d.example/support/\"; key_file = \"word\"",
            "https://d.example/support/api/tickets.email",
            LineEnding::Crlf,
        ),
        (
            "preset = \"rt\"; url = \"https://d.example/rt\"",
            "https://d.example/rt/REST/1.0/NoAuth/mail-gateway",
            LineEnding::Lf,
        ),
        (
            "preset = \"chatwoot\"; url = \"https://d.example\"; password_file = \"word\"",
            "https://d.example/rails/action_mailbox/relay/inbound_emails",
            LineEnding::Crlf,
        ),
        (
            "preset = \"action-mailbox\"; url = \"http://127.0.0.1:3000\"; password_file = \"word\"",
            "http://127.0.0.1:3000/rails/action_mailbox/relay/inbound_emails",
            LineEnding::Crlf,
        ),
        (
            "preset = \"gitlab\"; url = \"https://d.example\"; jwt_secret_file = \"base64\"",
            "https://d.example/api/v4/internal/mail_room/incoming_email",
            LineEnding::Crlf,
        ),
        ("preset = \"zammad\"", "/usr/bin/zammad", LineEnding::Lf),
        (
            "preset = \"otrs\"; command = [\"/opt/znuny/bin/otrs.Console.pl\", \"Maint::PostMaster::Read\"]",
            "/opt/znuny/bin/otrs.Console.pl",
            LineEnding::Lf,
        ),
        (
            "url = \"https://d.example/in\"; username = \"u\"; password_file = \"word\"",
            "https://d.example/in",
            LineEnding::Crlf,
        ),
    ] {
        let config = parse(folder.path(), lines).unwrap_or_else(|problems| panic!("{lines}: {problems}"));
        let delivery = config.connectors[0].delivery.clone().unwrap();
        assert_eq!((delivery.to_string().as_str(), delivery.line_ending), (leads_to, ending));
        let printed = config.to_string();
        assert!(!printed.contains("s3cret"), "{printed}");
        let again = Config::parse(&printed, &folder.path().join("deskmilter.toml")).unwrap();
        assert_eq!(again.connectors[0].delivery.as_ref(), Some(&delivery), "{printed}");
    }
}

#[test]
fn gitlab_and_action_mailbox_need_nothing_but_their_secret() {
    let folder = folder();
    let proof = |lines: &str| match parse(folder.path(), lines).unwrap().connectors[0].delivery.clone().unwrap().way {
        DeliveryWay::Post(post) => post.proof,
        DeliveryWay::Command(words) => panic!("{words:?}"),
    };
    let gitlab = proof("preset = \"gitlab\"; url = \"https://d.example\"; jwt_secret_file = \"base64\"");
    assert!(
        matches!(gitlab, PostProof::Jwt { header, issuer, .. } if header == "Gitlab-Mailroom-Api-Request" && issuer == "gitlab-mailroom")
    );
    let rails = proof("preset = \"action-mailbox\"; url = \"https://d.example\"; password_file = \"word\"");
    assert!(matches!(rails, PostProof::Basic { username, .. } if username == "actionmailbox"));
}

#[test]
fn a_support_address_has_the_queue_that_is_written_for_it() {
    let folder = folder();
    let lines = "preset = \"rt\"; url = \"https://d.example\"; queue = \"Help\"; \
                 queues = [{ address = \"Billing@acme.example\", action = \"comment\" }]";
    let delivery = parse(folder.path(), lines).unwrap().connectors[0].delivery.clone().unwrap();
    let DeliveryWay::Post(post) = delivery.way else { panic!("{delivery:?}") };
    let Shape::RtForm { target, queues } = post.shape else { panic!("{:?}", post.shape) };
    assert_eq!((target.queue.as_str(), target.action.as_str()), ("Help", "correspond"));
    let [(address, billing)] = queues.as_slice() else { panic!("{queues:?}") };
    assert_eq!(
        (address.to_string().as_str(), billing.queue.as_str(), billing.action.as_str()),
        ("billing@acme.example", "Help", "comment")
    );
}

#[test]
fn each_mistake_is_told_at_its_key_with_a_remedy() {
    let folder = folder();
    for (lines, key, remedy) in [
        ("", "url", "write url"),
        ("preset = \"jira\"", "preset", "\"osticket\" or"),
        ("url = \"https://d.example\"; command = [\"/bin/x\"]", "command", "not to both"),
        ("preset = \"zammad\"; url = \"https://d.example\"", "url", "no mail by HTTP"),
        ("command = [\"x\"]", "command", "full path"),
        ("command = []", "command", "full path"),
        ("command = [\"/bin/x\"]; refused = \"defer\"", "refused", "is for a url"),
        ("command = [\"/bin/x\"]; queues = []", "queues", "is for a url"),
        ("url = \"http://d.example\"", "url", "plain text"),
        ("url = \"https://u:hunter2@d.example\"", "url", "password_file"),
        ("url = \"https://d.example/in?key=hunter2\"", "url", "https://d.example/in?...\" has a character"),
        ("url = \"https://u:hun?hunter2@d.example\"", "url", "https://...@d.example"),
        ("url = \"https://d.example\"; path = \"in\"", "path", "not a path"),
        ("url = \"https://d.example\"; queue = \"x\"", "queue", "RT's alone"),
        ("url = \"https://d.example\"; username = \"x\"", "username", "without password_file"),
        ("url = \"https://d.example\"; password_file = \"word\"", "username", "missing"),
        ("url = \"https://d.example\"; username = \"a:b\"; password_file = \"word\"", "username", "colon"),
        ("url = \"https://d.example\"; key_file = \"word\"; key_header = \"Host\"", "key_header", "X-API-Key"),
        ("url = \"https://d.example\"; key_file = \"two\"", "key_file", "visible ASCII"),
        ("url = \"https://d.example\"; key_file = \"none\"", "key_file", "must exist"),
        ("url = \"https://d.example\"; key_file = \"word\"; password_file = \"word\"", "key_file", "write one of"),
        ("url = \"http://127.0.0.1\"; ca_file = \"ca.pem\"", "ca_file", "is for https"),
        ("preset = \"osticket\"; url = \"https://d.example\"", "key_file", "missing"),
        (
            "preset = \"osticket\"; url = \"https://d.example\"; password_file = \"word\"",
            "password_file",
            "write key_file",
        ),
        ("preset = \"gitlab\"; url = \"https://d.example\"; jwt_secret_file = \"two\"", "jwt_secret_file", "base64"),
        ("preset = \"rt\"; url = \"https://d.example\"; queue = \"\"", "queue", "not a name"),
        (
            "preset = \"rt\"; url = \"https://d.example\"; queues = [{ address = \"x@acme.example\" }]",
            "queues.address",
            "none of the connector's",
        ),
        ("url = \"https://d.example\"; deadline = \"20m\"", "deadline", "9m"),
        ("url = \"https://d.example\"; concurrency = 0", "concurrency", "from 1"),
        ("url = \"https://d.example\"; pasword_file = \"word\"", "pasword_file", "did you mean \"password_file\"?"),
    ] {
        let problems = parse(folder.path(), lines).unwrap_err();
        let line = problems.lines().find(|line| line.contains(&format!("delivery.{key}: ")));
        assert!(line.is_some_and(|line| line.contains(remedy)), "{lines}: {problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn no_command_is_run_as_root() {
    let folder = folder();
    let text = HEAD.replace("[transport]", "user = \"root\"\n[transport]") + "command = [\"/bin/x\"]\n";
    let problems = Config::parse(&text, &folder.path().join("deskmilter.toml")).unwrap_err().to_string();
    assert!(problems.contains("delivery.command: no command is run as root; set daemon.user"), "{problems}");
}

#[test]
fn a_delivery_is_of_the_desk_side_and_needs_a_socket() {
    let folder = folder();
    let delivery = "command = [\"/bin/x\"]\n";
    let endpoint =
        "[connector.endpoint]\nhost = \"e.example\"\ncredentials = [{ username = \"u\", password_file = \"word\" }]\n";
    let parse = |text: &str| Config::parse(text, &folder.path().join("deskmilter.toml"));
    let problems = parse(&format!("{HEAD}{delivery}{endpoint}")).unwrap_err().to_string();
    assert!(problems.contains("connector.acme.endpoint: "), "{problems}");
    let without = HEAD.replace("[transport]\ndirectory = \"sockets\"\n", "");
    let problems = parse(&format!("{without}{delivery}")).unwrap_err().to_string();
    assert!(problems.contains("connector.acme.delivery: needs a [transport] section"), "{problems}");
}
