//! `make demo`: three real messages through a real Postfix. Starts, on loopback and in temporary folders, a name server, a
//! private Postfix, a sandbox ticket endpoint and deskmilter; sends an authentic message, a spoofed one and one to an ordinary
//! address; shows for each what was decided and why, what Postfix logged and which ticket came out; cleans up.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use support::{
    Client, Daemon, Message, NameServer, PrivatePostfix, SandboxEndpoint, Signer, Zone, deskmilter, postfix_program,
};

/// Longer than this the demo never takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// The customer's own mail server, which SPF allows.
const CUSTOMER: (&str, &str) = ("192.0.2.25", "mail.customer.example");
/// Somebody else's.
const IMPOSTOR: (&str, &str) = ("203.0.113.66", "host66.elsewhere.example");

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("demo: a private Postfix must be started as root; run: sudo make demo");
        return ExitCode::FAILURE;
    }
    // Each step fails by panicking with what it waited for and the log that explains it; unwinding ends every process.
    let demo = std::thread::spawn(demo);
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

fn demo() {
    step("name server with the records of customer.example and acme.example");
    let signer = Signer::new("customer.example", "s1");
    let zone = signer
        .publish(Zone::new())
        .txt("customer.example", &format!("v=spf1 ip4:{} -all", CUSTOMER.0))
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject")
        .host(CUSTOMER.1, CUSTOMER.0)
        .host(IMPOSTOR.1, IMPOSTOR.0)
        .mx("customer.example", CUSTOMER.1)
        .mx("acme.example", "mx.acme.example")
        .host("mx.acme.example", "192.0.2.1");
    let name_server = NameServer::start(&zone);

    step("sandbox ticket endpoint for acme.example: STARTTLS, AUTH");
    let sandbox = SandboxEndpoint::start("acme.example", &[]);

    step("Postfix of acme.example, as Debian ships it (chrooted)");
    let mut postfix = PrivatePostfix::new(&["support@acme.example", "sales@acme.example"], "", true);

    step("deskmilter: check the configuration, serve");
    let folder = support::folder("demo");
    let configuration = write_configuration(folder.path(), &postfix, &sandbox, &name_server);
    run(Command::new(deskmilter()).arg("check").arg("-c").arg(&configuration));
    let sockets = postfix.queue_directory().join("deskmilter");
    let daemon = Daemon::start(&configuration, &[sockets.join("milter.sock"), sockets.join("transport/acme.sock")]);

    step("attach it to Postfix: deskmilter postfix --apply");
    let directory = postfix.configuration();
    let attach = |action: &str| {
        let mut command = Command::new(deskmilter());
        command.args(["postfix", action, "--config-directory"]).arg(&directory);
        // Postfix's programs may be unpacked beside another MTA.
        let sbin = postfix_program("postconf").parent().map(Path::to_owned).unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg("-c").arg(&configuration).env("PATH", format!("{}:{path}", sbin.display()));
        run(&mut command)
    };
    print!("{}", attach("--apply"));
    postfix.resume();
    print!("{}", attach("--check"));

    let authentic = Message::new("Ann <ann@customer.example>", "support@acme.example", "Order 4711");
    let spoofed = Message::new("Ann <ann@customer.example>", "support@acme.example", "Change my bank account");
    let ordinary = Message::new("Ann <ann@customer.example>", "sales@acme.example", "A question");
    let world = World { postfix: &postfix, daemon: &daemon, sandbox: &sandbox };
    world.show(
        "1. authentic: signed by customer.example, from its own server",
        CUSTOMER,
        &authentic,
        &signer.sign(&authentic.octets()),
        "support@acme.example",
        1,
    );
    world.show(
        "2. spoofed: says it is from customer.example, and is not",
        IMPOSTOR,
        &spoofed,
        &spoofed.octets(),
        "support@acme.example",
        2,
    );
    world.show(
        "3. to an address that is no support address",
        CUSTOMER,
        &ordinary,
        &signer.sign(&ordinary.octets()),
        "sales@acme.example",
        2,
    );
    let mail = postfix.wait_for_mail("sales@acme.example", 1);
    assert_eq!(mail.len(), 1, "sales@acme.example has its own message, and no other");
    println!("   mailbox: delivered to sales@acme.example the ordinary way");

    let tickets = sandbox.tickets();
    let senders: Vec<&str> = tickets.iter().filter_map(|ticket| ticket.facts["sender_auth"].as_str()).collect();
    assert_eq!(senders, ["pass", "fail"], "the first ticket's sender is proven, the second's disproven");
    assert!(tickets.iter().all(|ticket| ticket.tags() == [AUTHENTICATED]), "both came over TLS with AUTH");
    step("clean up");
    drop(daemon);
    postfix.stop();
    println!(
        "\ndemo: three messages, two tickets over TLS with AUTH; the authentic sender is told from the spoofed one; \
         everything is stopped and removed"
    );
}

/// The tag of a ticket that came over the authenticated path, whoever its sender is.
const AUTHENTICATED: &str = "system_authenticated_email_ticket";

/// What runs while messages are sent.
struct World<'a> {
    postfix: &'a PrivatePostfix,
    daemon: &'a Daemon,
    sandbox: &'a SandboxEndpoint,
}

impl World<'_> {
    /// Sends one message and shows what became of it; `tickets` is how many there are then.
    fn show(
        &self,
        title: &str,
        client: (&str, &str),
        message: &Message,
        octets: &[u8],
        recipient: &str,
        tickets: usize,
    ) {
        println!("\n== {title}");
        let log_before = self.postfix.log().lines().count();
        let client = Client::new(client.0, client.1);
        let reply = self.postfix.submit_as(&client, "ann@customer.example", &[recipient], octets);
        println!("   client {} [{}] heard: {reply}", client.name, client.ip);
        assert_eq!(reply.code, 250, "Postfix takes the message");
        self.postfix.wait_for_empty_queue();
        self.sandbox.wait_for_tickets(tickets);
        let id = message.id().trim_matches(['<', '>']);
        if recipient.starts_with("support@") {
            self.daemon.wait_for_log(id);
        }
        for line in self.daemon.log().lines().filter(|line| line.contains(id)) {
            println!("   deskmilter: {line}");
        }
        for line in self.postfix.log().lines().skip(log_before).filter(|line| line.contains("status=")) {
            println!("   postfix: {}", line.split_once(" mx ").map_or(line, |(_, rest)| rest));
        }
        let octets_of = |ticket: &support::Ticket| ticket.messages().concat();
        let ticket = self.sandbox.tickets().into_iter().find(|t| String::from_utf8_lossy(&octets_of(t)).contains(id));
        match ticket {
            Some(ticket) => {
                let name = ticket.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                println!("   ticket {name}: tags {:?}", ticket.tags());
                for fact in ["auth_status", "credential", "tls", "sender_auth", "sender_auth_reasons"] {
                    println!("      {fact}: {}", ticket.facts[fact].as_str().unwrap_or("-"));
                }
            }
            None => println!("   ticket: none"),
        }
    }
}

fn write_configuration(
    folder: &Path,
    postfix: &PrivatePostfix,
    sandbox: &SandboxEndpoint,
    name_server: &NameServer,
) -> PathBuf {
    let sockets = postfix.queue_directory().join("deskmilter");
    let state = folder.join("state");
    for path in [&state, &sockets.join("transport")] {
        fs::create_dir_all(path).expect("a folder of our own");
    }
    fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).expect("mode of our own folder");
    let mut text = String::new();
    // The sandbox's certificate is for "localhost", signed by its own authority.
    write!(
        text,
        r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "{state}"

[milter]
listen = ["unix:{sockets}/milter.sock"]
socket_group = "postfix"

[transport]
directory = "{sockets}/transport"
socket_group = "postfix"

[authentication]
authserv_id = "mx.acme.example"
name_servers = ["{dns}"]

[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
mode = "two-way"
addresses = ["support@acme.example"]

[connector.endpoint]
host = "localhost"
port = {port}
tls = "starttls"
ca_file = "{ca}"
credentials = [{{ username = "{user}", password_file = "{password}" }}]
"#,
        state = state.display(),
        sockets = sockets.display(),
        dns = name_server.address(),
        port = sandbox.address().port(),
        ca = sandbox.directory().join("ca.pem").display(),
        user = sandbox.domain(),
        password = sandbox.password_file().display(),
    )
    .expect("writing to a String");
    let path = folder.join("deskmilter.toml");
    fs::write(&path, text).expect("deskmilter.toml");
    path
}

fn step(what: &str) {
    println!("-- {what}");
}

/// Runs a program and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({})\n{printed}{complaint}", output.status);
    printed
}
