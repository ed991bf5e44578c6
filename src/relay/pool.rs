//! The connections of one route: how many at a time, which are kept for the next message, for how long.
//!
//! A connection in use holds a slot; an idle one belongs to a free slot, so both together never exceed the limit. Only
//! those whose QUIT is on its way, a few seconds at most, may come on top.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::clock::{Bounds, Clock, Step};
use super::failure::Failure;
use super::login::Session;
use super::route::Route;
use crate::mail::Waiting;

/// The pool.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Arc<Semaphore>,
    limit: usize,
    waiting: Arc<AtomicUsize>,
    bounds: Bounds,
    idle: Arc<Mutex<Idle>>,
}

/// The connections to a remote server at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// In use.
    pub busy: usize,
    /// Open, for the next message.
    pub idle: usize,
    /// Messages that wait for one.
    pub waiting: usize,
    /// At most so many.
    pub limit: usize,
}

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Slot(OwnedSemaphorePermit);

#[derive(Debug, Default)]
struct Idle {
    /// The last one is the one used last: taken first, so that surplus ones grow old.
    sessions: Vec<(Session, Instant)>,
    sweeper: Option<AbortHandle>,
}

impl Pool {
    /// At most `connections` at a time, at least one.
    pub fn new(connections: usize, bounds: Bounds) -> Self {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(connections));
        Self { slots, limit: connections, waiting: Arc::default(), bounds, idle: Arc::default() }
    }

    /// How it is at this moment.
    pub fn standing(&self) -> Connections {
        Connections {
            busy: self.limit.saturating_sub(self.slots.available_permits()),
            idle: lock(&self.idle).sessions.len(),
            waiting: self.waiting.load(Ordering::Relaxed),
            limit: self.limit,
        }
    }

    /// Waits for a slot within the deadline.
    pub async fn slot(&self, route: &Route, clock: Clock) -> Result<Slot, Failure> {
        let _waiting = Waiting::count(&self.waiting);
        match clock.within(Step::Slot, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(Failure::timeout(&route.host, super::clock::Elapsed(Step::Slot))),
            Err(elapsed) => Err(Failure::timeout(&route.host, elapsed)),
        }
    }

    /// The idle connection used last that is still good: young enough, not closed by the other side, authenticated with
    /// a password that is still in its file.
    pub async fn take(&self, route: &Route, clock: Clock) -> Option<Session> {
        loop {
            let (mut session, since) = lock(&self.idle).sessions.pop()?;
            session.dialogue.set_clock(clock);
            if !session.dialogue.is_quiet().await {
                continue;
            }
            let stamp = match route.credentials.get(session.set) {
                Some(set) => clock.within(Step::Password, set.stamp()).await.ok().flatten(),
                None => None,
            };
            if self.is_young(&session, since) && stamp == session.stamp {
                return Some(session);
            }
            tokio::spawn(session.dialogue.quit());
        }
    }

    /// Keeps a connection for the next message and frees its slot. Takes leave of it when it has served long enough.
    pub fn put(&self, session: Session, slot: Slot) {
        if !self.is_young(&session, Instant::now()) {
            tokio::spawn(async move {
                session.dialogue.quit().await;
                drop(slot);
            });
            return;
        }
        let mut idle = lock(&self.idle);
        idle.sessions.push((session, Instant::now()));
        if idle.sweeper.is_none() {
            let sweeper = tokio::spawn(sweep(Arc::downgrade(&self.idle), self.bounds.idle));
            idle.sweeper = Some(sweeper.abort_handle());
        }
        drop(idle);
        drop(slot.0);
    }

    fn is_young(&self, session: &Session, idle_since: Instant) -> bool {
        idle_since.elapsed() < self.bounds.idle
            && session.opened.elapsed() < self.bounds.age
            && session.messages < self.bounds.messages
    }
}

/// Takes leave of connections that nobody has used for `idle`; ends when there is none left, or no pool.
async fn sweep(pool: Weak<Mutex<Idle>>, idle: Duration) {
    loop {
        let next = {
            let Some(pool) = pool.upgrade() else { return };
            let mut guard = lock(&pool);
            let expired = guard.sessions.iter().take_while(|(_, since)| since.elapsed() >= idle).count();
            for (session, _) in guard.sessions.drain(..expired) {
                tokio::spawn(session.dialogue.quit());
            }
            let Some((_, oldest)) = guard.sessions.first() else {
                guard.sweeper = None;
                return;
            };
            oldest.checked_add(idle)
        };
        let Some(next) = next else { return };
        sleep_until(next).await;
    }
}

fn lock(idle: &Mutex<Idle>) -> std::sync::MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At a reload the old pool goes: nothing of it stays but a QUIT for each idle connection, bounded.
impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.abort();
        }
        if let Ok(runtime) = Handle::try_current() {
            for (session, _) in self.sessions.drain(..) {
                runtime.spawn(session.dialogue.quit());
            }
        }
    }
}
