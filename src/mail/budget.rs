//! A byte budget that all sessions share: large messages that a library must see whole wait their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which the budget is counted: 1 KiB.
const UNIT: u64 = 1024;

/// Octets of memory for whole messages, shared by all sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    waiting: Arc<AtomicUsize>,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    units: OwnedSemaphorePermit,
}

impl Permit {
    /// Adds another share of the same budget to this one.
    pub fn merge(&mut self, other: Self) {
        self.units.merge(other.units);
    }
}

impl Budget {
    /// A budget of `octets`, rounded up to whole KiB.
    pub fn new(octets: u64) -> Self {
        let total = u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        Self { units: Arc::new(Semaphore::new(total as usize)), total, waiting: Arc::default() }
    }

    /// Waits for room for `octets`, first come first served. A message larger than the budget takes all of it, so it
    /// goes through alone. Bound the wait with a deadline.
    pub async fn acquire(&self, octets: u64) -> Permit {
        let units = u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total);
        let _waiting = Waiting::count(&self.waiting);
        loop {
            // The semaphore is never closed, so this does not fail.
            if let Ok(permit) = Arc::clone(&self.units).acquire_many_owned(units).await {
                return Permit { units: permit };
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Budget {
    /// Room for `octets` if there is some at once. More than the whole budget never fits.
    pub fn try_acquire(&self, octets: u64) -> Option<Permit> {
        let units = u32::try_from(octets.div_ceil(UNIT)).ok()?;
        let units = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Permit { units })
    }

    /// Octets in use, or set aside for the first that waits.
    pub fn in_use(&self) -> u64 {
        self.total().saturating_sub(UNIT.saturating_mul(self.units.available_permits() as u64))
    }

    /// Octets in all.
    pub fn total(&self) -> u64 {
        UNIT.saturating_mul(u64::from(self.total))
    }

    /// How many wait for their share.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One that waits; counted until dropped, so that who gives up counts no longer.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// One more in `count`.
    pub fn count(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[test]
    fn a_share_grows_while_there_is_room_and_is_given_back_whole() {
        let budget = Budget::new(10 * 1024);
        let mut share = budget.try_acquire(4 * 1024).unwrap();
        share.merge(budget.try_acquire(5 * 1024).unwrap());
        assert!(budget.try_acquire(2 * 1024).is_none());
        drop(share);
        assert!(budget.try_acquire(10 * 1024).is_some());
        assert!(budget.try_acquire(1 << 50).is_none());
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_until_room_is_given_back() {
        let budget = Budget::new(10 * 1024);
        let first = budget.acquire(8 * 1024).await;
        let mut second = Box::pin(budget.acquire(4 * 1024));
        assert!(timeout(Duration::from_millis(20), second.as_mut()).await.is_err());
        assert_eq!(budget.waiting(), 1);
        drop(second);
        assert_eq!(budget.waiting(), 0, "who gave up does not wait");
        assert_eq!((budget.in_use(), budget.total()), (8 * 1024, 10 * 1024));
        drop(first);
        let _all = timeout(Duration::from_secs(5), budget.acquire(1 << 40)).await.unwrap();
        assert!(timeout(Duration::from_millis(20), budget.acquire(1)).await.is_err());
    }
}
