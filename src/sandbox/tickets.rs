//! Tickets on disk: a folder each, `000001/` with `message.eml`, `ticket.json` and `update-001.eml` ...
//!
//! A message is answered with 250 only when its ticket would survive a power cut: it is written into a folder of its own
//! under another name, synced, and then renamed. What was not finished is thrown away at the next start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail_parser::MessageParser;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SandboxError, authority};
use crate::mail::{Domain, Headers, Path as MailPath};

/// New tickets that came over the authenticated path (Zendesk's own name).
const TAG_AUTHENTICATED: &str = "system_authenticated_email_ticket";
/// Tickets that came over it and were then updated by other mail (Zendesk's own name).
const TAG_UNAUTHENTICATED_UPDATE: &str = "system_unauthenticated_email_update";
/// The field in which the company side tells what it found out about the sender.
const SENDER_AUTH: &str = "X-Deskmilter-Sender-Auth";
/// Message-IDs of In-Reply-To and References looked up, at most.
const REFERENCES_MAX: usize = 200;
/// A ticket's first message.
const MESSAGE: &str = "message.eml";
/// Folders that are not tickets yet.
const UNFINISHED: &str = ".incoming-";

/// A ticket, as in `ticket.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its number, also its folder's name.
    pub id: u64,
    /// The domain of the support address.
    pub domain: String,
    /// The Subject, decoded.
    pub subject: String,
    /// The message's way.
    #[serde(flatten)]
    pub passage: Passage,
    /// The tags (M6).
    pub tags: Vec<String>,
    /// Later messages.
    pub updates: Vec<Update>,
}

/// A later message of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its file in the ticket's folder.
    pub file: String,
    /// The Subject, decoded.
    pub subject: String,
    /// The message's way.
    #[serde(flatten)]
    pub passage: Passage,
    /// The tag that it brought.
    pub tags: Vec<String>,
}

/// Who sent a message and over which path it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The envelope's sender; empty is the null reverse-path.
    pub sender: String,
    /// The From field, decoded.
    pub from: String,
    /// The envelope's recipients.
    pub recipients: Vec<String>,
    /// The Message-ID, without brackets.
    pub message_id: Option<String>,
    /// Whether it came over the authenticated path.
    pub auth_status: AuthStatus,
    /// Why.
    pub auth_reasons: Vec<String>,
    /// The company side's verdict on the sender: `pass`, `fail` or `none`. Believed on the authenticated path alone.
    pub sender_auth: String,
    /// What the company side said with it.
    pub sender_auth_reasons: String,
    /// The TLS version.
    pub tls: String,
    /// The user name that logged in.
    pub credential: Option<String>,
    /// When, RFC 3339.
    pub received: String,
}

/// Whether a message came over the authenticated path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthStatus {
    /// With SMTP AUTH.
    Authenticated,
    /// Without, as a forwarder sends it.
    Unauthenticated,
}

/// A message that was received, but for its octets.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) sender: MailPath,
    pub(super) recipients: Vec<MailPath>,
    pub(super) headers: Headers,
    pub(super) tls: String,
    pub(super) credential: Option<String>,
}

/// A message that is being received: its folder, which vanishes unless the message is filed.
#[derive(Debug)]
pub(super) struct Incoming {
    folder: TempDir,
    pub(super) file: File,
}

impl Incoming {
    /// The file with the octets so far.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(MESSAGE)
    }
}

/// Where a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filed {
    pub(super) ticket: u64,
    pub(super) update: Option<usize>,
}

/// All tickets.
#[derive(Debug)]
pub(super) struct Tickets {
    directory: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    last: u64,
    by_message_id: HashMap<String, Arc<Mutex<Ticket>>>,
}

impl Tickets {
    /// Opens the folder, clears what was not finished and reads which Message-IDs belong to which ticket.
    pub(super) fn open(directory: &Path) -> Result<Self, SandboxError> {
        let failed = |error| SandboxError::at(directory, error);
        make_directory(directory, 0o700).map_err(failed)?;
        let mut index = Index::default();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(UNFINISHED) {
                fs::remove_dir_all(&path).map_err(|error| SandboxError::at(&path, error))?;
            } else if let Ok(id) = name.parse::<u64>() {
                index.last = index.last.max(id);
                index.read(&path.join("ticket.json"));
            }
        }
        Ok(Self { directory: directory.to_owned(), index: Mutex::new(index) })
    }

    /// Makes room for a message that is about to arrive.
    pub(super) fn begin(&self) -> io::Result<Incoming> {
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.directory)?;
        let file = File::create_new(folder.path().join(MESSAGE))?;
        Ok(Incoming { folder, file })
    }

    /// Files a message that has arrived whole: as an update of the ticket that it answers, or as a new one.
    pub(super) fn file(&self, incoming: Incoming, arrival: &Arrival) -> io::Result<Filed> {
        incoming.file.sync_all()?;
        let domain = arrival.recipients.first().and_then(MailPath::address).map(|address| address.domain().clone());
        let domain = domain.as_ref().map(Domain::as_str).unwrap_or_default();
        let (subject, passage) = describe(arrival);
        match self.answered(&arrival.headers, domain) {
            Some(ticket) => self.update(&ticket, &incoming, subject, passage),
            None => self.create(incoming, domain, subject, passage),
        }
    }

    fn create(&self, incoming: Incoming, domain: &str, subject: String, passage: Passage) -> io::Result<Filed> {
        let id = {
            let mut index = lock(&self.index);
            index.last = index.last.saturating_add(1);
            index.last
        };
        let tags = match passage.auth_status {
            AuthStatus::Authenticated => vec![TAG_AUTHENTICATED.to_owned()],
            AuthStatus::Unauthenticated => Vec::new(),
        };
        let ticket = Ticket { id, domain: domain.to_owned(), subject, passage, tags, updates: Vec::new() };
        authority::replace(&incoming.folder.path().join("ticket.json"), &json(&ticket)?, 0o644)?;
        fs::rename(incoming.folder.path(), self.folder(id))?;
        // The folder has its name: from here on it is not ours to remove.
        let _ = incoming.folder.keep();
        File::open(&self.directory)?.sync_all()?;
        lock(&self.index).add(&Arc::new(Mutex::new(ticket)));
        Ok(Filed { ticket: id, update: None })
    }

    fn update(
        &self,
        shared: &Arc<Mutex<Ticket>>,
        incoming: &Incoming,
        subject: String,
        passage: Passage,
    ) -> io::Result<Filed> {
        let mut held = lock(shared);
        let mut ticket = held.clone();
        let number = ticket.updates.len().saturating_add(1);
        let unauthenticated = passage.auth_status == AuthStatus::Unauthenticated
            && ticket.passage.auth_status == AuthStatus::Authenticated;
        let tags = if unauthenticated { vec![TAG_UNAUTHENTICATED_UPDATE.to_owned()] } else { Vec::new() };
        if unauthenticated && !ticket.tags.iter().any(|tag| tag == TAG_UNAUTHENTICATED_UPDATE) {
            ticket.tags.push(TAG_UNAUTHENTICATED_UPDATE.to_owned());
        }
        let message_id = passage.message_id.clone();
        let update = Update { file: format!("update-{number:03}.eml"), subject, passage, tags };
        let folder = self.folder(ticket.id);
        // Without its entry in ticket.json the file counts for nothing, and the next update takes its name.
        fs::rename(incoming.folder.path().join(MESSAGE), folder.join(&update.file))?;
        ticket.updates.push(update);
        authority::replace(&folder.join("ticket.json"), &json(&ticket)?, 0o644)?;
        let filed = Filed { ticket: ticket.id, update: Some(number) };
        *held = ticket;
        drop(held);
        if let Some(id) = message_id {
            lock(&self.index).by_message_id.entry(id).or_insert_with(|| Arc::clone(shared));
        }
        Ok(filed)
    }

    /// The ticket that the message answers: one of the same domain that holds a message it refers to, the nearest first.
    fn answered(&self, headers: &Headers, domain: &str) -> Option<Arc<Mutex<Ticket>>> {
        let of = |name: &str| headers.named(name).flat_map(|field| message_ids(&field.text())).collect::<Vec<_>>();
        let ids = of("In-Reply-To").into_iter().chain(of("References").into_iter().rev());
        let found: Vec<Arc<Mutex<Ticket>>> = {
            let index = lock(&self.index);
            ids.take(REFERENCES_MAX).filter_map(|id| index.by_message_id.get(&id).cloned()).collect()
        };
        found.into_iter().find(|ticket| lock(ticket).domain == domain)
    }

    fn folder(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id:06}"))
    }
}

impl Index {
    fn read(&mut self, path: &Path) {
        let ticket = fs::read(path).and_then(|json| serde_json::from_slice::<Ticket>(&json).map_err(io::Error::other));
        match ticket {
            Ok(ticket) => self.add(&Arc::new(Mutex::new(ticket))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not a ticket; answers to it make new tickets")
            }
        }
    }

    fn add(&mut self, ticket: &Arc<Mutex<Ticket>>) {
        let held = lock(ticket);
        let updates = held.updates.iter().map(|update| &update.passage);
        for id in std::iter::once(&held.passage).chain(updates).filter_map(|passage| passage.message_id.clone()) {
            self.by_message_id.entry(id).or_insert_with(|| Arc::clone(ticket));
        }
    }
}

/// Makes a folder with these permission bits, and those above it; one that is there stays as it is.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// A holder that panicked left nothing half done: what is held is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json(ticket: &Ticket) -> io::Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(ticket).map_err(io::Error::other)?;
    json.push(b'\n');
    Ok(json)
}

/// The Subject, decoded, and the message's way.
pub(super) fn describe(arrival: &Arrival) -> (String, Passage) {
    let headers = &arrival.headers;
    let mut raw = Vec::with_capacity(headers.wire_len());
    headers.write_to(&mut raw);
    let parsed = MessageParser::default().parse_headers(&raw);
    let text_of = |name: &str| headers.first(name).map(crate::mail::Header::text).unwrap_or_default();
    let subject = parsed.as_ref().and_then(|message| message.subject()).map(str::to_owned);
    let from = parsed.as_ref().and_then(|message| message.from()).and_then(|from| from.first()).map(|from| {
        match (from.name(), from.address()) {
            (Some(name), Some(address)) => format!("{name} <{address}>"),
            (name, address) => address.or(name).unwrap_or_default().to_owned(),
        }
    });
    let (auth_status, reason) = match &arrival.credential {
        Some(user) => (AuthStatus::Authenticated, format!("SMTP AUTH as {user} over {}", arrival.tls)),
        None => (AuthStatus::Unauthenticated, format!("no SMTP AUTH, {}", arrival.tls)),
    };
    let told = match auth_status {
        AuthStatus::Authenticated => headers.first(SENDER_AUTH).map(crate::mail::Header::text).unwrap_or_default(),
        AuthStatus::Unauthenticated => String::new(),
    };
    let (verdict, reasons) = told.split_once(';').unwrap_or((&told, ""));
    let verdict = match verdict.trim() {
        verdict @ ("pass" | "fail") => verdict,
        _ => "none",
    };
    let passage = Passage {
        sender: arrival.sender.as_str().to_owned(),
        from: from.unwrap_or_else(|| text_of("From")),
        recipients: arrival.recipients.iter().map(|path| path.as_str().to_owned()).collect(),
        message_id: message_ids(&text_of("Message-ID")).into_iter().next(),
        auth_status,
        auth_reasons: vec![reason],
        sender_auth: verdict.to_owned(),
        sender_auth_reasons: reasons.trim().to_owned(),
        tls: arrival.tls.clone(),
        credential: arrival.credential.clone(),
        received: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
    };
    (subject.unwrap_or_else(|| text_of("Subject")), passage)
}

/// The ids in `<...>` of a Message-ID, In-Reply-To or References field (RFC 5322 section 3.6.4).
fn message_ids(text: &str) -> Vec<String> {
    let ids = text.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(id, _)| id.trim()));
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}
