//! `deskmilter disconnect` with a real Postfix and a daemon, on the company side and on the desk side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::endpoint::Script;
use support::{
    CREDENTIALS, DeskSite, LmtpClient, Message, PrivatePostfix, SaslReply, Site, SmtpSession, deskmilter, free_address,
};

use crate::both::Place;
use crate::desk::{Desk, credential};

const SUPPORT: &str = "support@acme.example";
const NATIVE: &str = "support@acme.zendesk.com";

/// What a command said, and its exit code.
struct Said {
    code: i32,
    text: String,
}

/// A company that is attached to its ticket system by `deskmilter postfix --apply`. The ticket system's own domain is delivered into
/// mailboxes of the same Postfix, which stand for the mail that it gets as anybody's.
struct Company {
    site: Site,
    /// An smtpd that does not map addresses: what it takes is as mail that was on its way when the forwarding began.
    late: std::net::SocketAddr,
}

impl Company {
    fn start() -> Self {
        Self::with("")
    }

    /// One with more in `[connector.endpoint]`.
    fn with(endpoint: &str) -> Self {
        let site = Site::with("", endpoint, "");
        let mailboxes =
            ["support@acme.example", "billing@acme.example", "sales@acme.example", NATIVE, "billing@acme.zendesk.com"];
        let maps: Vec<String> = mailboxes.iter().map(|address| format!("{{ {address} = {address}/ }}")).collect();
        site.postfix.configure(&format!(
            "transport_maps =\nrecipient_delimiter = +\nvirtual_mailbox_domains = acme.example, acme.zendesk.com\n\
             virtual_mailbox_maps = inline:{{ {} }}",
            maps.join(" ")
        ));
        let late = free_address();
        site.postfix.add_service(&format!(
            "{late} inet n - n - - smtpd -o smtpd_milters= -o receive_override_options=no_address_mappings"
        ));
        let company = Self { site, late };
        let said = company.run("postfix", "--apply");
        assert_eq!(said.code, 0, "{}", said.text);
        company.site.postfix.reload();
        support::wait_until("the late smtpd", String::new, || std::net::TcpStream::connect(late).is_ok());
        company
    }

    fn command(&self, name: &str, words: &str) -> Command {
        let mut command = Command::new(deskmilter());
        command.arg(name).arg("-c").arg(self.site.configuration()).args(words.split_whitespace());
        command.arg("--config-directory").arg(self.site.postfix.configuration());
        if name == "disconnect" {
            // A message that was being delivered at a reload Postfix looks at a minute later.
            command.args(["--wait", "180"]);
        }
        command
    }

    fn run(&self, name: &str, words: &str) -> Said {
        let output = self.command(name, words).output().unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        Said { code: output.status.code().unwrap_or(-1), text }
    }

    /// `deskmilter disconnect`, which must end with `code`.
    fn disconnect(&self, code: i32, words: &str) -> String {
        let said = self.run("disconnect", words);
        assert_eq!(
            said.code,
            code,
            "{words}: {}\n{}\n{}",
            said.text,
            self.site.daemon.log(),
            support::tail(&self.site.postfix.log())
        );
        said.text
    }

    fn submit(&self, to: &str, subject: &str) {
        let message = Message::new("a@plain.example", to, subject).octets();
        let reply = self.site.postfix.submit("a@plain.example", &[to], &message);
        assert_eq!(reply.code, 250, "{reply}");
    }

    /// Every file that a disconnection may touch, with its octets.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.site.postfix.configuration();
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.chain([self.site.configuration()]).filter(|path| path.is_file());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    fn forwarded(&self, count: usize) -> Vec<Vec<u8>> {
        self.site.postfix.wait_for_mail(NATIVE, count)
    }

    fn nothing_bounced(&self) {
        let log = self.site.postfix.log();
        assert!(!log.contains("status=bounced") && !log.contains("status=expired"), "{log}");
    }
}

/// The names of the files that differ.
fn different(before: &BTreeMap<PathBuf, Vec<u8>>, now: &BTreeMap<PathBuf, Vec<u8>>) -> String {
    let all = before.keys().chain(now.keys());
    let differ: Vec<String> = all.filter(|p| before.get(*p) != now.get(*p)).map(|p| p.display().to_string()).collect();
    differ.join(", ")
}

#[test]
fn a_connector_is_taken_down_with_what_waits_for_its_dead_endpoint_and_put_back_octet_for_octet() {
    let mut company = Company::start();
    company.submit(SUPPORT, "while connected");
    company.site.desk.wait_for_tickets(1);
    company.site.desk.stop();
    company.submit("Support+id7@Acme.example", "while the endpoint is down");
    company.submit("info@acme.example", "by an alias");
    support::wait_within(
        Duration::from_secs(120),
        "deferred mail",
        || company.site.postfix.log(),
        || {
            let queued = company.site.postfix.queue();
            queued.len() == 2 && queued.iter().all(|message| message.queue == "deferred")
        },
    );
    let before = company.files();

    let shown = company.disconnect(0, "acme.example");
    for expected in
        ["+support@acme.example\tsupport@acme.zendesk.com", "-name = \"acme\"", "in the queue: ", "nothing was changed"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(company.files() == before);

    let told = company.disconnect(0, "acme.example --apply");
    assert!(told.contains("requeued: ") && told.contains("acme.example is disconnected"), "{told}");
    let native = company.forwarded(2);
    assert!(native.iter().any(|message| String::from_utf8_lossy(message).contains("while the endpoint is down")));
    assert!(native.iter().any(|message| String::from_utf8_lossy(message).contains("by an alias")));
    company.site.postfix.wait_for_empty_queue();
    company.site.daemon.wait_for_log("configuration reloaded connectors=0 removed=acme");
    assert!(!company.site.postfix.queue_directory().join("deskmilter/transport/acme.sock").exists());
    company.submit(SUPPORT, "after");
    assert!(company.forwarded(3).iter().any(|message| String::from_utf8_lossy(message).contains("after")));
    let checked = company.run("postfix", "--apply");
    assert!(checked.text.contains("nothing to change"), "the attachment knows of it: {}", checked.text);

    // What came by a session that began before waits with a word, and takes the same way when it is asked for.
    let message = Message::new("a@plain.example", SUPPORT, "late").octets();
    let mut late = SmtpSession::connect(company.late);
    late.expect(250, "EHLO localhost");
    assert_eq!(late.send("a@plain.example", &[SUPPORT], &message).code, 250);
    company.site.postfix.wait_for("a deferred message", |postfix| {
        postfix.queue().iter().any(|queued| queued.recipients.iter().any(|(_, why)| why.contains("postsuper -r")))
    });
    assert!(company.disconnect(0, "acme.example --apply").contains("requeued: "));
    company.forwarded(4);
    company.site.postfix.wait_for_empty_queue();

    // Nobody's work is lost by going back.
    let after = company.files();
    for path in [company.site.configuration(), company.site.postfix.configuration().join("main.cf")] {
        let ours = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{ours}# by hand\n")).unwrap();
        let told = company.disconnect(1, "--undo");
        assert!(told.contains(&format!("{}: somebody has changed it", path.display())), "{told}");
        std::fs::write(&path, ours).unwrap();
        assert!(company.files() == after);
    }

    company.site.desk.resume();
    company.disconnect(0, "--undo");
    let now = company.files();
    assert!(now == before, "{}", different(&before, &now));
    company.submit(SUPPORT, "connected again");
    company.site.desk.wait_for_tickets(2);
    assert_eq!(company.forwarded(4).len(), 4);
    company.nothing_bounced();
    assert!(company.disconnect(1, "--undo").contains("nothing was disconnected"));
}

#[test]
fn killed_at_any_instant_it_goes_on_or_back_and_no_message_is_lost() {
    let mut company = Company::start();
    let before = company.files();
    let mut sent = 0;
    let whole = {
        let begun = Instant::now();
        company.disconnect(0, "acme.example --apply");
        let whole = begun.elapsed();
        company.disconnect(0, "--undo");
        whole
    };
    const ROUNDS: u32 = 6;
    for round in 0..ROUNDS {
        // One that has to be drained, and one that comes meanwhile.
        if round % 3 == 1 {
            company.site.desk.stop();
        }
        company.submit(SUPPORT, &format!("before round {round}"));
        let mut command = company.command("disconnect", "acme.example --apply");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (2 * round + 1) / (2 * ROUNDS));
        let _ = child.kill();
        let _ = child.wait();
        company.submit(SUPPORT, &format!("in round {round}"));
        sent += 2;
        if round % 2 == 0 {
            company.disconnect(0, "acme.example --apply");
            assert!(!std::fs::read_to_string(company.site.configuration()).unwrap().contains("[[connector]]"));
            // And taking it back is killed, too.
            let mut command = company.command("disconnect", "--undo");
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole * (round + 1) / (2 * ROUNDS));
            let _ = child.kill();
            let _ = child.wait();
            let said = company.run("disconnect", "--undo");
            assert!(said.code == 0 || said.text.contains("nothing was disconnected"), "{}", said.text);
        } else {
            let said = company.run("disconnect", "--undo");
            assert!(said.code == 0 || said.text.contains("nothing was disconnected"), "{}", said.text);
        }
        let now = company.files();
        assert!(now == before, "round {round}: {}", different(&before, &now));
        if round % 3 == 1 {
            company.site.desk.resume();
        }
    }
    let taken =
        |company: &Company| company.site.desk.count_tickets() + company.site.postfix.mailbox(NATIVE).messages().len();
    let patience = Duration::from_secs(120);
    support::wait_within(
        patience,
        "every message",
        || company.site.postfix.log(),
        || {
            company.site.postfix.flush();
            taken(&company) >= sent && company.site.postfix.queue().is_empty()
        },
    );
    assert_eq!(taken(&company), sent);
    company.nothing_bounced();
}

#[test]
fn many_addresses_go_in_one_command_and_the_others_stay_connected() {
    let company = Company::start();
    let before = company.files();
    let list = company.site.configuration().with_file_name("list");
    std::fs::write(&list, "# for good\nbilling@acme.example  sales@acme.example\n").unwrap();
    company.disconnect(0, &format!("--addresses-from {} --apply", list.display()));
    company.submit("billing@acme.example", "forwarded");
    company.site.postfix.wait_for_mail("sales@acme.example", 1);
    company.submit(SUPPORT, "still a ticket");
    company.site.desk.wait_for_tickets(1);
    let text = std::fs::read_to_string(company.site.configuration()).unwrap();
    assert!(text.contains("addresses = [\"support@acme.example\"]"), "{text}");

    // Whoever still routes such mail here is put off with a remedy; it never bounces.
    let socket = company.site.postfix.queue_directory().join("deskmilter/transport/acme.sock");
    let mut client = LmtpClient::connect(&socket);
    client.command("MAIL FROM:<a@plain.example>");
    let reply = client.command("RCPT TO:<billing@acme.example>");
    assert!(reply.code == 451 && reply.text.contains("transport_maps"), "{reply}");

    // Somebody thinks better of where it goes: not in silence.
    for words in
        ["--address billing@acme.example --to-mailbox", "--address billing@acme.example --forward-to x@acme.example"]
    {
        let told = company.disconnect(1, &format!("{words} --apply"));
        assert!(
            told.contains("another way (billing@acme.example sales@acme.example)") && told.contains("--undo"),
            "{told}"
        );
    }

    // The second one, with a mailbox of its own; the first one to be taken back is the last one that was made.
    company.disconnect(0, "--address support@acme.example --to-mailbox --apply");
    company.submit(SUPPORT, "into the mailbox");
    company.site.postfix.wait_for_mail(SUPPORT, 1);
    company.disconnect(0, "--undo");
    assert_eq!(std::fs::read_to_string(company.site.configuration()).unwrap(), text);
    company.disconnect(0, "--undo");
    assert!(company.files() == before);
    company.nothing_bounced();
}

#[test]
fn what_cannot_be_done_safely_is_refused_with_a_remedy_and_changes_nothing() {
    let company = Company::start();
    let before = company.files();
    for (code, words, said) in [
        (64, "--apply", "say which"),
        (1, "other.example --apply", "nothing is connected for other.example"),
        (1, "--address boss@acme.example --apply", "boss@acme.example"),
        (1, "--address billing@acme.example --forward-to billing@acme.example --apply", "taken down too"),
    ] {
        let told = company.disconnect(code, words);
        assert!(told.contains(said), "{words}: {told}");
        assert!(company.files() == before, "{words}");
    }
    // An alias of the postmaster's that would count first.
    company.site.postfix.configure("virtual_alias_maps = inline:{ { support@acme.example = boss@acme.example } }");
    let told = company.disconnect(1, "acme.example --apply");
    assert!(told.contains("sends support@acme.example to boss@acme.example"), "{told}");
    // No mailbox and no alias.
    company
        .site
        .postfix
        .configure("virtual_alias_maps =\nvirtual_mailbox_maps = inline:{ { sales@acme.example = s/ } }");
    let told = company.disconnect(1, "acme.example --to-mailbox --apply");
    assert!(told.contains("no table of Postfix knows a mailbox or an alias for "), "{told}");
    // A line of the postmaster's that leads here.
    company.site.postfix.configure(
        "virtual_mailbox_maps = static:x/\n\
         transport_maps = inline:{ { support@acme.example = lmtp:unix:deskmilter/transport/acme.sock } }",
    );
    let told = company.disconnect(1, "acme.example --to-mailbox --apply");
    assert!(told.contains("was not written by deskmilter; take "), "{told}");
}

#[test]
fn an_inline_connector_keeps_its_copies_and_the_forwarding_outlives_the_attachment() {
    let company = Company::with("relay = \"inline\"\nkeep_copy = true");
    company.submit(SUPPORT, "a ticket and a copy");
    company.site.desk.wait_for_tickets(1);
    company.site.postfix.wait_for_mail(SUPPORT, 1);
    company.disconnect(0, "acme.example --apply");
    company.submit(SUPPORT, "forwarded, and a copy");
    company.forwarded(1);
    company.site.postfix.wait_for_mail(SUPPORT, 2);
    assert_eq!(company.run("postfix", "--undo").code, 0);
    company.site.postfix.reload();
    company.submit(SUPPORT, "without deskmilter");
    company.forwarded(2);
    company.site.postfix.wait_for_mail(SUPPORT, 3);
    assert_eq!(company.site.desk.count_tickets(), 1);
    // The milter's lines were the postmaster's own, so that nothing of them was taken out.
    company.disconnect(0, "--undo");
    company.submit(SUPPORT, "a ticket and a copy again");
    company.site.desk.wait_for_tickets(2);
    company.site.postfix.wait_for_mail(SUPPORT, 4);
    assert_eq!(company.forwarded(2).len(), 2);
    company.nothing_bounced();
}

#[test]
fn a_queue_that_does_not_empty_leaves_the_connector_as_it_is_until_it_does() {
    let mut company = Company::start();
    company.site.desk.stop();
    company.submit(SUPPORT, "held");
    company
        .site
        .postfix
        .wait_for("a deferred message", |postfix| postfix.queue().iter().any(|q| q.queue == "deferred"));
    let id = company.site.postfix.queue()[0].id.clone();
    assert!(company.site.postfix.command("postsuper").args(["-h", &id]).status().unwrap().success());
    let told = company.disconnect(75, "acme.example --apply");
    assert!(told.contains(&format!("{id} is on hold")), "{told}");
    assert!(std::fs::read_to_string(company.site.configuration()).unwrap().contains("[[connector]]"));
    let told = company.disconnect(1, "--address billing@acme.example --apply");
    assert!(told.contains("the disconnection of acme.example") && told.contains("is not finished"), "{told}");
    assert!(company.site.postfix.command("postsuper").args(["-r", &id]).status().unwrap().success());
    assert!(company.disconnect(0, "acme.example --apply").contains("goes on"));
    company.forwarded(1);
    company.nothing_bounced();
}

#[test]
fn on_the_desk_side_the_sets_of_the_domain_are_revoked_and_those_of_others_are_not() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let sets =
        ["--domain acme.example", "--domain acme.example --address support@acme.example", "--domain other.example"]
            .map(|words| desk.issue(words));
    let configuration = desk.configuration();
    let run = |words: &str| {
        let mut command = Command::new(deskmilter());
        // No Postfix is needed where nothing of it matters.
        command.arg("disconnect").arg("-c").arg(&configuration).args(["--config-directory", "/nonexistent"]);
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        (output.status.code().unwrap(), text)
    };
    let text = std::fs::read(&configuration).unwrap();
    let (code, shown) = run("acme.example");
    assert!(
        code == 0 && shown.contains("set 1 for acme.example") && shown.contains("set 2 for support@acme.example"),
        "{shown}"
    );
    let works = |set: &crate::desk::Issued| {
        matches!(desk.client().plain(&set.user, &set.password, "198.51.100.7"), SaslReply::Ok(_))
    };
    assert!(sets.iter().all(works));
    let (code, told) = run("acme.example --apply");
    assert!(code == 0 && told.contains("revoked 1") && told.contains("revoked 2"), "{told}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sets.each_ref().map(works), [false, false, true]);
    assert_eq!(run("acme.example --apply").0, 0, "again is no error");
    let (code, told) = run("--undo");
    assert!(code == 0 && told.contains("1, 2 stay revoked: issue new ones"), "{told}");
    assert_eq!(std::fs::read(&configuration).unwrap(), text);
    assert_eq!(run("none.example --apply").0, 1);
    assert!(credential(Path::new(&configuration), "issue --domain acme.example").status.success());
}

#[test]
fn a_connector_that_hands_mail_into_the_ticket_system_goes_only_when_that_mail_has_another_way() {
    let folder = support::folder("delivers");
    let file = folder.path().join("deskmilter.toml");
    let text = "[daemon]\nhostname = \"desk.example\"\nstate_directory = \"state\"\n[transport]\ndirectory = \"sockets\"\n\
                [[connector]]\nname = \"acme\"\nsystem = \"zammad\"\ndomain = \"acme.example\"\n\
                addresses = [\"support@acme.example\"]\n[connector.delivery]\ncommand = [\"/bin/true\"]\n";
    std::fs::write(&file, text).unwrap();
    let beside = PrivatePostfix::start(
        &["agent@desk.example"],
        "transport_maps = inline:{ { support@acme.example = lmtp:unix:deskmilter/transport/acme.delivery.sock } }",
    );
    let run = |words: &str| {
        let mut command = Command::new(deskmilter());
        command.arg("disconnect").arg("-c").arg(&file).arg("--config-directory").arg(beside.configuration());
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        (output.status.code().unwrap(), text)
    };
    let (code, told) = run("acme.example --apply");
    assert!(code == 1 && told.contains("sends support@acme.example to deskmilter, which hands it into"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    beside.configure("transport_maps =");
    let (code, told) = run("acme.example");
    assert!(code == 0 && told.contains("not handed into the ticket system by connector acme any more"), "{told}");
}

#[test]
fn a_ticket_systems_notifications_leave_the_queue_with_the_companys_login_before_its_connector_goes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let script = Script { passwords: vec!["s3cret-two"], ..Script::default() };
    let (desk, host) = DeskSite::with_script(&runtime, script, CREDENTIALS, "");
    let beside = PrivatePostfix::start(
        &["agent@desk.example"],
        &format!(
            "sender_dependent_default_transport_maps = inline:{{ {{ @acme.example = lmtp:unix:{} }} }}",
            desk.socket().display()
        ),
    );
    let run = |words: &str| {
        let mut command = Command::new(deskmilter());
        command
            .arg("disconnect")
            .arg("-c")
            .arg(desk.configuration())
            .arg("--config-directory")
            .arg(beside.configuration());
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
        (output.status.code().unwrap(), text)
    };
    let send = || {
        let message = Message::new(SUPPORT, "jane@end.example", "notification").octets();
        assert_eq!(beside.submit(SUPPORT, &["jane@end.example"], &message).code, 250);
    };
    let before = std::fs::read(desk.configuration()).unwrap();
    // The company host refuses the password: the message waits, and so does the disconnection.
    send();
    beside.wait_for("a deferred message", |postfix| postfix.queue().iter().any(|queued| queued.queue == "deferred"));
    let (code, told) = run("acme.example --apply --wait 2");
    assert!(code == 75 && told.contains("still in the queue, messages: 1 "), "{told}");
    assert!(told.contains("sends mail of @acme.example to deskmilter"), "{told}");
    assert_eq!(std::fs::read(desk.configuration()).unwrap(), before);
    host.set_passwords(&["s3cret-one"]);
    desk.set_secret("support.secret", "s3cret-one ");
    desk.set_secret("support.secret", "s3cret-one");
    let (code, told) = run("acme.example --apply --wait 90");
    assert!(code == 0 && told.contains("goes on"), "{told}\n{}", desk.daemon.log());
    assert_eq!(host.see(|record| record.taken.len()), 1);
    assert!(!desk.socket().exists());
    assert_eq!(run("--undo").0, 0);
    assert_eq!(std::fs::read(desk.configuration()).unwrap(), before);
    send();
    beside.wait_for_empty_queue();
    assert_eq!(host.see(|record| record.taken.len()), 2);
}
