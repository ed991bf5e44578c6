//! A company that a fault befalls, and the proof of what comes of it.

use std::fs;
use std::process::Command;

use deskmilter::mail::Reply as Refusal;
use support::endpoint::ENDPOINT_NAME;
use support::endpoint::Endpoint;
use support::{Message, NameServer, Reply, Site, SmtpSession, Zone, fields, free_address, wait_until};

use crate::cell::{Cell, Log, Mode, Queue, says};
use crate::fault::{Fault, Trouble};
use crate::later_milter::LaterMilter;

pub const SUPPORT: &str = "support@acme.example";
/// Gets a copy of all transport mail: an ordinary recipient beside the support address.
const SALES: &str = "sales@acme.example";
/// Has a mailbox here, so that a bounce can be seen.
const SENDER: &str = "someone@other.example";
const PROVEN_SENDER: &str = "ann@customer.example";
const PASSWORD: &str = "s3cret-one";

/// The milter list as `deskmilter postfix --apply` writes it, but for a shorter content_timeout, which our signs of life start
/// anew; retries when we ask for them and not by the clock; and an lmtp client that does not wait ten minutes.
const MAIN_CF: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=DEFAULT, connect_timeout=5s, command_timeout=10s, content_timeout=15s }
non_smtpd_milters = $smtpd_milters
queue_run_delay = 300s
minimal_backoff_time = 300s
maximal_backoff_time = 300s
lmtp_lhlo_timeout = 5s
lmtp_data_done_timeout = 25s
";

/// Postfix, deskmilter, and an endpoint that can be broken.
pub struct Company {
    pub site: Site,
    pub desk: Endpoint,
    pub runtime: tokio::runtime::Runtime,
    pub later: Option<LaterMilter>,
    /// Somebody else where a lying name server says that the endpoint is.
    pub impostor: Option<Endpoint>,
    /// Name servers for the endpoint's name.
    pub resolvers: Vec<NameServer>,
    mode: Mode,
}

/// Runs the cell of fault `name` in `mode`.
pub fn prove(rows: Vec<Fault>, name: &str, mode: Mode) {
    let fault = rows.into_iter().find(|fault| fault.name == name).unwrap();
    let cell = fault.cells.of(mode).unwrap();
    let mut company = Company::start(mode, &fault.trouble);
    company.prove(&fault.trouble, cell);
}

impl Company {
    fn start(mode: Mode, trouble: &Trouble) -> Self {
        let (relay, default, more) = match mode {
            Mode::transport => ("transport", "accept", ""),
            Mode::inline => ("inline", "tempfail", "transport_maps =\n"),
        };
        let endpoint = format!("relay = \"{relay}\"\ndeadline = \"{}\"\n", trouble.deadline);
        let main_cf = format!("{}{more}{}", MAIN_CF.replace("DEFAULT", default), trouble.main_cf);
        let mut site = Site::with(trouble.authentication, &endpoint, &main_cf);
        site.set_password(PASSWORD);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let desk = runtime.block_on(Endpoint::start(trouble.script.clone()));
        site.point_at(desk.port, &desk.ca);
        // Its sockets take connections before it serves.
        let ready = || site.daemon.log().matches("INFO ready ").count() == 2;
        wait_until("the daemon ready again", || site.daemon.log(), ready);
        Self { site, desk, runtime, later: None, impostor: None, resolvers: Vec::new(), mode }
    }

    fn prove(&mut self, trouble: &Trouble, cell: Cell) {
        let message = message(trouble);
        (trouble.before)(self);
        let log_before = self.site.postfix.log().len();
        let reply = self.submit(trouble, &message);
        let heard = reply.as_ref().map(Reply::to_string);
        let as_expected = match (&heard, cell.reply) {
            (Some(heard), Some(words)) => heard.starts_with(words.get(..3).unwrap()) && says(heard, words),
            (heard, words) => heard.is_none() && words.is_none(),
        };
        assert!(as_expected, "the client heard {heard:?}, not {:?}\n{}", cell.reply, self.logs());
        let accepted = reply.as_ref().is_some_and(|reply| reply.code == 250);
        let find_id = || queue_id(reply.as_ref(), self.site.postfix.log().get(log_before..).unwrap_or_default());
        if let Log::Relay(..) | Log::OfTheMessage(_) = cell.log {
            // Postfix's log comes by way of a process of its own.
            self.wait_for("a queue id", |_| !find_id().is_empty());
        }
        let id = find_id();
        self.check_queue(&id, cell.queue);
        if let Some(act) = trouble.queued {
            act(self);
            self.check_queue(&id, cell.queue);
        }
        self.wait_for(&format!("{} tickets", cell.tickets), |company| company.tickets() == cell.tickets);
        self.check_log(&id, cell.log);
        if accepted && self.mode == Mode::transport {
            // The ordinary recipient of the same message has it, whatever becomes of the other.
            self.site.postfix.wait_for_mail(SALES, 1);
        }

        (trouble.after)(self);
        self.desk.mend();
        if let 400..=499 = reply.map_or(400, |reply| reply.code) {
            self.come_again(trouble, &message);
        }
        if cell.in_the_end == 0 {
            // Others' mail is taken.
            self.come_again(trouble, &crate::company::message(trouble));
        }
        let all = cell.in_the_end.max(1);
        let over = |company: &Self| {
            company.site.postfix.flush();
            std::thread::sleep(std::time::Duration::from_millis(300));
            company.tickets() >= all && company.site.postfix.queue().is_empty()
        };
        self.wait_for(&format!("{all} tickets and an empty queue in the end"), over);
        assert_eq!(self.tickets(), all, "tickets in the end\n{}", self.logs());
        let ids = self.desk.see(|record| {
            record.taken.iter().map(|taken| fields(&taken.content, "Message-ID").concat()).collect::<Vec<_>>()
        });
        let own = fields(&message, "Message-ID").concat();
        assert_eq!(ids.iter().filter(|id| **id == own).count(), cell.in_the_end, "copies of the message");
        assert!(self.site.daemon.stop().success());
        let log = self.site.daemon.log();
        assert!(!log.contains("panic") && !log.contains(PASSWORD), "{log}");
        assert!(self.desk.see(|record| record.plain.iter().all(|line| !line.starts_with("AUTH"))));
        let told = |impostor: &Endpoint| impostor.see(|record| record.logins.len() + record.read);
        assert_eq!(self.impostor.as_ref().map_or(0, told), 0, "what an impostor was told");
    }

    /// Hands the message in and lets the fault strike meanwhile. `None` when the connection ends without a reply.
    fn submit(&mut self, trouble: &Trouble, message: &[u8]) -> Option<Reply> {
        let address = if trouble.past_the_milter { self.site.unfiltered } else { self.site.postfix.address() };
        let recipients = self.recipients();
        let (sender, proven) = (sender(trouble), trouble.proven);
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let mut session = match proven {
                    true => SmtpSession::connect_as(address, &Site::customer()),
                    false => SmtpSession::connect(address),
                };
                if !proven {
                    session.expect(250, "EHLO localhost");
                }
                session.send(sender, recipients, message)
            });
            if let Some(strike) = trouble.unanswered {
                self.wait_for("the whole message at the endpoint", |company| company.desk.see(|r| r.read) >= 1);
                strike(self);
            }
            client.join().ok()
        })
    }

    /// The client sends it again until it is taken.
    fn come_again(&mut self, trouble: &Trouble, message: &[u8]) {
        let trouble = Trouble { unanswered: None, ..trouble.clone() };
        let mut last = None;
        for _ in 0..30 {
            last = self.submit(&trouble, message);
            if last.as_ref().is_some_and(|reply| reply.code == 250) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        panic!("the client is not heard again: {last:?}\n{}", self.logs());
    }

    fn recipients(&self) -> &'static [&'static str] {
        match self.mode {
            Mode::transport => &[SUPPORT, SALES],
            // One transaction, one route.
            Mode::inline => &[SUPPORT],
        }
    }

    pub fn tickets(&self) -> usize {
        self.desk.see(|record| record.taken.len())
    }

    pub fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        wait_until(what, || self.logs(), || condition(self));
    }

    fn check_queue(&self, id: &str, queue: Queue) {
        let log = || self.site.postfix.log();
        match queue {
            Queue::Empty => {
                self.site.postfix.wait_for_empty_queue();
                assert!(!log().contains("status=bounced"), "{}", self.logs());
            }
            Queue::Waits(words) => {
                let waits = |company: &Self| {
                    let queue = company.site.postfix.queue();
                    let [queued] = queue.as_slice() else { return false };
                    let [(to, why)] = queued.recipients.as_slice() else { return false };
                    queued.id == id && queued.queue == "deferred" && to == SUPPORT && says(why, words)
                };
                self.wait_for(&format!("deferral: {words}"), waits);
            }
            Queue::Bounced(words) => {
                let bounced = |line: &str| line.contains(id) && says(line, "status=bounced") && says(line, words);
                self.wait_for(&format!("bounce: {words}"), |_| log().lines().any(bounced));
                self.site.postfix.wait_for_mail(SENDER, 1);
                self.site.postfix.wait_for_empty_queue();
            }
        }
    }

    fn check_log(&self, id: &str, expected: Log) {
        let holds = |log: &str, words: &str| log.lines().any(|line| says(line, words));
        let found = |company: &Self| match expected {
            Log::Relay(decision, words) => company.site.daemon.log().lines().any(|line| {
                line.contains(&format!(" {id}: relay decision={decision} "))
                    && line.split(" reply=").nth(1).is_some_and(|reply| says(reply, words))
            }),
            Log::OfTheMessage(words) => holds(&company.site.daemon.log(), &format!(" {id}: … {words}")),
            Log::Ours(words) => holds(&company.site.daemon.log(), words),
            Log::Postfix(words) => holds(&company.site.postfix.log(), words),
        };
        self.wait_for(&format!("line of {id}: {expected:?}"), found);
    }

    /// The ends of both logs, for a failure.
    fn logs(&self) -> String {
        let (ours, postfix) = (self.site.daemon.log(), self.site.postfix.log());
        format!("{}\n{}", support::tail(&postfix), support::tail(&ours))
    }

    /// A file or folder of deskmilter's state directory.
    pub fn state(&self, name: &str) -> std::path::PathBuf {
        self.site.configuration().with_file_name("state").join(name)
    }

    /// Starts a milter after ours that refuses each message so.
    pub fn refuse_later(&mut self, code: u16, text: &str) {
        let queue_directory = self.site.postfix.queue_directory();
        self.later = Some(LaterMilter::start(&queue_directory, Refusal::new(code, 7, 1, text)));
    }

    /// Mounts a disk of this size over a folder of the state directory.
    pub fn mount(&mut self, name: &str, size: &str) {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(self.state(name)));
    }

    /// Takes it away again.
    pub fn unmount(&mut self, name: &str) {
        run(Command::new("umount").arg("-l").arg(self.state(name)));
    }

    /// Gives the endpoint a name, which the daemon asks of the name server with `zone` until [`Self::correct_the_name`].
    pub fn name_the_endpoint(&mut self, zone: &Zone) {
        let resolver = NameServer::start_at((free_address().ip(), 53).into(), zone);
        let file = self.state("resolv.conf");
        fs::write(&file, format!("nameserver {}\n", resolver.address().ip())).unwrap();
        self.resolvers.push(resolver);
        let configuration = fs::read_to_string(self.site.configuration()).unwrap();
        let named = configuration.replace("host = \"localhost\"", &format!("host = \"{ENDPOINT_NAME}\""));
        fs::write(self.site.configuration(), named).unwrap();
        self.site.daemon.stop();
        let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", file.display());
        self.site.daemon.start_by(&["unshare", "-m", "sh", "-c", &mount]);
        self.site.daemon.resume();
    }

    /// The daemon asks a name server that is there and tells the truth.
    pub fn correct_the_name(&mut self) {
        let truth = Zone::new().address(ENDPOINT_NAME, "127.0.0.1");
        let resolver = NameServer::start_at((free_address().ip(), 53).into(), &truth);
        // In place: the daemon's own view of the file system has this very file.
        fs::write(self.state("resolv.conf"), format!("nameserver {}\n", resolver.address().ip())).unwrap();
        self.resolvers.push(resolver);
    }

    /// The password that the endpoint takes.
    pub fn restore_password(&mut self) {
        self.site.set_password(PASSWORD);
    }

    /// Leaves the daemon `more` free file descriptors, or as many as it had.
    pub fn limit_descriptors(&mut self, more: Option<usize>) {
        let pid = self.site.daemon.pid();
        let number = |entry: fs::DirEntry| entry.file_name().into_string().ok()?.parse::<usize>().ok();
        let open: Vec<usize> =
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| number(entry.unwrap())).collect();
        let free = (0..).filter(|n| !open.contains(n));
        let limit = match more {
            Some(more) => free.take(more + 1).last().unwrap().to_string(),
            None => "1024".to_owned(),
        };
        run(Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--nofile={limit}:")));
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        // A test that failed has left its disks mounted.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let state = self.state("").display().to_string();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&state));
        ours.for_each(|path| drop(Command::new("umount").arg("-l").arg(path).status()));
    }
}

fn sender(trouble: &Trouble) -> &'static str {
    if trouble.proven { PROVEN_SENDER } else { SENDER }
}

fn message(trouble: &Trouble) -> Vec<u8> {
    let message = Message::new(sender(trouble), SUPPORT, "a fault befalls");
    let body = "All of us wait for the answer to this question.\r\n".repeat(4_000);
    if trouble.large { message.body(&body).octets() } else { message.octets() }
}

/// What Postfix calls the message: from its reply, or from its log where it has not taken it.
fn queue_id(reply: Option<&Reply>, log: &str) -> String {
    let told = reply.and_then(|reply| reply.text.split("queued as ").nth(1)).map(str::to_owned);
    let logged = || {
        let line = log.lines().rev().find(|line| line.contains(": client="))?;
        line.split(": client=").next()?.rsplit(' ').next().map(str::to_owned)
    };
    told.or_else(logged).unwrap_or_default()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
