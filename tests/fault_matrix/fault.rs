//! A fault: how it is made, when it strikes, and how it is taken away.

use support::endpoint::{Action, Certificate, Rule, Script};

use crate::cell::{Cells, Mode};
use crate::company::Company;

/// One row of the matrix.
pub struct Fault {
    /// The name of its tests.
    pub name: &'static str,
    /// What goes wrong, in the words of the document.
    pub what: &'static str,
    pub trouble: Trouble,
    pub cells: Cells,
    /// What a postmaster does about it.
    pub remedy: &'static str,
}

/// How it is made.
#[derive(Clone)]
pub struct Trouble {
    /// What the endpoint does until it is mended.
    pub script: Script,
    /// `endpoint.deadline`.
    pub deadline: &'static str,
    /// More for `[authentication]` and main.cf.
    pub authentication: &'static str,
    pub main_cf: &'static str,
    /// The sender is one whose mail can be proven, at its own mail server.
    pub proven: bool,
    /// The body has 200 KiB, more than stays in memory.
    pub large: bool,
    /// Nobody judges the message: it comes past the milter.
    pub past_the_milter: bool,
    /// Before the message.
    pub before: fn(&mut Company),
    /// When the endpoint has read the message to its final dot, and has not answered yet.
    pub unanswered: Option<fn(&mut Company)>,
    /// When the message waits in the queue.
    pub queued: Option<fn(&mut Company)>,
    /// Takes the fault away, besides mending the endpoint.
    pub after: fn(&mut Company),
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            script: Script::default(),
            deadline: "8s",
            authentication: "",
            main_cf: "",
            proven: false,
            large: false,
            past_the_milter: false,
            before: |_| (),
            unanswered: None,
            queued: None,
            after: |_| (),
        }
    }
}

impl From<Script> for Trouble {
    fn from(script: Script) -> Self {
        Self { script, ..Self::default() }
    }
}

impl Fault {
    /// The modes that it has a cell for.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        [Mode::transport, Mode::inline].into_iter().filter(|mode| self.cells.of(*mode).is_some())
    }
}

/// The endpoint does this there, always.
pub fn on(on: &'static str, action: Action) -> Trouble {
    Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() }.into()
}

/// The endpoint says this there.
pub fn say(on: &'static str, text: &'static str) -> Trouble {
    self::on(on, Action::Say(text))
}

/// It closes the connection there.
pub fn close(on: &'static str) -> Trouble {
    self::on(on, Action::Close)
}

/// It shows this certificate.
pub fn certificate(certificate: Certificate) -> Trouble {
    Script { certificate, ..Script::default() }.into()
}

/// It offers these extensions inside TLS.
pub fn offers(secure: &[&'static str]) -> Trouble {
    Script { secure: secure.to_vec(), ..Script::default() }.into()
}

/// The rows of a section, and a test for each cell: `name (modes): what, trouble, cells => remedy;`
macro_rules! faults {
    ($($name:ident ($($mode:ident),+): $what:literal, $trouble:expr, $cells:expr => $remedy:literal;)*) => {
        /// The rows.
        pub fn rows() -> Vec<crate::fault::Fault> {
            vec![$(crate::fault::Fault {
                name: stringify!($name),
                what: $what,
                trouble: $trouble,
                cells: $cells,
                remedy: $remedy,
            }),*]
        }

        $(mod $name {
            $(#[test]
            fn $mode() {
                crate::company::prove(super::rows(), stringify!($name), crate::cell::Mode::$mode);
            })+
        })*

        #[test]
        fn each_cell_has_its_test() {
            let tests: Vec<(&str, Vec<crate::cell::Mode>)> =
                vec![$((stringify!($name), vec![$(crate::cell::Mode::$mode),+])),*];
            let cells: Vec<_> = rows().iter().map(|fault| (fault.name, fault.modes().collect())).collect();
            assert_eq!(tests, cells);
        }
    };
}
pub(crate) use faults;
