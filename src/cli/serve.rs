//! `deskmilter serve`: the daemon in the foreground.

use std::process::ExitCode;
use std::sync::Arc;

use super::{ConfigFile, EX_CONFIG, EX_UNAVAILABLE, complain};
use crate::status::Board;
use crate::{daemon, log};

pub(super) fn run(file: &ConfigFile) -> ExitCode {
    let config = match file.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if !config.serves() {
        complain(&format!(
            "{}: none of [milter], [transport], [exim], [auth] and [lookup]: there is nothing to serve; add at least one",
            file.config.display()
        ));
        return ExitCode::from(EX_CONFIG);
    }
    let board = match Board::new() {
        Ok(board) => Arc::new(board),
        Err(error) => {
            complain(&format!("deskmilter: {error}"));
            return ExitCode::from(EX_UNAVAILABLE);
        }
    };
    if let Err(error) = log::start(&config.log, &board) {
        complain(&format!("deskmilter: {error}"));
        return ExitCode::from(EX_UNAVAILABLE);
    }
    match daemon::run(config, &file.config, board) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "cannot serve");
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}
