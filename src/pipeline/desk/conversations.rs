//! Which conversations began authenticated: what tells an unauthenticated update of an authenticated ticket.
//!
//! Kept are keyed digests of Message-IDs and ticket numbers, none of their text: of mail that came by a credential, of strangers'
//! mail that answers such mail, and of notifications that went out. Each belongs to the conversation of what it answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::References;
use crate::config;
use crate::mail::Domain;
use crate::pipeline::SiteKey;
use crate::store::{Remembered, Store, StoreError, now};

/// How long a message waits for the store.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that ask the store at a time; others wait.
const ASKING_MAX: usize = 8;
/// Octets of a digest that are kept: 128 bits.
const DIGEST_OCTETS: usize = 16;
/// What could not be kept while the store was away, at most: digests, and notifications that belong to nobody knows what yet.
const UNSAVED_MAX: usize = 10_000;
const UNSETTLED_MAX: usize = 200;
/// Digests of what a message answers that are kept for longer because of it.
const REFRESHED_MAX: usize = 8;
/// How often what was left over is tried again, and how often what is too old is forgotten.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);
/// Digests that are kept in one go.
const CHUNK: usize = 100;

/// Says what a digest is of, so that it is none for anything else.
const PURPOSE: &str = "conversation 1";

/// The conversations of all domains of this site.
#[derive(Debug)]
pub struct Conversations {
    store: Arc<Store>,
    site_key: SiteKey,
    terms: config::Conversations,
    asking: Arc<Semaphore>,
    left_over: Arc<LeftOver>,
}

/// What waits for the store to come back. It ends with the process.
#[derive(Debug, Default)]
struct LeftOver {
    unsaved: Mutex<HashMap<String, Remembered>>,
    unsettled: Mutex<VecDeque<(Domain, References)>>,
}

/// A conversation that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conversation {
    thread: String,
    /// Whether its first message came by a credential.
    pub(super) authenticated: bool,
    /// What of it a message named.
    named: Vec<Remembered>,
}

impl Conversations {
    /// Those in `store`. What `earlier` could not keep yet, in the same store, is taken over. Must be called in a runtime.
    pub fn start(
        store: Arc<Store>,
        site_key: SiteKey,
        terms: config::Conversations,
        earlier: Option<&Self>,
    ) -> Arc<Self> {
        let earlier = earlier.filter(|earlier| Arc::ptr_eq(&earlier.store, &store));
        let left_over = earlier.map(|earlier| Arc::clone(&earlier.left_over)).unwrap_or_default();
        let conversations =
            Arc::new(Self { store, site_key, terms, asking: Arc::new(Semaphore::new(ASKING_MAX)), left_over });
        tokio::spawn(keep(Arc::downgrade(&conversations)));
        conversations
    }

    /// What a message of `domain` belongs to; `None` where it names nothing that is known.
    ///
    /// # Errors
    /// The store is away, and without it nobody can say.
    pub(super) async fn find(&self, domain: &Domain, references: &References) -> Result<Option<Conversation>, String> {
        if references.is_empty() {
            return Ok(None);
        }
        let cited = references.cited.iter().map(|id| ("message", id));
        let named = cited.chain(references.tickets.iter().map(|number| ("ticket", number)));
        let keys: HashSet<String> = named.flat_map(|(kind, name)| self.keys(domain, kind, name)).collect();
        let mut found: Vec<Remembered> = {
            let unsaved = lock(&self.left_over.unsaved);
            keys.iter().filter_map(|key| unsaved.get(key).cloned()).collect()
        };
        let lifetime = i64::try_from(self.terms.lifetime.as_secs()).unwrap_or(i64::MAX);
        let (keys, since) = (keys.into_iter().collect(), now().saturating_sub(lifetime));
        match self.ask(|store| async move { store.conversations(keys, since).await }).await {
            Ok(kept) => found.extend(kept),
            // One that began authenticated is what counts, whatever else there is; the absence of one nobody can tell.
            Err(_) if found.iter().any(|one| one.authenticated) => {}
            Err(error) => return Err(error.to_string()),
        }
        let first = found.iter().find(|one| one.authenticated).or(found.first());
        let (thread, authenticated) = match first {
            Some(first) => (first.thread.clone(), first.authenticated),
            None => return Ok(None),
        };
        found.retain(|one| one.thread == thread);
        found.truncate(REFRESHED_MAX);
        Ok(Some(Conversation { thread, authenticated, named: found }))
    }

    /// A message came in: it belongs to `known`, or begins a conversation that is authenticated.
    pub(super) async fn received(&self, domain: &Domain, references: &References, known: Option<Conversation>) {
        let own = references.own.iter().filter_map(|id| self.key(domain, "message", id));
        self.keep(own.collect(), known, true).await;
    }

    /// A notification of `domain` went out. What the ticket system says of ticket numbers is true.
    pub async fn sent(&self, domain: &Domain, references: References) {
        match self.find(domain, &references).await {
            Ok(known) => {
                let own = references.own.iter().map(|id| ("message", id));
                let names = own.chain(references.tickets.iter().map(|number| ("ticket", number)));
                let keys = names.filter_map(|(kind, name)| self.key(domain, kind, name)).collect();
                self.keep(keys, known, false).await;
            }
            Err(error) => {
                tracing::debug!(error, "a notification's conversation is settled when the store is back");
                let mut unsettled = lock(&self.left_over.unsettled);
                if unsettled.len() >= UNSETTLED_MAX {
                    unsettled.pop_front();
                }
                unsettled.push_back((domain.clone(), references));
            }
        }
    }

    async fn keep(&self, keys: Vec<String>, known: Option<Conversation>, authenticated_if_new: bool) {
        let (thread, authenticated, named) = match known {
            Some(known) => (known.thread, known.authenticated, known.named),
            None => match keys.first() {
                Some(first) => (first.clone(), authenticated_if_new, Vec::new()),
                None => return,
            },
        };
        let new = keys.into_iter().map(|key| Remembered { key, thread: thread.clone(), authenticated });
        let messages: Vec<Remembered> = new.chain(named).collect();
        if self.remember(messages.clone()).await.is_err() {
            let mut unsaved = lock(&self.left_over.unsaved);
            for message in messages {
                if unsaved.len() < UNSAVED_MAX {
                    unsaved.entry(message.key.clone()).or_insert(message);
                }
            }
        }
    }

    async fn remember(&self, messages: Vec<Remembered>) -> Result<(), StoreError> {
        self.ask(|store| async move { store.remember(messages).await }).await
    }

    /// Asks the store. A question that is not answered in time keeps its place until it is: however many messages come meanwhile,
    /// no more threads wait for a file that somebody has locked.
    async fn ask<T, A>(&self, question: impl FnOnce(Arc<Store>) -> A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let late = || StoreError::Away(format!("{}: no answer within {} s", self.store, PATIENCE.as_secs()));
        let answer = question(Arc::clone(&self.store));
        let asked = async {
            let place = Arc::clone(&self.asking).acquire_owned().await.map_err(|_| late())?;
            let answered = tokio::spawn(async move {
                let answer = answer.await;
                drop(place);
                answer
            });
            answered.await.unwrap_or_else(|_| Err(late()))
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
    }

    /// The digest of a name, by each site key that counts; the first one is for new entries.
    fn keys(&self, domain: &Domain, kind: &str, name: &str) -> Vec<String> {
        let octets = format!("{kind}\n{domain}\n{name}").into_bytes();
        let macs = self.site_key.macs(PURPOSE, &octets).into_iter();
        macs.map(|mac| URL_SAFE_NO_PAD.encode(mac.get(..DIGEST_OCTETS).unwrap_or(&mac))).collect()
    }

    fn key(&self, domain: &Domain, kind: &str, name: &str) -> Option<String> {
        self.keys(domain, kind, name).into_iter().next()
    }

    /// Tries again what could not be kept. Stops at the first failure.
    async fn settle(&self) {
        loop {
            let chunk: Vec<Remembered> = lock(&self.left_over.unsaved).values().take(CHUNK).cloned().collect();
            if chunk.is_empty() {
                break;
            }
            if self.remember(chunk.clone()).await.is_err() {
                return;
            }
            let mut unsaved = lock(&self.left_over.unsaved);
            chunk.iter().for_each(|message| drop(unsaved.remove(&message.key)));
        }
        let waiting = lock(&self.left_over.unsettled).len();
        for _ in 0..waiting {
            let Some((domain, references)) = lock(&self.left_over.unsettled).pop_front() else { return };
            self.sent(&domain, references).await;
        }
    }

    /// Forgets what is too old or too much. Returns whether all of it is gone.
    async fn forget(&self) -> bool {
        let lifetime = i64::try_from(self.terms.lifetime.as_secs()).unwrap_or(i64::MAX);
        let most = u32::try_from(self.terms.messages).unwrap_or(u32::MAX);
        let before = now().saturating_sub(lifetime);
        let gone = self.ask(|store| async move { store.forget_conversations(before, most).await }).await;
        gone.is_ok_and(|gone| gone == 0)
    }
}

/// Does what is to be done from time to time, as long as anybody uses `conversations`.
async fn keep(conversations: Weak<Conversations>) {
    let mut forgotten: Option<Instant> = None;
    loop {
        sleep(RETRY_INTERVAL).await;
        let Some(conversations) = conversations.upgrade() else { return };
        conversations.settle().await;
        if forgotten.is_none_or(|at| at.elapsed() >= FORGET_INTERVAL) && conversations.forget().await {
            forgotten = Some(Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{StoreConfig, StoreUrl};
    use crate::mail::{Header, Headers};

    const LIFETIME: Duration = Duration::from_secs(86_400);

    fn terms() -> config::Conversations {
        config::Conversations { lifetime: LIFETIME, messages: 1_000 }
    }

    fn site_key() -> SiteKey {
        SiteKey::parse(&SiteKey::generate().unwrap()).unwrap()
    }

    fn store(folder: &tempfile::TempDir) -> Arc<Store> {
        let url = StoreUrl::Sqlite(folder.path().join("test.db"));
        Arc::new(Store::new(&StoreConfig { url, password_file: None, ca_file: None }).unwrap())
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    /// A message with this Message-ID, subject and In-Reply-To.
    fn message(id: &str, subject: &str, parent: &str) -> References {
        let fields = [("Message-ID", id), ("Subject", subject), ("In-Reply-To", parent)];
        References::of(&Headers::new(fields.map(|(name, text)| Header::written(name, text)).to_vec()), Some("Ticket#"))
    }

    async fn authenticated(conversations: &Conversations, message: &References) -> Option<bool> {
        let found = conversations.find(&domain("acme.example"), message).await.unwrap();
        found.map(|conversation| conversation.authenticated)
    }

    #[tokio::test]
    async fn a_conversation_is_known_by_each_of_its_messages_and_by_the_number_of_its_ticket() {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::start(store(&folder), site_key(), terms(), None);
        let acme = domain("acme.example");
        conversations.received(&acme, &message("<first@c.example>", "Order", ""), None).await;
        conversations.sent(&acme, message("<note@acme.example>", "[Ticket#4711] Order", "<first@c.example>")).await;
        conversations.sent(&acme, message("<other@acme.example>", "[Ticket#4712] Hello", "")).await;
        for (parent, subject, expected) in [
            ("<first@c.example>", "", Some(true)),
            ("<NOTE@acme.example>", "", Some(true)),
            ("", "Re: ticket#4711", Some(true)),
            ("<other@acme.example>", "", Some(false)),
            ("", "[Ticket#4712]", Some(false)),
            ("<unknown@c.example>", "[Ticket#4713]", None),
            ("", "", None),
            // Both: an authenticated one is what counts.
            ("<other@acme.example>", "[Ticket#4711]", Some(true)),
        ] {
            let answer = message("<answer@c.example>", subject, parent);
            assert_eq!(authenticated(&conversations, &answer).await, expected, "{parent} {subject}");
        }
        let elsewhere = message("<x@y>", "[Ticket#4711]", "<first@c.example>");
        assert_eq!(conversations.find(&domain("other.example"), &elsewhere).await.unwrap(), None, "another domain's");
    }

    #[tokio::test]
    async fn a_stranger_who_answers_is_remembered_and_what_is_known_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::start(store(&folder), site_key(), terms(), None);
        let acme = domain("acme.example");
        conversations.received(&acme, &message("<first@c.example>", "", ""), None).await;
        conversations.sent(&acme, message("<agent@acme.example>", "", "")).await;
        let answer = message("<stranger@x.example>", "", "<first@c.example>");
        let known = conversations.find(&acme, &answer).await.unwrap();
        conversations.received(&acme, &answer, known).await;
        assert_eq!(authenticated(&conversations, &message("<y@y>", "", "<stranger@x.example>")).await, Some(true));
        // The Message-ID of another conversation does not move it over.
        let forged = message("<agent@acme.example>", "", "<first@c.example>");
        let known = conversations.find(&acme, &forged).await.unwrap();
        conversations.received(&acme, &forged, known).await;
        assert_eq!(authenticated(&conversations, &message("<y@y>", "", "<agent@acme.example>")).await, Some(false));
    }

    #[tokio::test]
    async fn while_the_store_is_away_nothing_is_guessed_and_nothing_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::start(store(&folder), site_key(), terms(), None);
        let acme = domain("acme.example");
        conversations.received(&acme, &message("<first@c.example>", "", ""), None).await;
        let (file, away) = (folder.path().join("test.db"), folder.path().join("gone"));
        std::fs::rename(&file, &away).unwrap();
        let answer = message("<x@y>", "", "<first@c.example>");
        assert!(conversations.find(&acme, &answer).await.is_err(), "nobody can say");
        conversations.received(&acme, &message("<second@c.example>", "", ""), None).await;
        conversations.sent(&acme, message("<note@acme.example>", "", "<first@c.example>")).await;
        assert_eq!(authenticated(&conversations, &message("<x@y>", "", "<second@c.example>")).await, Some(true));
        // What is only remembered here does not say what the store would.
        conversations.sent(&acme, message("<other@acme.example>", "", "")).await;
        let both = message("<x@y>", "", "<other@acme.example> <first@c.example>");
        assert!(conversations.find(&acme, &both).await.is_err(), "nobody can say");
        std::fs::rename(&away, &file).unwrap();
        conversations.settle().await;
        assert_eq!(authenticated(&conversations, &both).await, Some(true));
        assert!(lock(&conversations.left_over.unsaved).is_empty());
        for id in ["<second@c.example>", "<note@acme.example>"] {
            assert_eq!(authenticated(&conversations, &message("<x@y>", "", id)).await, Some(true), "{id}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_somebody_has_locked_costs_a_few_threads_however_much_mail_comes() {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::start(store(&folder), site_key(), terms(), None);
        let acme = domain("acme.example");
        conversations.received(&acme, &message("<first@c.example>", "", ""), None).await;
        let locked = rusqlite::Connection::open(folder.path().join("test.db")).unwrap();
        locked.execute_batch("BEGIN IMMEDIATE").unwrap();
        let begun = Instant::now();
        let writers: Vec<_> = (0..100)
            .map(|n| {
                let (conversations, acme) = (Arc::clone(&conversations), acme.clone());
                let message = message(&format!("<{n}@c.example>"), "", "");
                tokio::spawn(async move { conversations.received(&acme, &message, None).await })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(begun.elapsed() < PATIENCE * 3, "{:?}", begun.elapsed());
        assert_eq!(lock(&conversations.left_over.unsaved).len(), 100);
        assert!(conversations.asking.available_permits() < ASKING_MAX, "those that ask still have their places");
        locked.execute_batch("COMMIT").unwrap();
        while conversations.asking.available_permits() < ASKING_MAX {
            assert!(begun.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(50)).await;
        }
        conversations.settle().await;
        assert!(lock(&conversations.left_over.unsaved).is_empty());
        assert_eq!(authenticated(&conversations, &message("<x@y>", "", "<99@c.example>")).await, Some(true));
    }

    #[tokio::test]
    async fn a_changed_site_key_still_finds_what_the_old_one_kept_and_the_store_holds_no_id() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (SiteKey::generate().unwrap(), SiteKey::generate().unwrap());
        let both = crate::config::Secret::new([new.expose(), old.expose()].concat());
        let (old, store) = (SiteKey::parse(&old).unwrap(), store(&folder));
        let before = Conversations::start(Arc::clone(&store), old, terms(), None);
        before.received(&domain("acme.example"), &message("<first@c.example>", "", ""), None).await;
        let after = Conversations::start(Arc::clone(&store), SiteKey::parse(&both).unwrap(), terms(), Some(&before));
        assert_eq!(authenticated(&after, &message("<x@y>", "", "<first@c.example>")).await, Some(true));
        let other = Conversations::start(store, site_key(), terms(), None);
        assert_eq!(authenticated(&other, &message("<x@y>", "", "<first@c.example>")).await, None);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let octets = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!octets.windows(9).any(|window| window == b"c.example"), "an id in the clear");
        }
    }
}
