//! Knows whether an endpoint is down, so that mail for it is put off at RCPT and its senders do not wait at the end of each
//! message for what will fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::mail::Reply;

/// Failed connections in a row after which an endpoint counts as down.
const FAILURES: u32 = 3;
/// How long nobody tries an endpoint that is down; then one message may, and one more each time it fails.
const PAUSE: Duration = Duration::from_secs(10);

/// The state of one endpoint. Survives a reload.
#[derive(Debug)]
pub(super) struct Breaker {
    connector: String,
    endpoint: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// While the endpoint is down: when the next message may try it.
    next_try: Option<Instant>,
}

impl Breaker {
    /// For an endpoint that is up as far as anybody knows; `endpoint` is `host:port`.
    pub(super) fn new(connector: &str, endpoint: &str) -> Self {
        Self { connector: connector.to_owned(), endpoint: endpoint.to_owned(), state: Mutex::default() }
    }

    /// The reply for a recipient while the endpoint is down.
    pub(super) fn refusal(&self, now: Instant) -> Option<Reply> {
        self.lock().next_try.filter(|at| now < *at).map(|_| self.reply())
    }

    /// Whether the endpoint counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.lock().next_try.is_some()
    }

    /// Leave to try the endpoint with a message.
    ///
    /// # Errors
    /// The reply while it is down, but for one message a pause.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Reply> {
        let mut state = self.lock();
        match state.next_try {
            Some(at) if now < at => Err(self.reply()),
            Some(_) => {
                state.next_try = now.checked_add(PAUSE);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes note of how a connection went. Each change between up and down is logged, once.
    pub(super) fn report(&self, broken: bool, now: Instant) {
        let mut state = self.lock();
        let (connector, endpoint) = (self.connector.as_str(), self.endpoint.as_str());
        if !broken {
            state.failures = 0;
            if state.next_try.take().is_some() {
                tracing::info!(connector, endpoint, "endpoint is up again: its mail is taken");
            }
            return;
        }
        state.failures = state.failures.saturating_add(1);
        let was_down = state.next_try.is_some();
        if was_down || state.failures >= FAILURES {
            state.next_try = now.checked_add(PAUSE);
        }
        if !was_down && state.next_try.is_some() {
            let failures = state.failures;
            tracing::warn!(connector, endpoint, failures, "endpoint is down: its mail is put off at RCPT with 451");
        }
    }

    fn reply(&self) -> Reply {
        Reply::new(451, 4, 1, format!("{}: the ticket system does not answer; try again later", self.endpoint))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_fails_again_and_again_is_left_alone_but_for_one_message_a_pause() {
        let (breaker, start) = (Breaker::new("acme", "endpoint.example:587"), Instant::now());
        for _ in 1..FAILURES {
            breaker.report(true, start);
            assert_eq!((breaker.admit(start), breaker.refusal(start)), (Ok(()), None));
        }
        breaker.report(true, start);
        assert_eq!(breaker.admit(start).unwrap_err().enhanced().as_deref(), Some("4.4.1"));
        assert!(breaker.refusal(start).is_some());

        let later = start + PAUSE;
        assert_eq!(breaker.refusal(later), None, "a recipient may come in");
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "one tries, others wait");
        breaker.report(true, later);
        assert!(breaker.admit(later + PAUSE / 2).is_err());

        assert_eq!(breaker.admit(later + PAUSE), Ok(()));
        breaker.report(false, later + PAUSE);
        assert_eq!((breaker.admit(later + PAUSE), breaker.refusal(later + PAUSE)), (Ok(()), None));
    }

    #[test]
    fn a_failure_now_and_then_changes_nothing() {
        let (breaker, now) = (Breaker::new("acme", "endpoint.example:587"), Instant::now());
        for _ in 0..10 * FAILURES {
            breaker.report(true, now);
            breaker.report(false, now);
            assert_eq!(breaker.admit(now), Ok(()));
        }
    }
}
