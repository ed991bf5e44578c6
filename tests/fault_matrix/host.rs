//! Faults of this host: ours, and of the DNS that it asks.

use std::net::Ipv4Addr;
use std::time::Duration;

use support::Zone;
use support::endpoint::{Action, ENDPOINT_NAME, Endpoint, Script};

use crate::cell::{Cell, Cells, Log, arrives, cells, later, put_off, waits};
use crate::company::Company;
use crate::fault::{Trouble, faults, on};

const UNAVAILABLE: &str = "451 4.7.1 Service unavailable";

/// A good endpoint, something before the message, something after it.
fn trouble(before: fn(&mut Company), after: fn(&mut Company)) -> Trouble {
    Trouble { before, after, ..Trouble::default() }
}

/// The endpoint has the whole message and takes its time to answer: then `strike`.
fn unanswered(strike: fn(&mut Company), after: fn(&mut Company)) -> Trouble {
    Trouble { unanswered: Some(strike), after, ..on("DOT", Action::Late(Duration::from_secs(3))) }
}

fn taken(cell: Cell) -> Cell {
    Cell { tickets: 1, ..cell }
}

fn full_disk() -> Trouble {
    Trouble { large: true, ..trouble(|company| company.mount("spool", "size=16k"), |company| company.unmount("spool")) }
}

fn dead_name_server() -> Trouble {
    Trouble { proven: true, ..trouble(|company| company.site.names.stop(), |company| company.site.names.resume()) }
}

fn named(before: fn(&mut Company)) -> Trouble {
    trouble(before, Company::correct_the_name)
}

/// The name leads to somebody else, who has a certificate for it, too, of an authority of his own.
fn impostor(company: &mut Company) {
    company.name_the_endpoint(&Zone::new().address(ENDPOINT_NAME, "127.0.0.2"));
    let place = Endpoint::start_at(Ipv4Addr::new(127, 0, 0, 2), company.desk.port, Script::default());
    company.impostor = Some(company.runtime.block_on(place));
}

fn both(log: Log, words: &'static str) -> Cells {
    cells(put_off(words, log), put_off(words, log))
}

faults! {
    // The daemon.
    killed (transport, inline): "deskmilter killed",
        trouble(|company| company.site.daemon.kill(), |company| company.site.daemon.resume()),
        cells(
            waits("Connection refused", Log::Postfix("connect to Milter service … Connection refused")),
            put_off(UNAVAILABLE, Log::Postfix("connect to Milter service … Connection refused")),
        )
        => "start it: `Restart=on-failure`";
    killed_unanswered (transport, inline): "deskmilter killed while the endpoint has the message and has not answered",
        unanswered(|company| company.site.daemon.kill(), |company| company.site.daemon.resume()),
        cells(
            waits("lost connection with … while sending end of data", Log::Postfix("lost connection with … may be sent more than once")),
            put_off(UNAVAILABLE, Log::Postfix("can't read SMFIC_")),
        ).each(taken).in_the_end(2)
        => "merge the two tickets; both have the same Message-ID";
    stopped (transport, inline): "deskmilter hangs (SIGSTOP)",
        trouble(|company| company.site.daemon.freeze(), |company| company.site.daemon.thaw()),
        cells(
            waits("timed out while receiving the initial server greeting", Log::Postfix("can't read SMFIC_OPTNEG … timed out")),
            put_off(UNAVAILABLE, Log::Postfix("can't read SMFIC_OPTNEG … timed out")),
        )
        => "`kill -CONT`, or restart it; report it";
    stopped_unanswered (transport): "deskmilter hangs while the endpoint has the message",
        unanswered(|company| company.site.daemon.freeze(), |company| company.site.daemon.thaw()),
        Cells {
            transport: Some(waits("timed out while sending end of data", Log::Postfix("timed out while … may be sent more than once"))),
            inline: None,
        }.each(taken).in_the_end(2)
        => "merge the two tickets; both have the same Message-ID";
    stopped_unanswered_inline (inline): "deskmilter hangs while the endpoint has the message, and recovers within `endpoint.deadline`",
        Trouble { deadline: "1m", ..unanswered(|company| company.site.daemon.freeze(), |company| company.site.daemon.thaw()) },
        Cells { transport: None, inline: Some(put_off(UNAVAILABLE, Log::Postfix("can't read SMFIC_ … timed out"))) }.each(taken)
        => "nothing: the journal knows that the ticket is there";
    restarted_unanswered (transport, inline): "deskmilter restarted (SIGTERM) while the endpoint has the message",
        unanswered(
            |company| company.site.daemon.terminate(),
            |company| {
                assert!(company.site.daemon.wait().success());
                company.site.daemon.resume();
            },
        ),
        cells(arrives(Log::Relay("relayed", "250")), arrives(Log::Relay("relayed", "250")))
        => "nothing: it finishes what is under way";

    // What it needs.
    no_password_file (transport, inline): "password file missing",
        trouble(
            |company| std::fs::remove_file(company.site.desk.password_file()).unwrap(),
            Company::restore_password,
        ),
        later("451 4.3.5 … no password") => "path, mode and owner of the file: the words say which";
    disk_full (transport, inline): "disk full: no room in the spool, before the queue", full_disk(),
        both(Log::OfTheMessage("judged decision=deferred"), "451 4.3.0") => "make room in `state_directory`";
    disk_full_behind_the_queue (transport): "disk full: no room in the spool, behind the queue",
        Trouble { past_the_milter: true, ..full_disk() },
        Cells { inline: None, ..later("452 4.3.1 … no room to spool") } => "make room in `state_directory`";
    journal_full (inline): "disk full: no room for the inline journal",
        trouble(|company| company.mount("", "size=16k,nr_inodes=1"), |company| company.unmount("")),
        Cells { transport: None, inline: Some(arrives(Log::Ours("inline journal cannot be written"))) }
        => "make room: after a restart a repeated message may make a second ticket";
    no_descriptors (transport, inline): "no file descriptor left",
        trouble(|company| company.limit_descriptors(Some(0)), |company| company.limit_descriptors(None)),
        cells(
            waits("timed out while receiving the initial server greeting", Log::Ours("cannot accept an LMTP connection … Too many open files")),
            put_off(UNAVAILABLE, Log::Ours("cannot take a milter connection … Too many open files")),
        )
        => "`LimitNOFILE=`; what else is open? `ls /proc/PID/fd`";
    no_descriptors_for_the_endpoint (transport, inline): "no file descriptor left for a connection to the endpoint",
        trouble(|company| company.limit_descriptors(Some(1)), |company| company.limit_descriptors(None)),
        later("451 4.3. … Too many open files") => "`LimitNOFILE=`; what else is open? `ls /proc/PID/fd`";

    // DNS.
    name_server_dead (transport, inline): "the name server is dead: the sender cannot be judged", dead_name_server(),
        cells(
            arrives(Log::OfTheMessage("judged decision=tagged … none; reason=dns-temporary")),
            arrives(Log::OfTheMessage("judged decision=tagged … none; reason=dns-temporary")),
        )
        => "mend it; meanwhile tickets are tagged `none`";
    name_server_dead_defer (transport, inline): "the same with `on_temperror = \"defer\"`",
        Trouble { authentication: "on_temperror = \"defer\"", ..dead_name_server() },
        both(Log::OfTheMessage("judged decision=deferred"), "451 4.4.3") => "mend it";
    endpoint_unknown (transport, inline): "the DNS does not know the endpoint",
        named(|company| company.name_the_endpoint(&Zone::new())),
        later("451 4.4.3 … no address found") => "`endpoint.host`, or the DNS";
    endpoint_servfail (transport, inline): "the DNS fails for the endpoint's name",
        named(|company| company.name_the_endpoint(&Zone::new().failing("desk.example"))),
        later("451 4.4.3 … no address found") => "the DNS";
    endpoint_dns_silent (transport, inline): "the DNS does not answer for the endpoint's name",
        named(|company| company.name_the_endpoint(&Zone::new().silent("desk.example"))),
        later("451 4.4.2 … timed out (looking up its address)") => "the DNS";
    endpoint_dns_lies (transport, inline): "the DNS lies: somebody else poses as the endpoint", named(impostor),
        later("451 4.7.5 … no trusted TLS connection") => "the DNS; he has seen neither password nor message";
}
