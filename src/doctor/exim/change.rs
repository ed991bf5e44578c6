//! The change to an Exim configuration that attaches deskmilter: worked out, shown, made, taken back.
//!
//! Debian's split configuration (`conf.d` beside the file that is named) gets files of ours in `conf.d` and one marked line in
//! each transport that sends by SMTP; a single file gets marked lines. Marked lines can be taken out again, so that a file is
//! then byte for byte what it was.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::EximError;
use super::fragments::{Fragments, HEADING};
use super::section::{accepting_line, block, insert, insert_before, without_blocks};
use crate::config::Config;

/// Lines around a difference.
const CONTEXT: usize = 3;
/// The folder of our files, beside the configuration.
const FOLDER: &str = "deskmilter";
/// What may be in it.
const FILES: [&str; 5] = ["macros", "rcpt", "acl", "routers", "transports"];
/// Debian's parts that may be edited or added.
const OURS_IN_CONF_D: [&str; 4] =
    ["main/00_deskmilter", "acl/50_deskmilter", "router/050_deskmilter", "transport/50_deskmilter"];

/// A change, not made yet.
#[derive(Debug, Clone, Default)]
pub struct Change {
    files: Vec<FileChange>,
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file.
    pub path: PathBuf,
    /// What is in it; `None` where it is not there.
    pub before: Option<String>,
    /// What will be; `None` where it goes.
    pub after: Option<String>,
}

impl Change {
    /// What attaches deskmilter to the configuration `file`. Nothing is written.
    ///
    /// # Errors
    /// A file cannot be read, or our own configuration has no `[exim]`.
    pub fn attach(config: &Config, file: &Path, program: &Path) -> Result<Self, EximError> {
        let fragments = Fragments::of(config, program)?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        let folder = directory.join(FOLDER);
        let mut change = Self::default();
        for (name, text) in [
            ("macros", Some(&fragments.macros)),
            ("rcpt", fragments.rcpt.as_ref()),
            ("acl", Some(&fragments.acl)),
            ("routers", Some(&fragments.routers)),
            ("transports", Some(&fragments.transports)),
        ] {
            if let Some(text) = text {
                change.ours(folder.join(name), text.clone())?;
            }
        }
        let included = |name: &str| format!(".include {}", folder.join(name).display());
        let parts = directory.join("conf.d");
        if is_split(directory)? {
            let main = read_all(&parts.join("main"))?;
            let mut own = String::new();
            for (hook, name) in [("CHECK_RCPT_LOCAL_ACL_FILE", "rcpt"), ("CHECK_DATA_LOCAL_ACL_FILE", "acl")] {
                if name == "rcpt" && fragments.rcpt.is_none() {
                    continue;
                }
                if main.iter().any(|(path, text)| !path.ends_with("00_deskmilter") && sets(text, hook)) {
                    let file = included(name);
                    return Err(EximError::Refused(format!(
                        "{hook} is set already; put \"{file}\" at the end of the file that it names, and comment our line out"
                    )));
                }
                own.push_str(&format!("{hook} = {}\n", folder.join(name).display()));
            }
            let local = !main.iter().any(|(path, text)| !path.ends_with("00_deskmilter") && sets(text, "acl_not_smtp"));
            let hook = if local { "acl_not_smtp = acl_deskmilter_local\n" } else { "" };
            change.ours(parts.join(OURS_IN_CONF_D[0]), format!("{HEADING}{}\n{own}{hook}", included("macros")))?;
            if local {
                change.ours(parts.join(OURS_IN_CONF_D[1]), format!("{HEADING}{}", local_acl(&included("acl"))))?;
            }
            change.ours(parts.join(OURS_IN_CONF_D[2]), format!("{HEADING}{}\n", included("routers")))?;
            change.ours(parts.join(OURS_IN_CONF_D[3]), format!("{HEADING}{}\n", included("transports")))?;
            for (path, text) in read_all(&parts.join("transport"))? {
                if !path.ends_with("50_deskmilter") {
                    let plain = without_ours(&path, &text)?;
                    change.edited(path, &text, with_filter(&plain, true));
                }
            }
        } else {
            let text = read(file)?
                .ok_or_else(|| EximError::File { path: file.to_owned(), error: ErrorKind::NotFound.into() })?;
            let asks_rcpt = fragments.rcpt.is_some();
            let after = attached(&without_ours(file, &text)?, asks_rcpt, &included)?;
            change.edited(file.to_owned(), &text, after);
        }
        Ok(change)
    }

    /// What takes deskmilter out of the configuration `file`. Nothing is written.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn detach(file: &Path) -> Result<Self, EximError> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let parts = directory.join("conf.d");
        let mut change = Self::default();
        // What includes our files goes first.
        for (path, text) in read_all(&parts.join("transport"))? {
            let plain = without_ours(&path, &text)?;
            change.edited(path, &text, plain);
        }
        if let Some(text) = read(file)? {
            change.edited(file.to_owned(), &text, without_ours(file, &text)?);
        }
        let folder = directory.join(FOLDER);
        let own = OURS_IN_CONF_D.iter().map(|name| parts.join(name));
        for path in own.chain(FILES.iter().map(|name| folder.join(name))) {
            if let Some(before) = read(&path)?.filter(|text| text.starts_with(HEADING)) {
                change.files.push(FileChange { path, before: Some(before), after: None });
            }
        }
        Ok(change)
    }

    /// Whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files in the order in which they are written: first those that others name.
    pub fn files(&self) -> &[FileChange] {
        &self.files
    }

    /// The change as a unified diff.
    pub fn diff(&self) -> String {
        let show = |file: &FileChange| {
            let (old, new) = (file.before.as_deref().unwrap_or_default(), file.after.as_deref().unwrap_or_default());
            let (from, to) = (file.path.display().to_string(), file.path.display().to_string());
            let to = if file.after.is_some() { to } else { "/dev/null".to_owned() };
            let from = if file.before.is_some() { from } else { "/dev/null".to_owned() };
            TextDiff::from_lines(old, new).unified_diff().context_radius(CONTEXT).header(&from, &to).to_string()
        };
        self.files.iter().map(show).collect()
    }

    /// Makes it, each file at once.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn apply(&self) -> Result<(), EximError> {
        for FileChange { path, after, .. } in &self.files {
            let failed = |error| EximError::File { path: path.clone(), error };
            match after {
                Some(text) => replace(path, text).map_err(failed)?,
                None => fs::remove_file(path).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// A file that is all ours.
    fn ours(&mut self, path: PathBuf, text: String) -> Result<(), EximError> {
        let before = read(&path)?;
        if before.as_ref().is_some_and(|before| !before.starts_with(HEADING)) {
            return Err(EximError::Refused(format!(
                "{} was not written by deskmilter; move it away and try again",
                path.display()
            )));
        }
        if before.as_ref() != Some(&text) {
            self.files.push(FileChange { path, before, after: Some(text) });
        }
        Ok(())
    }

    fn edited(&mut self, path: PathBuf, before: &str, after: String) {
        if before != after {
            self.files.push(FileChange { path, before: Some(before.to_owned()), after: Some(after) });
        }
    }
}

/// The text of a file without our lines.
fn without_ours(path: &Path, text: &str) -> Result<String, EximError> {
    without_blocks(text).ok_or_else(|| {
        EximError::Refused(format!(
            "{}: of a line \"# deskmilter begin\" and its \"# deskmilter end\" only one is left; take our lines out by hand, the \
             marker too, and try again",
            path.display()
        ))
    })
}

/// Whether Debian's `conf.d` is what Exim's configuration is made of, and not the template beside it.
fn is_split(directory: &Path) -> Result<bool, EximError> {
    let says = read(&directory.join("update-exim4.conf.conf"))?;
    let split = says.and_then(|text| value(&text, "dc_use_split_config"));
    Ok(directory.join("conf.d").is_dir() && split.is_none_or(|word| word.trim_matches(['\'', '"']) == "true"))
}

/// A single configuration file with everything in its place.
fn attached(text: &str, asks_rcpt: bool, included: &impl Fn(&str) -> String) -> Result<String, EximError> {
    let missing = |section: &str| {
        EximError::Refused(format!(
            "no line \"begin {section}\" in this file; if it includes others, see exim/README.md"
        ))
    };
    let has = |section: &str| {
        text.lines().any(|line| line.trim().strip_prefix("begin ").is_some_and(|s| s.trim() == section))
    };
    for section in ["acl", "routers", "transports"] {
        if !has(section) {
            return Err(missing(section));
        }
    }
    let mut main = vec![included("macros")];
    let mut acls = String::new();
    let mut text = text.to_owned();
    for (option, file) in [("acl_smtp_rcpt", "rcpt"), ("acl_smtp_data", "acl")] {
        // Debian names it by a macro.
        let name = value(&text, option).map(|name| value(&text, &name).unwrap_or(name));
        let hook = if file == "rcpt" { "CHECK_RCPT_LOCAL_ACL_FILE" } else { "CHECK_DATA_LOCAL_ACL_FILE" };
        match name {
            _ if file == "rcpt" && !asks_rcpt => {}
            // Debian's own place for that.
            Some(_) if text.lines().any(|line| line.trim() == format!(".include {hook}")) && !sets(&text, hook) => {
                main.push(included(file).replacen(".include", &format!("{hook} ="), 1));
            }
            Some(name) => text = with_acl(&text, option, &name, &included(file))?,
            None if file == "rcpt" => {
                return Err(EximError::Refused("acl_smtp_rcpt is not set, so Exim takes no mail by SMTP".to_owned()));
            }
            None => {
                main.push("acl_smtp_data = acl_deskmilter_data".to_owned());
                acls.push_str(&local_acl(&included("acl")).replace("acl_deskmilter_local", "acl_deskmilter_data"));
            }
        }
    }
    if value(&text, "acl_not_smtp").is_none() {
        main.push("acl_not_smtp = acl_deskmilter_local".to_owned());
        acls.push_str(&local_acl(&included("acl")));
    }
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    if !acls.is_empty() {
        text = insert(&text, &block("", &lines(&acls)), |line, section| section == "acl" && line.starts_with("begin "));
    }
    for section in ["routers", "transports"] {
        let inner = block("", &[included(section)]);
        text = insert(&text, &inner, |line, name| name == section && line.starts_with("begin "));
    }
    Ok(block("", &main) + &with_filter(&text, false))
}

/// With our statements in the ACL `name`: before the statement by which it accepts, where that is its last and the only one of
/// its kind, for by then nothing refuses the message any more; otherwise first, where nothing goes round us.
fn with_acl(text: &str, option: &str, name: &str, include: &str) -> Result<String, EximError> {
    let inner = block("  ", &[include.to_owned()]);
    let label = format!("{name}:");
    if let Some(at) = accepting_line(text, &label) {
        return Ok(insert_before(text, &inner, at));
    }
    let labelled = insert(text, &inner, |line, section| section == "acl" && line == label);
    match labelled == text {
        true => Err(EximError::Refused(format!(
            "{option} = {name}, and no line \"{label}\" in this file; put \"{include}\" into that ACL by hand"
        ))),
        false => Ok(labelled),
    }
}

/// An ACL that does nothing but ask.
fn local_acl(include: &str) -> String {
    format!("acl_deskmilter_local:\n  {include}\n  accept\n")
}

/// The filter for each transport that sends by SMTP. One that has a filter already keeps it: the checks tell.
fn with_filter(text: &str, transports_only: bool) -> String {
    if sets(text, "transport_filter") {
        return text.to_owned();
    }
    let filter = block("  ", &["transport_filter = DESKMILTER_LAST_HOP".to_owned()]);
    insert(text, &filter, |line, section| {
        let smtp = line.split_once('=').is_some_and(|(left, right)| left.trim() == "driver" && right.trim() == "smtp");
        smtp && (transports_only || section == "transports")
    })
}

/// The value of an option or macro in the text of a configuration, where it is a plain word.
fn value(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(left, _)| left.trim() == name).map(|(_, right)| right.trim().to_owned()).next_back()
}

fn sets(text: &str, name: &str) -> bool {
    value(text, name).is_some()
}

fn read(path: &Path) -> Result<Option<String>, EximError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(EximError::File { path: path.to_owned(), error }),
    }
}

/// The files of a folder, in order; none where there is no folder.
fn read_all(folder: &Path) -> Result<Vec<(PathBuf, String)>, EximError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        files.extend(read(&path)?.map(|text| (path, text)));
    }
    Ok(files)
}

/// Writes aside and renames; owner, group and mode are those of the file that was there. Exim reads as its own user.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut aside = tempfile::NamedTempFile::new_in(directory)?;
    aside.write_all(text.as_bytes())?;
    match path.metadata() {
        Ok(facts) => {
            aside.as_file().set_permissions(facts.permissions())?;
            std::os::unix::fs::fchown(aside.as_file(), Some(facts.uid()), Some(facts.gid()))?;
        }
        Err(_) => aside.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?,
    }
    aside.as_file().sync_all()?;
    aside.persist(&path)?;
    Ok(())
}
