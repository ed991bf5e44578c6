//! The whole way of a message through a real Postfix: smtp-source, smtpd with a milter or none, cleanup, queue, discard.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use support::{PrivatePostfix, Signer, free_address};

use crate::filter::{EMPLOYEE, Filter, SUPPORT};
use crate::idle_milter::{self, Until};
use crate::source::{self, Session};
use crate::{mail, usage};

/// Messages a run.
const COUNT: usize = 800;
/// Mail for these is delivered, to see what the milter did; for all others it is thrown away after the queue.
const WITNESS: &str = "witness@acme.example";
const OTHER_WITNESS: &str = "witness@other.example";

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mail that is none of deskmilter's business, not signed.
    Others,
    /// Signed mail for a support address: verified and tagged.
    Support,
    /// Mail of the company's own, which is signed.
    Own,
}

impl Kind {
    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Others => "none of our business",
            Self::Support => "to a support address, verified",
            Self::Own => "signed",
        }
    }
}

/// One smtpd with a milter, or none.
pub struct Way {
    /// What it is called in the table.
    pub name: String,
    /// The mail that it is for; the first way of each kind is without a milter.
    pub kind: Kind,
    address: SocketAddr,
    /// The filter's process id; none for what is in this process.
    filter: Option<u32>,
}

/// What a run gave.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Messages a second.
    pub rate: f64,
    /// Milliseconds of Postfix's CPU time for a message, all its processes.
    pub postfix: f64,
    /// The same of the filter.
    pub filter: f64,
}

impl Figures {
    /// Of `count` messages; CPU time is Postfix's and the filter's, before and after.
    pub fn of(count: usize, elapsed: Duration, before: (Duration, Duration), after: (Duration, Duration)) -> Self {
        let each =
            |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1000.0 / count as f64;
        Self {
            rate: count as f64 / elapsed.as_secs_f64(),
            postfix: each(before.0, after.0),
            filter: each(before.1, after.1),
        }
    }
}

/// The filters for each kind of mail.
pub struct Filters {
    /// They verify; the first one is deskmilter.
    pub verifying: Vec<Filter>,
    /// They sign.
    pub signing: Vec<Filter>,
}

/// A Postfix with one smtpd for each way.
pub struct EndToEnd {
    postfix: PrivatePostfix,
    master: u32,
    /// The ways, those of one kind together.
    pub ways: Vec<Way>,
    signer: Signer,
}

impl EndToEnd {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start, or a milter does not do its work.
    pub fn start(signer: &Signer, filters: &Filters) -> Self {
        let kept = [WITNESS, OTHER_WITNESS].map(|address| format!("{{ {address} = virtual: }}")).join(", ");
        let main = format!(
            "virtual_mailbox_domains = acme.example, other.example\n\
             transport_maps = inline:{{ {kept}, {{ acme.example = discard: }}, {{ other.example = discard: }} }}\n"
        );
        let mut postfix =
            PrivatePostfix::new(&[WITNESS, OTHER_WITNESS, SUPPORT, "someone@other.example"], &main, false);
        let folder = postfix.socket_folder("idle");
        let idle = |until, name: &str| -> PathBuf {
            let path = folder.join(name);
            idle_milter::start(path.clone(), until);
            path
        };
        let to_the_end = ("a milter that does nothing", idle(Until::End, "end.sock"));
        let to_data = ("a milter that lets all go at DATA", idle(Until::Data, "data.sock"));
        let mut ways = Vec::new();
        for (kind, filters, idle) in [
            (Kind::Others, &filters.verifying, vec![&to_data, &to_the_end]),
            (Kind::Support, &filters.verifying, vec![&to_the_end]),
            (Kind::Own, &filters.signing, vec![&to_the_end]),
        ] {
            let mut add = |name: &str, milter: &str, filter| {
                let address = free_address();
                postfix.add_service(&format!("{address} inet n - n - - smtpd -o smtpd_milters={milter}"));
                ways.push(Way { name: name.to_owned(), kind, address, filter });
            };
            add("no milter", "", None);
            filters.iter().for_each(|filter| add(&filter.name, &filter.socket(), Some(filter.pid())));
            idle.iter().for_each(|(name, path)| add(name, &format!("unix:{}", path.display()), None));
        }
        postfix.resume();
        for way in &ways {
            postfix.wait_for(&format!("the smtpd with {}", way.name), |_| TcpStream::connect(way.address).is_ok());
        }
        let master = usage::master(&postfix);
        let end_to_end = Self { postfix, master, ways, signer: signer.clone() };
        end_to_end.check();
        end_to_end
    }

    /// Each way delivers one message, on which must be seen what the filter has done.
    fn check(&self) {
        let mut delivered = [0, 0];
        for way in &self.ways {
            let mailbox = usize::from(way.kind != Kind::Support);
            let recipient = [WITNESS, OTHER_WITNESS][mailbox];
            self.send(way, Session::OneMessage, 1, recipient);
            delivered[mailbox] += 1;
            let mail = self.postfix.wait_for_mail(recipient, delivered[mailbox]);
            let mail = String::from_utf8_lossy(mail.last().map_or(&[][..], Vec::as_slice)).into_owned();
            let (head, _) = mail.split_once("\n\n").unwrap_or((&mail, ""));
            let done = match way.kind {
                // OpenDKIM says that there is no signature.
                Kind::Others => continue,
                Kind::Support => head.contains("dkim=pass"),
                Kind::Own => head.matches("DKIM-Signature:").count() == 1,
            };
            assert_eq!(done, way.filter.is_some(), "what {} did with {:?}: {head}", way.name, way.kind);
        }
    }

    /// Has Postfix take messages by a way. Waits for the queue to be empty, so that the next run begins as this one did.
    ///
    /// # Panics
    /// When a message is not taken.
    pub fn run(&self, way: &Way, session: Session) -> Figures {
        let cpu = || (usage::cpu_of_children(self.master), way.filter.map_or(Duration::ZERO, usage::cpu_of_daemon));
        let recipient = if way.kind == Kind::Support { SUPPORT } else { "someone@other.example" };
        let before = cpu();
        let elapsed = self.send(way, session, COUNT, recipient);
        self.postfix.wait_for_empty_queue();
        Figures::of(COUNT, elapsed, before, cpu())
    }

    fn send(&self, way: &Way, session: Session, count: usize, recipient: &str) -> Duration {
        let (sender, message) = match way.kind {
            Kind::Others => (mail::CUSTOMER, mail::octets(0, recipient, None)),
            Kind::Support => (mail::CUSTOMER, mail::octets(0, recipient, Some(&self.signer))),
            Kind::Own => (EMPLOYEE, mail::plain(0, EMPLOYEE, recipient)),
        };
        source::send(&self.postfix, way.address, session, count, (sender, recipient), &message)
    }
}
