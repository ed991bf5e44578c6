//! What the endpoints have taken lately. After an endpoint's 250 the MTA may still say 4xx to its client, or lose it: a later
//! milter refuses, the disk is full, the machine stops. The client then sends the message again, and must not make a second
//! ticket.
//!
//! Kept in memory, and in a file of one line an entry so that it outlives a restart. An entry is written, and is on the disk,
//! before the MTA gets its answer. Between the endpoint's 250 and that moment a crash makes a second ticket, as it does
//! everywhere in SMTP (RFC 1047); no mishap of the journal ever loses a message.

#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/journal.rs"]
pub(crate) mod fuzzing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use tokio::task::spawn_blocking;

use crate::mail;
use crate::mail::{Body, Headers};

/// How long a message is remembered: servers that were told 4xx come again within hours.
const LIFETIME: Duration = Duration::from_secs(3 * 86_400);
/// Messages remembered at most; of more, the oldest are forgotten. Some 10 MiB of memory, and twice as many lines in the file.
const ENTRIES_MAX: usize = 100_000;
/// Octets of the file that are read at most (32 MiB): more than it ever grows to.
const FILE_MAX: u64 = 32 << 20;
/// Octets of a line that are looked at, at most.
const LINE_MAX: u64 = 256;
/// Octets of a key.
const KEY_LEN: usize = 16;
/// How far an entry may be in the future, for clocks are set now and then; beyond it means nothing (a day).
const AHEAD_MAX: u64 = 86_400;
/// The fields that tell one message from another, besides its body: what a ticket system makes of it depends on them, and
/// whoever has seen a message could otherwise send a crippled copy before it, that it is then taken for. Those of the way it
/// took are not among them.
const FIELDS: [&str; 13] = [
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
];
/// Without these two a message is never taken for a repeat: a device may mean to send the same words twice.
const NEEDED: [&str; 2] = ["Message-ID", "Date"];

/// Octets of a body read at a time (64 KiB).
const BLOCK: usize = 64 * 1024;

/// SHA-256 over all octets of a body: a repeat has them all. (The digest of the verdict leaves white space out; without its
/// line endings a message is another one to a ticket system.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BodyDigest(Vec<u8>);

impl BodyDigest {
    /// That of `body`.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub(super) async fn of(body: &Body) -> io::Result<Self> {
        let mut context = Context::new(&SHA256);
        let mut offset = 0;
        loop {
            let block = body.read_at(offset, BLOCK).await?;
            if block.is_empty() {
                return Ok(Self(context.finish().as_ref().to_vec()));
            }
            offset = offset.saturating_add(block.len() as u64);
            context.update(&block);
        }
    }
}

/// SHA-256 over what tells one message from another, whoever it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MessageDigest(Vec<u8>);

impl MessageDigest {
    /// The digest, or `None` for a message without a Message-ID or a Date: two of those may be meant to be two. Once for all
    /// recipients: there may be a thousand, and megabytes of header fields.
    pub(super) fn of(headers: &Headers, body: &BodyDigest) -> Option<Self> {
        let says = |name: &&str| headers.first(name).is_some_and(|field| !field.unfolded().is_empty());
        if !NEEDED.iter().all(says) {
            return None;
        }
        let mut context = Context::new(&SHA256);
        add(&mut context, &body.0);
        for name in FIELDS {
            for field in headers.named(name) {
                add(&mut context, name.as_bytes());
                add(&mut context, &field.unfolded());
            }
        }
        Some(Self(context.finish().as_ref().to_vec()))
    }
}

/// With its length before it, no part can pass for another.
fn add(context: &mut Context, octets: &[u8]) {
    context.update(&(octets.len() as u64).to_be_bytes());
    context.update(octets);
}

/// A message for one recipient, told from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; KEY_LEN]);

impl Key {
    /// The key.
    ///
    /// `way` is the connector; its endpoint, for what the sandbox has taken is not taken by the ticket system; and the one word of
    /// the sender's auth status, so that a forged copy never stands for a proven one.
    pub(super) fn of(way: [&str; 3], sender: &mail::Path, to: &mail::Path, message: &MessageDigest) -> Option<Self> {
        let mut context = Context::new(&SHA256);
        for part in ["deskmilter journal 2"].into_iter().chain(way).chain([sender.as_str(), to.as_str()]) {
            add(&mut context, part.as_bytes());
        }
        add(&mut context, &message.0);
        let hash = context.finish();
        hash.as_ref().first_chunk().copied().map(Self)
    }

    fn hex(self) -> String {
        self.0.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    fn from_hex(text: &str) -> Option<Self> {
        let octets = text.as_bytes();
        if octets.len() != 2 * KEY_LEN {
            return None;
        }
        let mut key = [0; KEY_LEN];
        for (octet, pair) in key.iter_mut().zip(octets.chunks(2)) {
            *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// The journal.
#[derive(Debug)]
pub(super) struct Journal {
    memory: Mutex<Memory>,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Memory {
    taken: HashMap<Key, u64>,
    /// The same in the order of their times.
    order: VecDeque<(u64, Key)>,
    under_way: HashSet<Key>,
}

/// The file; made when there is something to write.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
}

/// What is known of a message.
#[derive(Debug)]
pub(super) enum Known {
    /// The endpoint has taken it.
    Taken,
    /// It is being handed over at this moment.
    UnderWay,
    /// Nothing. It counts as under way until the claim is dropped.
    New(Claim),
}

/// The right to hand a message over, alone.
#[derive(Debug)]
pub(super) struct Claim {
    journal: Arc<Journal>,
    key: Key,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.journal.lock().under_way.remove(&self.key);
    }
}

impl Journal {
    /// Reads what `path` has of the last days. Lines that make no sense, as a crash may leave one, are passed over. A file that
    /// cannot be read is told in the log and begun anew: nothing is lost by it but memory of what was taken.
    pub(super) fn open(path: PathBuf, now: u64) -> Self {
        let mut memory = Memory::default();
        match read(&path, now, &mut memory) {
            Ok(0) => {}
            Ok(damaged) => tracing::warn!(file = %path.display(), damaged, "inline journal: damaged lines passed over"),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "inline journal cannot be read; it is begun anew");
            }
        }
        // The first entry writes the file anew, without what is damaged or old.
        let log = Log { path, file: None, lines: usize::MAX };
        Self { memory: Mutex::new(memory), log: Arc::new(Mutex::new(log)) }
    }

    /// What is known of a message.
    pub(super) fn look_up(self: &Arc<Self>, key: Key, now: u64) -> Known {
        let mut memory = self.lock();
        memory.forget(now);
        if memory.taken.contains_key(&key) {
            Known::Taken
        } else if memory.under_way.insert(key) {
            drop(memory);
            Known::New(Claim { journal: Arc::clone(self), key })
        } else {
            Known::UnderWay
        }
    }

    /// Remembers messages that the endpoint has taken. Returns when they are on the disk, or cannot be: then they are remembered
    /// until the next restart.
    pub(super) async fn remember(self: &Arc<Self>, keys: Vec<Key>, now: u64) {
        if keys.is_empty() {
            return;
        }
        {
            let mut memory = self.lock();
            keys.iter().for_each(|key| memory.insert(*key, now));
            memory.forget(now);
        }
        let journal = Arc::clone(self);
        // Runs to its end, whoever waits for it or not.
        let written = spawn_blocking(move || journal.write(&keys, now)).await;
        if let Err(error) = written.map_err(io::Error::other).and_then(|written| written) {
            tracing::error!(%error, "inline journal cannot be written: after a restart a repeated message may make a second ticket");
        }
    }

    fn write(&self, keys: &[Key], now: u64) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.lines >= 2 * ENTRIES_MAX || log.file.is_none() {
            let entries: Vec<(u64, Key)> = self.lock().order.iter().copied().collect();
            return log.rewrite(&entries);
        }
        log.lines = log.lines.saturating_add(keys.len());
        let text: String = keys.iter().map(|key| line(now, *key)).collect();
        let Some(file) = &mut log.file else { return Ok(()) };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line may be there: the next entry begins a new file.
            log.file = None;
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn insert(&mut self, key: Key, time: u64) {
        if self.taken.insert(key, time).is_none() {
            self.order.push_back((time, key));
        }
    }

    /// Forgets what is too old, and the oldest of too many.
    fn forget(&mut self, now: u64) {
        while let Some(&(time, key)) = self.order.front() {
            if now.saturating_sub(time) <= LIFETIME.as_secs() && self.order.len() <= ENTRIES_MAX {
                return;
            }
            self.order.pop_front();
            self.taken.remove(&key);
        }
    }
}

impl Log {
    /// Writes a new file beside the old one and puts it in its place.
    fn rewrite(&mut self, entries: &[(u64, Key)]) -> io::Result<()> {
        self.file = None;
        let aside = self.path.with_extension("new");
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut writer = BufWriter::new(OpenOptions::new().append(true).create_new(true).mode(0o600).open(&aside)?);
        for (time, key) in entries {
            writer.write_all(line(*time, *key).as_bytes())?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        std::fs::rename(&aside, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        (self.file, self.lines) = (Some(file), entries.len());
        Ok(())
    }
}

/// `1 TIME KEY CHECK`: version, seconds since 1970, and what tells a whole line from a torn one.
fn line(time: u64, key: Key) -> String {
    let text = format!("1 {time} {}", key.hex());
    let check = check(&text);
    format!("{text} {check}\n")
}

fn check(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(4).map(|octet| format!("{octet:02x}")).collect()
}

fn parse(line: &str) -> Option<(u64, Key)> {
    let (text, sum) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    if check(text) != sum {
        return None;
    }
    let (time, key) = text.strip_prefix("1 ")?.split_once(' ')?;
    Some((time.parse().ok()?, Key::from_hex(key)?))
}

/// Reads the file into `memory`; returns how many lines made no sense.
fn read(path: &Path, now: u64, memory: &mut Memory) -> io::Result<usize> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file.take(FILE_MAX));
    let mut damaged = 0_usize;
    let mut octets = Vec::new();
    loop {
        octets.clear();
        if reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut octets)? == 0 {
            memory.order.make_contiguous().sort_unstable_by_key(|(time, _)| *time);
            memory.forget(now);
            return Ok(damaged);
        }
        match std::str::from_utf8(&octets).ok().and_then(parse) {
            Some((time, key)) if time <= now.saturating_add(AHEAD_MAX) => memory.insert(key, time),
            Some(_) => {}
            None => damaged = damaged.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Header;

    const NOW: u64 = 1_790_000_000;

    fn key(n: u8) -> Key {
        Key([n; KEY_LEN])
    }

    fn is_taken(journal: &Arc<Journal>, key: Key, now: u64) -> bool {
        matches!(journal.look_up(key, now), Known::Taken)
    }

    fn open(folder: &tempfile::TempDir, now: u64) -> Arc<Journal> {
        Arc::new(Journal::open(folder.path().join("inline.journal"), now))
    }

    #[tokio::test]
    async fn what_was_taken_is_known_after_a_restart_for_three_days() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(&folder, NOW);
        assert!(!is_taken(&journal, key(1), NOW));
        journal.remember(vec![key(1)], NOW).await;
        journal.remember(vec![key(2), key(3)], NOW + 100).await;
        for restart in 0..3 {
            let journal = open(&folder, NOW + restart);
            assert!([1, 2, 3].iter().all(|n| is_taken(&journal, key(*n), NOW + restart)), "{restart}");
            assert!(!is_taken(&journal, key(4), NOW));
            journal.remember(vec![key(50 + u8::try_from(restart).unwrap())], NOW + restart).await;
        }
        let late = NOW + LIFETIME.as_secs() + 50;
        let journal = open(&folder, late);
        assert!(!is_taken(&journal, key(1), late) && is_taken(&journal, key(2), late));
    }

    #[tokio::test]
    async fn damaged_lines_cost_no_more_than_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inline.journal");
        open(&folder, NOW).remember(vec![key(1), key(2), key(3)], NOW).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let mut octets = text.into_bytes();
        // The second entry is changed, the third torn, and there is noise and a line from the far future.
        let second = octets.iter().position(|b| *b == b'\n').unwrap() + 5;
        octets[second] ^= 1;
        octets.truncate(octets.len() - 3);
        octets.extend_from_slice(b"\n\xff\xff\n\n");
        octets.extend(vec![b'x'; 10_000]);
        octets.extend_from_slice(format!("\n{}", line(NOW * 2, key(9))).as_bytes());
        std::fs::write(&path, octets).unwrap();
        let journal = open(&folder, NOW);
        assert!(is_taken(&journal, key(1), NOW));
        assert!(![2, 3, 9].iter().any(|n| is_taken(&journal, key(*n), NOW)));
        journal.remember(vec![key(4)], NOW).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(NOW, key(1)) + &line(NOW, key(4)));
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_written_remembers_until_the_end() {
        let journal = Arc::new(Journal::open("/nonexistent/inline.journal".into(), NOW));
        journal.remember(vec![key(1)], NOW).await;
        assert!(is_taken(&journal, key(1), NOW));
    }

    #[test]
    fn a_message_is_handed_over_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(&folder, NOW);
        let Known::New(claim) = journal.look_up(key(1), NOW) else { panic!("nobody knows it") };
        assert!(matches!(journal.look_up(key(1), NOW), Known::UnderWay));
        drop(claim);
        assert!(matches!(journal.look_up(key(1), NOW), Known::New(_)));
    }

    #[test]
    fn of_too_many_the_oldest_are_forgotten() {
        let mut memory = Memory::default();
        for n in 0..ENTRIES_MAX as u64 + 10 {
            let mut key = [0; KEY_LEN];
            key[..8].copy_from_slice(&n.to_be_bytes());
            memory.insert(Key(key), NOW + n / 1000);
            memory.forget(NOW + n / 1000);
        }
        assert_eq!((memory.taken.len(), memory.order.len()), (ENTRIES_MAX, ENTRIES_MAX));
    }

    #[tokio::test]
    async fn a_body_without_its_line_endings_is_another_one() {
        let digest = async |text: &str| BodyDigest::of(&Body::from_octets(text.into())).await.unwrap();
        let first = digest("--x\r\nContent-Type: text/html\r\n\r\n<p>\r\n--x--\r\n").await;
        assert_eq!(first, digest("--x\r\nContent-Type: text/html\r\n\r\n<p>\r\n--x--\r\n").await);
        assert_ne!(first, digest("--x Content-Type: text/html <p> --x--\r\n").await);
    }

    #[test]
    fn a_key_is_that_of_one_message_one_sender_one_recipient_one_endpoint_and_one_status() {
        const WAY: [&str; 3] = ["acme", "endpoint.example:587", "pass"];
        let path = |text: &str| mail::Path::parse(text.as_bytes()).unwrap();
        let headers = |id: &str, subject: &str| {
            Headers::new(vec![
                Header::written("Received", "from anywhere"),
                Header::written("Message-ID", id),
                Header::written("Subject", subject),
                Header::written("Date", "Sun, 22 Nov 2026 12:00:00 +0000"),
            ])
        };
        let with = |name: &str, text: &str| {
            let more = std::iter::once(Header::written(name, text));
            Headers::new(headers("<1@b>", "x").iter().cloned().chain(more).collect())
        };
        let digest = BodyDigest(b"digest".to_vec());
        let key = |way: [&str; 3], sender: &mail::Path, to: &mail::Path, headers: &Headers, body: &BodyDigest| {
            Key::of(way, sender, to, &MessageDigest::of(headers, body)?)
        };
        let (sender, to) = (path("a@b.example"), path("support@acme.example"));
        let first = key(WAY, &sender, &to, &headers("<1@b>", "x"), &digest).unwrap();
        let again = Headers::new(headers("<1@b>", "x").iter().skip(1).cloned().collect());
        assert_eq!(key(WAY, &sender, &to, &again, &digest), Some(first), "another way here");
        for other in [
            key(["acme2", "endpoint.example:587", "pass"], &sender, &to, &again, &digest),
            key(["acme", "sandbox.example:2525", "pass"], &sender, &to, &again, &digest),
            key(["acme", "endpoint.example:587", "none"], &sender, &to, &again, &digest),
            key(WAY, &path("c@b.example"), &to, &again, &digest),
            key(WAY, &sender, &path("billing@acme.example"), &again, &digest),
            key(WAY, &sender, &to, &headers("<2@b>", "x"), &digest),
            key(WAY, &sender, &to, &headers("<1@b>", "y"), &digest),
            key(WAY, &sender, &to, &again, &BodyDigest(b"other".to_vec())),
            key(WAY, &sender, &to, &with("Content-Type", "application/octet-stream"), &digest),
            key(WAY, &sender, &to, &with("In-Reply-To", "<another.ticket@acme>"), &digest),
            key(WAY, &sender, &to, &with("Reply-To", "eve@b.example"), &digest),
        ] {
            assert!(other.is_some_and(|other| other != first));
        }
        for without in ["Message-ID", "Date"] {
            let lacks = headers("<1@b>", "x").iter().filter(|field| !field.is(without)).cloned().collect::<Vec<_>>();
            let says_nothing = lacks.iter().cloned().chain([Header::written(without, " ")]).collect();
            for headers in [lacks, says_nothing] {
                assert_eq!(key(WAY, &sender, &to, &Headers::new(headers), &digest), None, "{without}");
            }
        }
    }
}
