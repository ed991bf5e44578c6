//! The whole way of a message through a real Postfix: smtp-source, smtpd with a milter or none, cleanup, queue, discard.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{PrivatePostfix, Signer, free_address, postfix_program};

use crate::filter::Filter;
use crate::{idle_milter, mail};

/// Messages a run.
const COUNT: usize = 800;
/// SMTP sessions at a time, each for one message.
const SESSIONS: usize = 16;
/// Its mail is taken, queued and thrown away.
const RECIPIENT: &str = "support@acme.example";
/// Its mail is delivered, to see what the milter did.
const WITNESS: &str = "witness@acme.example";

/// A Postfix with one smtpd for each milter and one without.
pub struct EndToEnd {
    postfix: PrivatePostfix,
    ports: Vec<(String, SocketAddr)>,
    message: Vec<u8>,
}

impl EndToEnd {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start, or a milter does not do its work.
    pub fn start(signer: &Signer, filters: &[Filter]) -> Self {
        let discard = format!("transport_maps = inline:{{ {{ {RECIPIENT} = discard: }} }}\n");
        let mut postfix = PrivatePostfix::new(&[WITNESS, RECIPIENT], &discard, false);
        let idle = postfix.socket_folder("idle").join("milter.sock");
        idle_milter::start(idle.clone());
        let mut ways = vec![("no milter".to_owned(), String::new())];
        ways.extend(filters.iter().map(|filter| (filter.name.clone(), filter.socket())));
        ways.push(("a milter that does nothing".to_owned(), format!("unix:{}", idle.display())));
        let mut ports = Vec::new();
        for (name, milter) in ways {
            let address = free_address();
            postfix.add_service(&format!("{address} inet n - n - - smtpd -o smtpd_milters={milter}"));
            ports.push((name, address));
        }
        postfix.resume();
        for (name, address) in &ports {
            postfix.wait_for(&format!("the smtpd with {name}"), |_| TcpStream::connect(address).is_ok());
        }
        let message = mail::octets(0, RECIPIENT, Some(signer));
        let end_to_end = Self { postfix, ports, message };
        for n in 0..end_to_end.ports.len() {
            end_to_end.send(n, 1, WITNESS);
            let delivered = end_to_end.postfix.wait_for_mail(WITNESS, n + 1);
            let judged = delivered.last().is_some_and(|mail| String::from_utf8_lossy(mail).contains("dkim=pass"));
            assert_eq!(judged, (1..=filters.len()).contains(&n), "what {} did", end_to_end.name(n));
        }
        end_to_end
    }

    /// How many ways there are; the first is without a milter.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// What a way is called.
    pub fn name(&self, way: usize) -> &str {
        self.ports.get(way).map_or("", |(name, _)| name)
    }

    /// Messages a second that Postfix takes by a way. Waits for the queue to be empty, so that the next run begins as this one did.
    ///
    /// # Panics
    /// When a message is not taken.
    pub fn rate(&self, way: usize) -> f64 {
        let elapsed = self.send(way, COUNT, RECIPIENT);
        self.postfix.wait_for_empty_queue();
        COUNT as f64 / elapsed.as_secs_f64()
    }

    fn send(&self, way: usize, count: usize, recipient: &str) -> Duration {
        let file = self.postfix.configuration().join("message");
        std::fs::write(&file, &self.message).expect("a file for the message");
        let (_, address) = self.ports.get(way).expect("a way that there is");
        let mut command = Command::new(postfix_program("smtp-source"));
        command
            .args(["-s", &SESSIONS.min(count).to_string(), "-m", &count.to_string(), "-f", "ann@customer.example"])
            .args(["-t", recipient, "-F"])
            .arg(file)
            .arg(format!("inet:{}:{}", address.ip(), address.port()));
        let start = Instant::now();
        let output = command.output().expect("smtp-source");
        let elapsed = start.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "smtp-source: {} {said}", output.status);
        elapsed
    }
}
