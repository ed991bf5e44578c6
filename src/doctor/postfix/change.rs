//! The change to a Postfix configuration that attaches deskmilter: worked out, shown, made, taken back.
//!
//! Two copies of `main.cf` are kept beside it from making to taking back: as it was before, and as we left it. So taking back
//! gives exactly the old file when nobody touched it since, and takes out our lines alone when somebody changed others.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use similar::TextDiff;

use super::attachment::{KEEPS_EIGHT_BIT, MAP_HEADING};
use super::main_cf::{self, ParameterEdit};
use super::{Attachment, Installation, MilterEntry, PostfixError};

/// `main.cf` as it was, kept until `--undo`.
const BEFORE: &str = "main.cf.deskmilter-before";
/// `main.cf` as we left it.
const AFTER: &str = "main.cf.deskmilter-after";
/// Lines around a difference.
const CONTEXT: usize = 3;

/// A change, not made yet.
#[derive(Debug, Clone)]
pub struct Change {
    main_cf: PathBuf,
    current: String,
    base: String,
    wanted: String,
    map_path: PathBuf,
    current_map: Option<String>,
    /// `None` where no address needs an entry.
    wanted_map: Option<String>,
}

impl Change {
    /// Works out what to change so that `attachment` is in force. Nothing is written.
    ///
    /// # Errors
    /// When Postfix cannot read the result, or somebody changed our lines by hand.
    pub fn plan(installation: &Installation, attachment: &Attachment) -> Result<Self, PostfixError> {
        let state = State::read(installation)?;
        let base = state.without_ours()?;
        let wanted = attached(installation, attachment, &base)?;
        let current_map = read_optional(&attachment.map_path)?;
        if current_map.as_deref().is_some_and(|text| !text.starts_with(MAP_HEADING)) {
            return Err(PostfixError::Refused(format!(
                "{} was not written by deskmilter; move it away and try again",
                attachment.map_path.display()
            )));
        }
        Ok(Self {
            main_cf: state.main_cf,
            current: state.current,
            base,
            wanted,
            map_path: attachment.map_path.clone(),
            current_map,
            wanted_map: (!attachment.routes.is_empty()).then(|| attachment.map_text()),
        })
    }

    /// Whether everything is in place already.
    pub fn is_empty(&self) -> bool {
        self.current == self.wanted && (self.wanted_map.is_none() || self.current_map == self.wanted_map)
    }

    /// The change as a unified diff.
    pub fn diff(&self) -> String {
        let map = self.current_map.as_deref().unwrap_or_default();
        let wanted_map = self.wanted_map.as_deref().unwrap_or(map);
        diff(&self.main_cf, &self.current, &self.wanted) + &diff(&self.map_path, map, wanted_map)
    }

    /// Makes it: carries out [`Self::writes`].
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn apply(&self) -> Result<(), PostfixError> {
        self.writes().iter().try_for_each(|(path, text)| replace(path, text, &self.main_cf))
    }

    /// The files that are written, each at once, and what is in them then: first the map that `main.cf` will name, then the two
    /// copies, then `main.cf`. Wherever that is cut off, the next --apply or --undo knows all lines of ours: until `main.cf` is
    /// the new one, the second copy holds those of the old one too.
    pub fn writes(&self) -> Vec<(PathBuf, String)> {
        let directory = self.main_cf.parent().unwrap_or(Path::new("/"));
        let both = self.wanted.clone() + &main_cf::blocks(&self.current).concat();
        let map = self.wanted_map.iter().map(|text| (self.map_path.clone(), text.clone()));
        let main = [
            (directory.join(BEFORE), self.base.clone()),
            (directory.join(AFTER), both),
            (self.main_cf.clone(), self.wanted.clone()),
            (directory.join(AFTER), self.wanted.clone()),
        ];
        map.chain(main).collect()
    }
}

/// The taking back of a change, not made yet.
#[derive(Debug, Clone)]
pub struct Undo {
    main_cf: PathBuf,
    current: String,
    wanted: String,
    leftovers: Vec<PathBuf>,
}

impl Undo {
    /// Works out what to take back. Nothing is written.
    ///
    /// # Errors
    /// When somebody changed our lines by hand.
    pub fn plan(installation: &Installation) -> Result<Self, PostfixError> {
        let state = State::read(installation)?;
        let wanted = state.without_ours()?;
        let directory = installation.directory();
        let map = directory.join("deskmilter_transport");
        let mut leftovers = Vec::new();
        // Another table or instance may have come to name it: then it stays.
        if read_optional(&map)?.is_some_and(|text| text.starts_with(MAP_HEADING))
            && !wanted.contains("deskmilter_transport")
        {
            leftovers.push(map);
        }
        leftovers.extend([BEFORE, AFTER].map(|name| directory.join(name)).into_iter().filter(|path| path.exists()));
        Ok(Self { main_cf: state.main_cf, current: state.current, wanted, leftovers })
    }

    /// Whether there is nothing of ours.
    pub fn is_empty(&self) -> bool {
        self.current == self.wanted && self.leftovers.is_empty()
    }

    /// The change to `main.cf` as a unified diff.
    pub fn diff(&self) -> String {
        diff(&self.main_cf, &self.current, &self.wanted)
    }

    /// The files that go.
    pub fn removed(&self) -> &[PathBuf] {
        &self.leftovers
    }

    /// Makes it: `main.cf` first, then what it no longer names.
    ///
    /// # Errors
    /// Names the file that could not be written or removed.
    pub fn apply(&self) -> Result<(), PostfixError> {
        replace(&self.main_cf, &self.wanted, &self.main_cf)?;
        for path in &self.leftovers {
            fs::remove_file(path).map_err(|error| PostfixError::File { path: path.clone(), error })?;
        }
        Ok(())
    }
}

/// `main.cf` and the copies that were kept.
struct State {
    main_cf: PathBuf,
    current: String,
    before: Option<String>,
    after: Option<String>,
}

impl State {
    fn read(installation: &Installation) -> Result<Self, PostfixError> {
        let link = installation.directory().join("main.cf");
        // A link stays a link: its target is what is replaced.
        let main_cf = link.canonicalize().map_err(|error| PostfixError::File { path: link, error })?;
        let current = read_optional(&main_cf)?.unwrap_or_default();
        let directory = installation.directory();
        let (before, after) = (read_optional(&directory.join(BEFORE))?, read_optional(&directory.join(AFTER))?);
        Ok(Self { main_cf, current, before, after })
    }

    /// `main.cf` as it would be without us.
    fn without_ours(&self) -> Result<String, PostfixError> {
        if let (Some(before), Some(after)) = (&self.before, &self.after)
            && *after == self.current
        {
            return Ok(before.clone());
        }
        let known = self.after.as_deref().map(main_cf::blocks).unwrap_or_default();
        if let Some(changed) = main_cf::blocks(&self.current).iter().find(|block| !known.contains(block)) {
            return Err(PostfixError::Refused(format!(
                "{}: lines between the deskmilter markers were changed by hand:\n{changed}take them out by hand, markers \
                 included, and try again{}",
                self.main_cf.display(),
                if self.before.is_some() { format!("; {BEFORE} has the file as it was") } else { String::new() }
            )));
        }
        Ok(main_cf::without_blocks(&self.current))
    }
}

/// `base` with the edits that are needed: none for what a postmaster has put in by hand.
fn attached(installation: &Installation, attachment: &Attachment, base: &str) -> Result<String, PostfixError> {
    let queue_directory = installation.queue_directory()?;
    let mut text = base.to_owned();
    // In this order: non_smtpd_milters is often $smtpd_milters, and then has our entry already.
    for name in ["smtpd_milters", "non_smtpd_milters", "transport_maps"] {
        let value = trial(installation, &text, name)?;
        let (there, addition) = if name == "transport_maps" {
            (value.split([',', ' ', '\t', '\n']).any(|table| table == attachment.map), &attachment.map)
        } else {
            let list = MilterEntry::list(&value);
            (list.iter().any(|entry| attachment.is_named_by(entry, &queue_directory)), &attachment.milter_entry)
        };
        let needed = name != "transport_maps" || !attachment.routes.is_empty();
        if !there && needed {
            text = main_cf::append(&text, &ParameterEdit { name, value: addition.clone() });
        }
    }
    if attachment.signs && trial(installation, &text, KEEPS_EIGHT_BIT)? != "yes" {
        text = main_cf::set(&text, KEEPS_EIGHT_BIT, "yes");
    }
    // Postfix itself reads the result once more before anything is written.
    trial(installation, &text, "smtpd_milters")?;
    Ok(text)
}

/// A parameter's value if `main.cf` were `text`, as Postfix reads it.
pub(super) fn trial(installation: &Installation, text: &str, name: &str) -> Result<String, PostfixError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| PostfixError::File { path: path.clone(), error }
    };
    let folder = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    let main_cf = folder.path().join("main.cf");
    let mut file = fs::File::create(&main_cf).map_err(at(&main_cf))?;
    file.write_all(text.as_bytes()).map_err(at(&main_cf))?;
    // Postfix waits for a main.cf to be older than a moment, lest somebody is still writing it.
    file.set_modified(SystemTime::UNIX_EPOCH).map_err(at(&main_cf))?;
    let master_cf = installation.directory().join("master.cf");
    fs::copy(&master_cf, folder.path().join("master.cf")).map_err(at(&master_cf))?;
    Installation::open(folder.path())?.parameter(name)
}

/// A text file, or `None` when it is not there.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>, PostfixError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(PostfixError::Refused(format!(
            "{}: not UTF-8; convert it (its comments, most likely) and try again",
            path.display()
        ))),
        Err(error) => Err(PostfixError::File { path: path.to_owned(), error }),
    }
}

/// Writes `text` to `path` at once: readers see the old file or the new one. Owner and mode are those of `model`.
///
/// # Errors
/// Names the file that could not be written.
pub fn replace(path: &Path, text: &str, model: &Path) -> Result<(), PostfixError> {
    let failed = |error| PostfixError::File { path: path.to_owned(), error };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let facts = fs::metadata(model).map_err(failed)?;
    sweep(path)?;
    let aside = aside(path);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        fchown(&file, Some(facts.uid()), Some(facts.gid()))?;
        file.set_permissions(facts.permissions())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&aside);
        failed(error)
    })?;
    // The new name is on disk only once its folder is.
    fs::File::open(directory).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Removes what a [`replace`] of `path` left behind that was killed.
///
/// # Errors
/// It is there and cannot be removed.
pub fn sweep(path: &Path) -> Result<(), PostfixError> {
    let aside = aside(path);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PostfixError::File { path: aside, error }),
        _ => Ok(()),
    }
}

/// Where the next text of a file is written first: always the same name, so that none of them is left behind for good.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".deskmilter-new");
    name.into()
}

/// What is different, as a unified diff.
pub fn diff(path: &Path, old: &str, new: &str) -> String {
    let path = path.display().to_string();
    TextDiff::from_lines(old, new).unified_diff().context_radius(CONTEXT).header(&path, &path).to_string()
}
