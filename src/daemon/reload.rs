//! New configurations for a daemon that runs: on SIGHUP the whole of it, and without a signal the files that it names.
//!
//! Either way everything new is made and checked beside what is in force; then it is swapped in by steps that cannot fail. A
//! message that is under way goes on with what was in force when it began.

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::difference::{Difference, Names, keep_what_needs_restart};
use super::in_force::{self, InForceFile};
use super::listeners::{Listeners, Sockets};
use super::measure::{self, View};
use super::notify::Notify;
use super::parts::Parts;
use super::passed::Passed;
use super::privileges;
use super::refresh::{self, Refreshed};
use super::watch::{INTERVAL, Watch};
use crate::config::{Config, Listen};
use crate::pipeline::SiteKey;
use crate::status::Board;

/// Problems of one configuration that are told, at most.
const PROBLEMS_MAX: usize = 100;

/// A daemon at work. Dropping it closes its listeners.
#[derive(Debug)]
pub(super) struct Running {
    file: PathBuf,
    parts: Arc<Parts>,
    listeners: Listeners,
    watch: Watch,
    passed: Arc<Passed>,
    notify: Arc<Notify>,
    view: Arc<View>,
    board: Arc<Board>,
    in_force: InForceFile,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.view.hide();
    }
}

/// A configuration that is ready to be swapped in.
struct Prepared {
    parts: Parts,
    sockets: Sockets,
    watch: Watch,
    difference: Difference,
}

impl Running {
    /// A daemon that serves `parts`, which were read from `file` after `since`, with what the service manager gave it, and what
    /// shows it to others.
    pub(super) fn new(
        file: PathBuf,
        parts: Parts,
        listeners: Listeners,
        since: SystemTime,
        (passed, notify): (Passed, Arc<Notify>),
        (view, board, in_force): (Arc<View>, Arc<Board>, InForceFile),
    ) -> Self {
        let watch = Watch::new(&parts.config, since);
        let parts = Arc::new(parts);
        view.show(&parts, listeners.served(), true);
        Self { file, parts, listeners, watch, passed: Arc::new(passed), notify, view, board, in_force }
    }

    /// What is served, in a few words.
    pub(super) fn status(&self) -> String {
        format!("{} connectors, {} sockets", self.parts.config.connectors.len(), self.listeners.open().len())
    }

    /// Reloads on each SIGHUP, and takes over what has changed in the files in between.
    pub(super) async fn keep_up_to_date(&mut self, hangup: &mut Signal) -> Infallible {
        let mut look = interval_at(Instant::now() + INTERVAL, INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reload().await,
                _ = look.tick() => self.look_at_files().await,
            }
        }
    }

    /// Reads the configuration again. On any error all stays as it is.
    async fn reload(&mut self) {
        tracing::info!(file = %self.file.display(), "reloading");
        self.notify.reloading();
        let (file, parts, watch, open, passed) = (
            self.file.clone(),
            Arc::clone(&self.parts),
            self.watch.clone(),
            self.listeners.open(),
            Arc::clone(&self.passed),
        );
        let prepared = spawn_blocking(move || {
            let read = in_force::fingerprint(&file);
            let prepared = prepare(&file, &parts, &watch, &open, &passed);
            (prepared, read.filter(|read| in_force::fingerprint(&file).as_ref() == Some(read)))
        });
        let (prepared, configuration) = prepared.await.unwrap_or_else(|error| (Err(vec![error.to_string()]), None));
        let outcome = prepared.and_then(|prepared| self.swap(prepared).map_err(|problem| vec![problem]));
        self.view.reloaded(outcome.is_ok());
        if let Err(problems) = outcome {
            for problem in problems.iter().take(PROBLEMS_MAX) {
                tracing::error!(problem, "configuration not usable");
            }
            tracing::error!(
                file = %self.file.display(),
                problems = problems.len(),
                "configuration not reloaded; the one before stays in force"
            );
            self.in_force.refused(&problems);
            let status = format!("{}; the last reload failed, see the log", self.status());
            return self.notify.ready(&status);
        }
        self.in_force.taken_over(configuration);
        self.notify.ready(&self.status());
    }

    fn swap(&mut self, prepared: Prepared) -> Result<(), String> {
        let Prepared { parts, sockets, watch, difference } = prepared;
        self.listeners.swap(&parts, sockets.register()?);
        if let Some(settings) = difference.restart.told() {
            tracing::warn!(settings, "these settings count from the next start; restart to apply them");
        }
        let Difference { added, removed, changed, keys, sections, .. } = &difference;
        tracing::info!(
            connectors = parts.config.connectors.len(),
            added = added.told(),
            removed = removed.told(),
            changed = changed.told(),
            keys_replaced = keys.told(),
            sections_changed = sections.told(),
            unchanged = difference.is_empty().then_some(true),
            "configuration reloaded"
        );
        self.parts = Arc::new(parts);
        self.watch = watch;
        measure::expect(&self.board, &self.parts.config);
        self.view.show(&self.parts, self.listeners.served(), true);
        Ok(())
    }

    /// Takes over keys, certificates and passwords that were replaced. The configuration file is not looked at: it may be half
    /// edited, and only SIGHUP says that it is not.
    async fn look_at_files(&mut self) {
        let (parts, watch) = (Arc::clone(&self.parts), self.watch.clone());
        let looked = spawn_blocking(move || {
            let changes = watch.look();
            let told = watch.surely(&changes);
            let refreshed = refresh::refresh(&parts, &changes.keys().cloned().collect());
            (changes, told, refreshed)
        });
        let (changes, told, Refreshed { parts, replaced, rejected, trouble }) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(%error, "the files that the configuration names cannot be looked at");
                return;
            }
        };
        self.watch.remember(changes, rejected);
        for reason in trouble {
            tracing::warn!(reason, "a replaced file is not usable; what was read before stays in force");
        }
        if let Some(parts) = parts {
            // Nothing new to listen on.
            if let Ok(none) = Sockets::default().register() {
                self.listeners.swap(&parts, none);
                self.parts = Arc::new(parts);
                self.view.show(&self.parts, self.listeners.served(), false);
            }
        }
        let replaced = replaced.into_iter().filter(|path| told.contains(path));
        let replaced = Names(replaced.map(|path| path.display().to_string()).collect());
        if let Some(files) = replaced.told() {
            tracing::info!(files, "replaced files taken over");
        }
    }
}

/// Reads and checks everything, and makes what is new. `open` is what is listened on already.
fn prepare(
    file: &Path,
    parts: &Parts,
    watch: &Watch,
    open: &HashSet<Listen>,
    passed: &Passed,
) -> Result<Prepared, Vec<String>> {
    let since = SystemTime::now();
    let changed = watch.stale();
    let known = parts.config.known_keys(|path| !changed.contains(path));
    let mut config = Config::load_again(file, known)
        .map_err(|problems| problems.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
    let in_file = |problem: String| format!("{}: {problem}", file.display());
    if !config.serves() {
        return Err(vec![in_file(
            "none of [milter], [transport], [exim], [auth] and [lookup]: nothing would be served".to_owned(),
        )]);
    }
    let moved = Sockets::moved(&parts.config, &config);
    if !moved.is_empty() {
        return Err(moved.into_iter().map(in_file).collect());
    }
    let difference = Difference::between(&parts.config, &config);
    keep_what_needs_restart(&parts.config, &mut config);
    let watch = Watch::new(&config, since);

    let (remotes, failed) = parts.remotes(&config, &changed);
    let mut problems: Vec<String> = failed.into_iter().map(|failed| in_file(failed.problem)).collect();
    // A site key that is gone is not made anew: all verdicts in the queue would be worth nothing.
    let site_key = match SiteKey::load(&config.daemon.site_key_file) {
        Ok(site_key) if problems.is_empty() => site_key,
        Ok(_) => return Err(problems),
        Err(error) => {
            problems.push(in_file(format!("daemon.site_key_file: {error}")));
            return Err(problems);
        }
    };
    privileges::check_open_files(Sockets::count(&config)).map_err(|problem| vec![problem])?;
    let parts = parts.next(config, site_key, remotes, &changed)?;
    let sockets = Sockets::bind(&parts.config, None, open, passed).map_err(without_root)?;
    Ok(Prepared { parts, sockets, watch, difference })
}

/// A socket that cannot be opened is a reason to change nothing at all: half a configuration is none.
fn without_root(problems: Vec<String>) -> Vec<String> {
    let hint =
        "a reload opens sockets as daemon.user, which must be a member of socket_group; if it needs root, restart";
    problems.into_iter().map(|problem| format!("{problem} ({hint})")).collect()
}
