//! Takes a disconnection back, octet for octet.

use super::Stop;
use super::carry_out::{Site, check_places};
use super::record::{FileChange, Record, Records};

/// Takes back what `record`, number `number`, says, from wherever it stands, and forgets it. First the daemon takes the addresses
/// again, then mail is given its way to it: none is put off in between.
///
/// # Errors
/// Somebody has changed one of the files since: it is named, and nothing is changed.
pub fn undo(site: &Site, records: &Records, number: u32, record: &mut Record) -> Result<(), Stop> {
    check_places(site, record)?;
    record.files().try_for_each(|file| file.stage().map(drop))?;
    // Cut off from here on, it is neither made nor taken back.
    record.finished = false;
    records.save(number, record)?;
    if let Some(settings) = &record.settings {
        settings.take_back()?;
        site.reload_daemon()?;
    }
    record.last.iter().try_for_each(FileChange::take_back)?;
    // main.cf before the table that it names.
    record.first.iter().rev().try_for_each(FileChange::take_back)?;
    if let Some(postfix) = site.postfix.as_ref().filter(|_| record.first.len().saturating_add(record.last.len()) > 0) {
        if postfix.is_running()? {
            postfix.reload()?;
            postfix.nudge();
            postfix.retry(&record.waiting.deferred(&postfix.queued()?))?;
            (site.say)("mail comes to deskmilter again; Postfix reloaded");
        } else {
            (site.say)("mail comes to deskmilter again when Postfix starts");
        }
    }
    records.forget(number)
}
