//! So many connections at a time, by a limit that a reload may change.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The right to connections. Cheap to clone; all clones share one limit.
#[derive(Debug, Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    limit: Arc<Mutex<usize>>,
}

impl Slots {
    /// At most `limit` at a time, at least one.
    pub fn new(limit: usize) -> Self {
        let limit = clamped(limit);
        Self { free: Arc::new(Semaphore::new(limit)), limit: Arc::new(Mutex::new(limit)) }
    }

    /// Waits for a slot, first come first served. It is given back when dropped.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Whether the next one has to wait.
    pub fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// How many are taken.
    pub fn in_use(&self) -> usize {
        self.limit().saturating_sub(self.free.available_permits())
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another limit. Nobody loses a slot for a lower one: new ones wait until enough have been given back.
    pub fn set(&self, limit: usize) {
        let limit = clamped(limit);
        let mut current = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit > *current {
            self.free.add_permits(limit.saturating_sub(*current));
        }
        if let Ok(surplus) = u32::try_from(current.saturating_sub(limit))
            && surplus > 0
        {
            let free = Arc::clone(&self.free);
            tokio::spawn(async move {
                if let Ok(permits) = free.acquire_many_owned(surplus).await {
                    permits.forget();
                }
            });
        }
        *current = limit;
    }
}

/// The limits of the configuration are far below; and all of them fit into the count of one wait.
fn clamped(limit: usize) -> usize {
    limit.clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use tokio::time::timeout;

    #[tokio::test]
    async fn a_limit_grows_at_once_and_shrinks_as_slots_are_given_back() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().await, slots.take().await);
        assert!(slots.is_full());
        slots.set(3);
        let third = slots.take().await;
        slots.set(1);
        tokio::task::yield_now().await;
        drop(first);
        drop(second);
        assert!(timeout(Duration::from_millis(50), slots.take()).await.is_err(), "one is in use, and one is all");
        drop(third);
        let again = timeout(Duration::from_secs(5), slots.take()).await.unwrap();
        assert!(slots.is_full());
        slots.set(2);
        assert!(timeout(Duration::from_secs(5), slots.take()).await.is_ok());
        drop(again);
    }
}
