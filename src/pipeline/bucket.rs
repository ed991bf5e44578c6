//! So many in such a time.

use std::time::Instant;

use crate::config::Rate;

/// A token bucket: holds one period's worth, is refilled steadily. By the monotonic clock, so that setting the time does
/// nothing.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// The rate that it keeps.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// One that nothing was taken from.
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.count), at: now }
    }

    /// Whether `count` may be taken now. More than it can ever hold may be taken when it is full; it then takes longer to
    /// refill.
    pub(super) fn has(&mut self, count: u32, now: Instant) -> bool {
        let capacity = f64::from(self.rate.count);
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * capacity / self.rate.period.as_secs_f64();
        self.tokens = (self.tokens + refill).min(capacity);
        self.at = self.at.max(now);
        self.tokens >= f64::from(count).min(capacity)
    }

    /// Takes `count`, which may leave a debt.
    pub(super) fn take(&mut self, count: u32) {
        self.tokens -= f64::from(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_as_many_as_its_time_allows() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::full(Rate { count: 60, period: Duration::from_secs(3_600) }, start);
        for _ in 0..60 {
            assert!(bucket.has(1, start));
            bucket.take(1);
        }
        assert!(!bucket.has(1, after(59)));
        assert!(bucket.has(1, after(61)));
        bucket.take(1);
        assert!(!bucket.has(1, after(61)));
        assert!(!bucket.has(1, start), "a clock that goes back gives nothing");
        assert!(bucket.has(1_000, after(10_000)), "more than it holds passes when it is full");
        bucket.take(1_000);
        assert!(!bucket.has(1, after(20_000)), "and is paid for afterwards");
        assert!(bucket.has(1, after(10_000 + 3_600 * 20)));
    }
}
