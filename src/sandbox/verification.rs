//! Verification of support addresses (M11): a message that goes out through the company and must come back over the authenticated
//! path, with its token, unaltered, and with the company's word that its sender is proven. Nothing less ticks.
//!
//! Two programs write, each its own file in a folder for each address: `asked.json` who sends, `returned.json` the endpoint.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::letter::{self, GUARDED, Letter, Marks, PRESERVED};
use super::outbox::{Replied, Way, json, read_json, split};
use super::report::{field, plain};
use super::tickets::{Arrival, AuthStatus, Passage, make_directory};
use super::{SandboxError, authority};
use crate::dkim::SigningKey;
use crate::mail::{Address, Headers, Path as MailPath};

/// Octets by which a message may grow on its way: fields are added (4 MiB).
const GROWTH_MAX: u64 = 4 * 1024 * 1024;

/// How the verification of an address stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The support address.
    pub address: String,
    /// The state.
    pub state: State,
    /// The reason for it.
    pub reason: String,
}

/// The three states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It may still come back.
    Pending,
    /// It came back as it must.
    Verified,
    /// It did not.
    Failed,
}

impl State {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Failed => "failed",
        }
    }
}

/// A verification that is wanted.
#[derive(Debug)]
pub struct Verification<'a> {
    /// The support address.
    pub address: Address,
    /// When it must be back.
    pub within: Duration,
    /// Zendesk's own key, when the company has published it.
    pub key: Option<&'a SigningKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    address: String,
    token: String,
    message_id: String,
    /// Seconds since 1970.
    asked: i64,
    /// Seconds.
    within: i64,
    /// Why it was not handed over.
    refused: Option<String>,
    /// The message, ASCII.
    message: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Returned {
    /// Which message of `asked.json` this is about.
    message_id: String,
    verified: bool,
    reason: String,
}

impl Verification<'_> {
    /// Sends the message; the verification is pending from now on, whatever was before.
    ///
    /// # Errors
    /// The way cannot be used at all, or the state folder.
    pub async fn send(&self, state: &Path, way: &Way) -> Result<Replied, SandboxError> {
        let address = self.address.to_string();
        if !letter::is_writable(&self.address) {
            return Err(SandboxError(format!("{address}: the sandbox writes to plain ASCII addresses alone")));
        }
        let marks = Marks::new().map_err(SandboxError)?;
        let token = letter::hex(16).map_err(SandboxError)?;
        let text = format!(
            "This message was sent to find out whether {address} is connected.\n\
             It comes back by itself – nothing is to be done.\n\nToken: {token}\n"
        );
        let letter = Letter {
            from: &self.address,
            from_name: "Zendesk",
            to: &self.address,
            cc: &[],
            extension: None,
            subject: &format!("{}{token}", subject(&address)),
            in_reply_to: &[],
            references: &[],
            text: &text,
        };
        let mut message = letter.write(&marks);
        if let Some(key) = self.key {
            message = letter::sign(&message, self.address.domain(), key).map_err(SandboxError)?;
        }
        let mut asked = Asked {
            address: address.clone(),
            token,
            message_id: marks.message_id.clone(),
            asked: OffsetDateTime::now_utc().unix_timestamp(),
            within: i64::try_from(self.within.as_secs()).unwrap_or(i64::MAX),
            refused: None,
            message: String::from_utf8_lossy(&message).into_owned(),
        };
        let folder = folder(state, &address);
        make_directory(&folder, 0o700).map_err(|error| SandboxError::at(&folder, error))?;
        write(&folder.join("asked.json"), &asked)?;
        let replies = way.hand_over(&self.address, std::slice::from_ref(&self.address), &message).await;
        let failure = match &replies {
            Ok(replies) => {
                replies.first().filter(|replied| replied.code / 100 != 2).map(|replied| replied.reply.clone())
            }
            Err(error) => Some(error.to_string()),
        };
        if failure.is_some() {
            asked.refused = failure;
            write(&folder.join("asked.json"), &asked)?;
        }
        replies?.pop().ok_or_else(|| SandboxError("no reply".to_owned()))
    }
}

/// How the addresses stand that a verification was sent for, by address; one alone if asked for.
///
/// # Errors
/// Names the file that cannot be read.
pub fn verifications(state: &Path, address: Option<&Address>) -> Result<Vec<Status>, SandboxError> {
    let directory = state.join("verifications");
    let failed = |error| SandboxError::at(&directory, error);
    let listing = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let wanted = address.map(ToString::to_string);
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut found = Vec::new();
    for entry in listing {
        let folder = entry.map_err(failed)?.path();
        let Some(asked) = read::<Asked>(&folder.join("asked.json"))? else { continue };
        if wanted.as_ref().is_none_or(|wanted| *wanted == asked.address) {
            let returned = read::<Returned>(&folder.join("returned.json"))?;
            found.push(asked.status(returned.as_ref(), now));
        }
    }
    found.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(found)
}

impl Asked {
    fn status(&self, returned: Option<&Returned>, now: i64) -> Status {
        let returned = returned.filter(|returned| returned.message_id == self.message_id);
        let (state, reason) = match (returned, &self.refused) {
            (Some(returned), _) if returned.verified => (State::Verified, returned.reason.clone()),
            (Some(returned), _) => (State::Failed, returned.reason.clone()),
            (None, Some(refused)) => (State::Failed, format!("not handed over: {refused}")),
            (None, None) if now > self.deadline() => (State::Failed, format!("not returned within {} s", self.within)),
            (None, None) => (State::Pending, format!("{} s left to return", self.deadline().saturating_sub(now))),
        };
        Status { address: self.address.clone(), state, reason: plain(&reason) }
    }

    fn deadline(&self) -> i64 {
        self.asked.saturating_add(self.within)
    }

    /// What is wrong with a message that claims to be this one, or why it is right. `body` is read only where it matters.
    fn judge(
        &self,
        headers: &Headers,
        passage: &Passage,
        now: i64,
        message: impl FnOnce() -> Result<(Headers, Vec<u8>), SandboxError>,
    ) -> Result<String, String> {
        if passage.auth_status != AuthStatus::Authenticated {
            return Err(format!("came back unauthenticated: {}", passage.auth_reasons.join(", ")));
        }
        let shown = headers.first("Subject").map(crate::mail::Header::text).unwrap_or_default();
        let token = shown.rsplit(' ').next().unwrap_or_default();
        if verify_slices_are_equal(token.as_bytes(), self.token.as_bytes()).is_err() {
            return Err("came back with a wrong token".to_owned());
        }
        if passage.sender_auth != "pass" {
            let (word, why) = (&passage.sender_auth, &passage.sender_auth_reasons);
            return Err(format!("came back, but the company's verdict on its sender is {word}: {why}"));
        }
        let (sent, sent_body) = split(self.message.as_bytes()).map_err(|error| error.to_string())?;
        let (seen, seen_body) = message().map_err(|error| error.to_string())?;
        let names = PRESERVED.into_iter().chain(GUARDED).chain(["Subject", "Date"]);
        if let Some(check) = names.map(|name| field(name, &sent, &seen)).find(|check| !check.green) {
            return Err(format!("altered: {} {}, {}", check.what, check.result, check.detail));
        }
        if sent_body != seen_body {
            return Err("altered: the body is another".to_owned());
        }
        if now > self.deadline() {
            return Err(format!("came back later than {} s", self.within));
        }
        let credential = passage.credential.as_deref().unwrap_or_default();
        Ok(format!(
            "came back after {} s over {} with AUTH as {credential}",
            now.saturating_sub(self.asked),
            passage.tls
        ))
    }
}

/// The endpoint's side: looks at what arrives.
#[derive(Debug)]
pub(super) struct Verifications {
    state: PathBuf,
    /// Returns are judged one after the other: what was verified stays so.
    turn: Mutex<()>,
}

impl Verifications {
    pub(super) fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), turn: Mutex::new(()) }
    }

    /// Looks at a message that has arrived whole, in `file`. Returns the address when it has just been verified: then the message has
    /// done its work. Anything else, also what only claims to be verification mail, is a message like any other.
    pub(super) fn take(
        &self,
        arrival: &Arrival,
        passage: &Passage,
        file: &Path,
    ) -> Result<Option<String>, SandboxError> {
        for recipient in arrival.recipients.iter().filter_map(MailPath::address) {
            let address = recipient.to_string();
            let folder = folder(&self.state, &address);
            let Some(asked) = read::<Asked>(&folder.join("asked.json"))? else { continue };
            if !claims(&arrival.headers, &asked) {
                continue;
            }
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let path = folder.join("returned.json");
            let earlier = read::<Returned>(&path)?.filter(|earlier| earlier.message_id == asked.message_id);
            if earlier.is_some_and(|earlier| earlier.verified) {
                continue;
            }
            let limit = GROWTH_MAX.saturating_add(asked.message.len() as u64);
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let outcome = asked.judge(&arrival.headers, passage, now, || whole(file, limit));
            let verified = outcome.is_ok();
            let reason = outcome.unwrap_or_else(|reason| reason);
            tracing::info!(address, verified, reason, "verification mail");
            write(&path, &Returned { message_id: asked.message_id, verified, reason })?;
            if verified {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}

/// Whether a message says that it is the one that was sent: by its id, or by its subject.
fn claims(headers: &Headers, asked: &Asked) -> bool {
    let id = format!("<{}>", asked.message_id);
    let subject = subject(&asked.address);
    headers.named("Message-ID").any(|field| field.text() == id)
        || headers.named("Subject").any(|field| field.text().contains(subject.trim_end()))
}

/// What the subject begins with; the token follows.
fn subject(address: &str) -> String {
    format!("Verification of {address}: ")
}

fn whole(file: &Path, limit: u64) -> Result<(Headers, Vec<u8>), SandboxError> {
    let failed = |error| SandboxError::at(file, error);
    if std::fs::metadata(file).map_err(failed)?.len() > limit {
        return Err(SandboxError("altered: far larger".to_owned()));
    }
    split(&std::fs::read(file).map_err(failed)?)
}

/// A folder for each address; local parts may hold what file names may not.
fn folder(state: &Path, address: &str) -> PathBuf {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, address.as_bytes());
    let name = digest.as_ref().iter().take(16).fold(String::new(), |name, octet| format!("{name}{octet:02x}"));
    state.join("verifications").join(name)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, SandboxError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), SandboxError> {
    authority::replace(path, &json(value)?, 0o600).map_err(|error| SandboxError::at(path, error))
}
