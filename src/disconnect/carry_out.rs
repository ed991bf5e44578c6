//! Makes the changes of a record, from wherever they stand.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::{Record, Records};
use super::{Stop, sets};
use crate::daemon;
use crate::doctor::postfix::{Installation, Queued};

/// How often the queue is looked at while it empties.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often what is deferred is requeued at most: where address rewriting does not take effect it would go round for ever.
const REQUEUES_MAX: usize = 5;
/// How long requeued mail may take until it is somewhere else, before it is requeued once more.
const REQUEUE_PAUSE: Duration = Duration::from_secs(3);
/// How long a daemon may take to take over a configuration.
pub(super) const RELOAD_WAIT: Duration = Duration::from_secs(60);

/// Where it all is.
#[derive(Debug)]
pub struct Site {
    /// The configuration of deskmilter.
    pub file: PathBuf,
    /// The state directory of its daemon.
    pub state_directory: PathBuf,
    /// The Postfix beside it, where one matters.
    pub postfix: Option<Installation>,
    /// How long the queue may take to empty.
    pub wait: Duration,
    /// Told what was done.
    pub say: fn(&str),
}

/// Makes the changes of `record`, number `number`, and notes in it what was done.
///
/// # Errors
/// What keeps it from going on. What was done until then stays; the same call goes on from there.
pub fn carry_out(site: &Site, records: &Records, number: u32, record: &mut Record) -> Result<(), Stop> {
    // All or nothing: a file that somebody has changed meanwhile is told before another one is touched.
    record.files().try_for_each(|file| file.stage().map(drop))?;
    if let Some(postfix) = &site.postfix
        && !postfix.is_running()?
    {
        return Err(Stop::Later("Postfix does not run: start it, for its queue has to be emptied first".to_owned()));
    }
    record.first.iter().try_for_each(super::FileChange::make)?;
    if let Some(postfix) = site.postfix.as_ref().filter(|_| !record.first.is_empty()) {
        postfix.reload()?;
        (site.say)("new mail takes its other way; Postfix reloaded");
    }
    if let Some(postfix) = &site.postfix {
        empty(site, postfix, record)?;
    }
    if let Some(settings) = &record.settings {
        settings.make()?;
        site.reload_daemon()?;
    }
    record.last.iter().try_for_each(super::FileChange::make)?;
    if let Some(postfix) = &site.postfix {
        if !record.last.is_empty() {
            postfix.reload()?;
        }
        // What came in by sessions that began before all this.
        let late = record.waiting.deferred(&postfix.queued()?);
        site.requeue(postfix, &late)?;
    }
    for set in record.sets.clone() {
        if !record.revoked.contains(&set) {
            sets::revoke(&site.file, set)?;
            record.revoked.push(set);
            records.save(number, record)?;
            (site.say)(&format!("revoked {set}"));
        }
    }
    record.finished = true;
    records.save(number, record)
}

impl Site {
    /// Has the daemon take over its configuration.
    pub(super) fn reload_daemon(&self) -> Result<(), Stop> {
        let file = self.file.display();
        let reloaded = daemon::tell_to_reload(&self.state_directory, &self.file, RELOAD_WAIT);
        match reloaded.map_err(Stop::Refused)? {
            true => (self.say)(&format!("deskmilter has taken over {file}")),
            false => (self.say)(&format!("no daemon runs; {file} counts from its next start")),
        }
        Ok(())
    }

    /// Requeues those that are still deferred; how many that were.
    fn requeue(&self, postfix: &Installation, ids: &[String]) -> Result<usize, Stop> {
        if ids.is_empty() {
            return Ok(0);
        }
        let count = postfix.requeue(ids)?;
        (self.say)(&format!("requeued: {count} of {}", ids.join(" ")));
        Ok(count)
    }
}

/// Waits until Postfix holds nothing more for what is taken down: what is being handed over is handed over, what is deferred is
/// requeued and takes its other way.
fn empty(site: &Site, postfix: &Installation, record: &Record) -> Result<(), Stop> {
    let begun = Instant::now();
    let (mut requeues, mut requeued) = (0_usize, None::<Instant>);
    loop {
        let queued = postfix.queued()?;
        let ours: Vec<&Queued> = queued.iter().filter(|message| record.waiting.has(message)).collect();
        if ours.is_empty() {
            return Ok(());
        }
        if let Some(held) = ours.iter().find(|message| message.queue == "hold") {
            return Err(Stop::Later(format!(
                "{} is on hold, and released it would look for a way that is gone: requeue it (postsuper -r {0}) or delete it, and \
                 try again; new mail takes its other way already",
                held.id
            )));
        }
        let deferred = record.waiting.deferred(&queued);
        if !deferred.is_empty() && requeued.is_none_or(|at| at.elapsed() > REQUEUE_PAUSE) && requeues < REQUEUES_MAX {
            // One that Postfix has taken up meanwhile was not requeued, and does not count.
            requeues = requeues.saturating_add(site.requeue(postfix, &deferred)?.min(1));
            requeued = Some(Instant::now());
        }
        if begun.elapsed() > site.wait {
            let some: Vec<&str> = ours.iter().take(5).map(|message| message.id.as_str()).collect();
            return Err(Stop::Later(format!(
                "after {} s mail for what is taken down is still in the queue, messages: {} ({}, ...): see mailq, and try again; new mail takes \
                 its other way already, and deskmilter goes on relaying",
                site.wait.as_secs(),
                ours.len(),
                some.join(", ")
            )));
        }
        std::thread::sleep(LOOK_INTERVAL);
        postfix.nudge();
    }
}

/// Whether the files of `record` are those that the caller means.
///
/// # Errors
/// They are of another configuration, or of another Postfix.
pub fn check_places(site: &Site, record: &Record) -> Result<(), Stop> {
    let file = site.file.canonicalize().ok();
    let directory = site.postfix.as_ref().map(|postfix| postfix.directory().to_owned());
    let main_cf = site.postfix.as_ref().and_then(|postfix| postfix.main_cf().ok());
    let own_table = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.parent() == directory.as_deref() && matches!(name, Some("deskmilter_forward" | "deskmilter_transport"))
    };
    let mut others = record.first.iter().chain(&record.last).map(|change| &change.path);
    let settings = record.settings.as_ref().is_none_or(|change| Some(&change.path) == file.as_ref());
    if settings && others.all(|path| Some(path) == main_cf.as_ref() || own_table(path)) {
        return Ok(());
    }
    let paths: Vec<String> = record.files().map(|change| change.path.display().to_string()).collect();
    Err(Stop::Refused(format!(
        "the record is of {}: name that configuration with -c, and Postfix's with --config-directory",
        paths.join(", ")
    )))
}
