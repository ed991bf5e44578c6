//! Recipient edits of a milter verdict as a real Postfix and a real Sendmail carry them out, and header edits after those of a milter
//! before ours.

#![cfg(test)]

use std::sync::Arc;

use arc_swap::ArcSwap;
use deskmilter::attach::milter::{Listener, Service, serve};
use deskmilter::config::Limits;
use deskmilter::mail::{Connection, Envelope, Header, HeaderEdit, Mail, Path, RecipientEdit, Spool, Verdict};
use deskmilter::pipeline::Judge;
use support::{Message, PrivatePostfix, PrivateSendmail};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Takes support@ out of every message and puts archive@ in.
struct Taker;

impl Judge for Taker {
    fn concerns(&self, _: &Connection, _: &Envelope) -> bool {
        true
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let taken = mail.envelope.recipients.iter().filter(|to| to.as_str().starts_with("support@"));
        let mut recipients: Vec<_> = taken.cloned().map(RecipientEdit::Remove).collect();
        recipients.push(RecipientEdit::Add(Path::parse(b"archive@acme.example").unwrap()));
        Verdict { recipients, ..Verdict::pass() }
    }
}

/// Takes every field out whose value has this word in it, and puts one on top.
struct Cleaner(&'static str);

impl Judge for Cleaner {
    fn concerns(&self, _: &Connection, _: &Envelope) -> bool {
        true
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let fields = mail.headers.iter().enumerate();
        let marked = fields.filter(|(_, field)| field.text().contains(self.0));
        let mut edits: Vec<_> = marked.map(|(index, _)| HeaderEdit::Remove { index }).collect();
        edits.push(HeaderEdit::Prepend(Header::written("X-Mark", "on top")));
        Verdict { edits, ..Verdict::pass() }
    }
}

/// A milter service in this process, at `socket`, for as long as the runtime lives.
fn start(socket: &std::path::Path) -> tokio::runtime::Runtime {
    serving(socket, Taker)
}

fn serving(socket: &std::path::Path, judge: impl Judge) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let limits = Limits {
        message_size: 1 << 20,
        header_size: 1 << 20,
        memory: 1 << 20,
        milter_connections: 10,
        transport_connections: 1,
        hops: 50,
        addresses_per_domain: 1,
        domains: 1,
        inline_relays: 20,
    };
    let judge = Arc::new(ArcSwap::from_pointee(judge));
    let service = Arc::new(Service::new(judge, Spool::new("/nonexistent"), &limits));
    let listener = Listener::Unix(runtime.block_on(async { UnixListener::bind(socket) }).unwrap());
    std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    runtime.spawn(serve(listener, service, CancellationToken::new(), TaskTracker::new()));
    runtime
}

#[test]
fn postfix_delivers_to_whom_the_verdict_left_and_an_archive_copy_outlives_the_last_recipient() {
    let mailboxes = ["support@acme.example", "sales@acme.example", "archive@acme.example", "copies@acme.example"];
    let lines = "smtpd_milters = unix:deskmilter/taker.sock\nalways_bcc = copies@acme.example\n";
    let mut postfix = PrivatePostfix::new(&mailboxes, lines, false);
    let _service = start(&postfix.socket_folder("deskmilter").join("taker.sock"));
    postfix.resume();
    let message = Message::new("ann@customer.example", "support@acme.example", "Order 4711").octets();
    for to in
        [&["support@acme.example", "sales@acme.example"][..], &["Support@acme.example"], &["support@acme.example"]]
    {
        assert_eq!(postfix.submit("ann@customer.example", to, &message).code, 250);
    }
    postfix.wait_for_empty_queue();
    let delivered = |name: &str| postfix.mailbox(&format!("{name}@acme.example")).messages().len();
    // Our judge compares octets: Support@ with a capital is not what it takes.
    assert_eq!((delivered("support"), delivered("sales")), (1, 1), "{}", postfix.log());
    assert_eq!((delivered("archive"), delivered("copies")), (3, 3), "{}", postfix.log());
}

#[test]
fn sendmail_queues_for_whom_the_verdict_left() {
    let folder = tempfile::Builder::new().prefix("dm-recipients-").tempdir_in("/run").unwrap();
    let socket = folder.path().join("taker.sock");
    let _service = start(&socket);
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sendmail = PrivateSendmail::start(Some(&format!("local:{}", socket.display())));
    let message = Message::new("ann@customer.example", "everybody@acme.example", "Order 4711").octets();
    let to = ["support@acme.example", "sales@acme.example"];
    let reply = sendmail.submit("ann@customer.example", &to, &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", sendmail.log());
    let control = sendmail.control_files().concat();
    assert!(control.contains("sales@acme.example") && control.contains("archive@acme.example"), "{control}");
    assert!(!control.contains("support@acme.example"), "{control}");
}

#[test]
fn after_a_milter_that_put_a_field_on_top_and_took_others_out_ours_takes_out_what_it_means() {
    let lines = "smtpd_milters = unix:deskmilter/first.sock, unix:deskmilter/second.sock\n";
    let mut postfix = PrivatePostfix::new(&["sales@acme.example"], lines, false);
    let folder = postfix.socket_folder("deskmilter");
    let _first = serving(&folder.join("first.sock"), Cleaner("alpha"));
    let _second = serving(&folder.join("second.sock"), Cleaner("beta"));
    postfix.resume();
    let mut message = Message::new("ann@customer.example", "sales@acme.example", "Order 4711");
    for n in 0..4 {
        for word in ["alpha", "beta", "gamma"] {
            message = message.field(["X-Mark", "x-mark"][n % 2], &format!("{word} {n}"));
        }
    }
    assert_eq!(postfix.submit("ann@customer.example", &["sales@acme.example"], &message.octets()).code, 250);
    let received = String::from_utf8(postfix.wait_for_mail("sales@acme.example", 1).concat()).unwrap();
    let marks = received.lines().filter(|line| line.to_ascii_lowercase().starts_with("x-mark: "));
    let values: Vec<&str> = marks.map(|line| &line[8..]).collect();
    assert_eq!(values, ["on top", "on top", "gamma 0", "gamma 1", "gamma 2", "gamma 3"], "{received}");
}
