//! `[metrics]`: where the numbers are told.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::check::Check;
use super::show::{texts, write_access};
use super::{Listen, SocketAccess};

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics`, `/health` and `/ready` are.
    pub listen: Vec<Listen>,
    /// Permissions of unix sockets.
    pub access: SocketAccess,
}

/// The section as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    pub(super) listen: Spanned<Vec<Spanned<String>>>,
    socket_group: Option<Spanned<String>>,
    socket_mode: Option<Spanned<String>>,
}

impl Check<'_, '_> {
    pub(super) fn metrics(&mut self, raw: Raw) -> Option<Metrics> {
        let (listen, access) = self.service("metrics", raw.listen, raw.socket_group, raw.socket_mode)?;
        Some(Metrics { listen, access })
    }
}

impl Metrics {
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[metrics]\nlisten = {:?}", texts(&self.listen))?;
        write_access(f, &self.access)
    }
}
