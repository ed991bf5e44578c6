//! What goes wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::SandboxEndpoint;

/// How long each bad state of the endpoint lasts.
const SPELL: Duration = Duration::from_secs(2);
/// How long it does its duty in between.
const GOOD_SPELL: Duration = Duration::from_secs(5);

/// The endpoint's states, in turn.
const SPELLS: [Spell; 12] = [
    Spell::With(&[]),
    Spell::Down,
    Spell::With(&["--fault", "tempfail:3"]),
    Spell::With(&[]),
    Spell::Killed,
    Spell::With(&["--fault", "drop:4"]),
    Spell::With(&[]),
    Spell::NewPassword,
    Spell::With(&["--fault", "auth:3"]),
    Spell::With(&[]),
    Spell::With(&["--fault", "slow:1"]),
    Spell::Killed,
];

#[derive(Debug, Clone, Copy)]
enum Spell {
    With(&'static [&'static str]),
    Down,
    /// `kill -9`, and back at once: connections break at any point, also between the final dot and the reply.
    Killed,
    NewPassword,
}

/// How much went wrong.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Trouble {
    /// Kills of deskmilter.
    pub(crate) kills: usize,
    pub(crate) endpoint: EndpointTrouble,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct EndpointTrouble {
    /// Changes of the endpoint's state.
    pub(crate) changes: usize,
    /// Passwords replaced.
    pub(crate) passwords: usize,
}

/// One state after the other until `calm`; then the endpoint does its duty.
pub(crate) fn flap(desk: &mut SandboxEndpoint, calm: &AtomicBool) -> EndpointTrouble {
    let mut trouble = EndpointTrouble::default();
    for spell in SPELLS.iter().cycle() {
        // On a machine that is busy with other things it may not come up in time: then it was down, and comes up later.
        let _ = catch_unwind(AssertUnwindSafe(|| match spell {
            Spell::With(arguments) => desk.restart_with(arguments),
            Spell::Down => desk.kill(),
            Spell::Killed => {
                desk.kill();
                desk.resume();
            }
            Spell::NewPassword => {
                trouble.passwords += 1;
                desk.change_password(&format!("chaos-password-{}", trouble.passwords));
            }
        }));
        trouble.changes += 1;
        let until = Instant::now() + if matches!(spell, Spell::With([])) { GOOD_SPELL } else { SPELL };
        while Instant::now() < until {
            if calm.load(Ordering::Acquire) {
                desk.restart_with(&[]);
                return trouble;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    trouble
}
