//! What goes wrong on purpose, so that a postmaster can rehearse.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seconds that `slow` waits unless told.
const SLOW_DEFAULT: u64 = 5;
/// Seconds that `slow` waits at most.
const SLOW_MAX: u64 = 600;

/// A fault. `every: n` strikes at the nth, 2nth, 3nth ... occasion; 1 strikes always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 451 after the data.
    TempFail {
        /// Which messages.
        every: u64,
    },
    /// 550 after the data.
    Reject {
        /// Which messages.
        every: u64,
    },
    /// 535 to right credentials.
    Auth {
        /// Which logins.
        every: u64,
    },
    /// The connection closes amid the data.
    Drop {
        /// Which messages.
        every: u64,
    },
    /// Each reply comes late.
    Slow {
        /// How late.
        wait: Duration,
    },
}

/// A text that names no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fault; write tempfail, reject, auth, drop (each with :N for every Nth only) or slow:SECONDS up to 600")]
pub struct FaultError;

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number.parse().ok().filter(|n| *n > 0).ok_or(FaultError)?)),
            None => (text, None),
        };
        let every = number.unwrap_or(1);
        match name {
            "tempfail" => Ok(Self::TempFail { every }),
            "reject" => Ok(Self::Reject { every }),
            "auth" => Ok(Self::Auth { every }),
            "drop" => Ok(Self::Drop { every }),
            "slow" => match number.unwrap_or(SLOW_DEFAULT) {
                seconds if seconds <= SLOW_MAX => Ok(Self::Slow { wait: Duration::from_secs(seconds) }),
                _ => Err(FaultError),
            },
            _ => Err(FaultError),
        }
    }
}

/// The faults of a running sandbox, with what they counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    tempfail: Strikes,
    reject: Strikes,
    auth: Strikes,
    drop: Strikes,
    slow: Duration,
}

#[derive(Debug, Default)]
struct Strikes {
    /// 0: never.
    every: u64,
    occasions: AtomicU64,
}

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        let mut all = Self::default();
        for fault in faults {
            match fault {
                Fault::TempFail { every } => all.tempfail.every = every,
                Fault::Reject { every } => all.reject.every = every,
                Fault::Auth { every } => all.auth.every = every,
                Fault::Drop { every } => all.drop.every = every,
                Fault::Slow { wait } => all.slow = wait,
            }
        }
        all
    }

    /// Whether this message is answered with 451.
    pub(super) fn tempfail(&self) -> bool {
        self.tempfail.strikes()
    }

    /// Whether this message is answered with 550.
    pub(super) fn reject(&self) -> bool {
        self.reject.strikes()
    }

    /// Whether this login is refused.
    pub(super) fn auth(&self) -> bool {
        self.auth.strikes()
    }

    /// Whether the connection closes amid this message.
    pub(super) fn drop(&self) -> bool {
        self.drop.strikes()
    }

    /// How long each reply waits.
    pub(super) fn slow(&self) -> Duration {
        self.slow
    }
}

impl Strikes {
    fn strikes(&self) -> bool {
        let occasion = self.occasions.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.every != 0 && occasion.is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_at_each_nth_occasion() {
        let faults = Faults::new(vec!["tempfail:3".parse().unwrap(), "drop".parse().unwrap()]);
        let struck: Vec<bool> = (0..7).map(|_| faults.tempfail()).collect();
        assert_eq!(struck, [false, false, true, false, false, true, false]);
        assert!(faults.drop() && faults.drop() && !faults.reject());
    }

    #[test]
    fn faults_are_read_and_bounded() {
        assert_eq!("slow:2".parse(), Ok(Fault::Slow { wait: Duration::from_secs(2) }));
        for text in ["", "tempfail:0", "tempfail:x", "slow:601", "explode"] {
            assert_eq!(text.parse::<Fault>(), Err(FaultError), "{text}");
        }
    }
}
