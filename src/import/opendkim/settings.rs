//! `opendkim.conf`: a name and a value a line.

use std::collections::HashSet;
use std::path::Path;

/// Files included in each other, at most, as in OpenDKIM.
const NESTING_MAX: usize = 5;
/// Files read, at most: five levels of some hundred includes each would take for ever.
const FILES_MAX: usize = 1_000;
/// Lines in all, at most: an include of itself ends.
const SETTINGS_MAX: usize = 100_000;

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name as it is written; letter case does not matter.
    pub name: String,
    /// Its value, trimmed.
    pub value: String,
    /// Line in its file, from 1.
    pub line: usize,
}

/// All settings, in the order of their lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    list: Vec<Setting>,
    /// Files read so far.
    files: usize,
}

impl Settings {
    /// Reads a text. `Include` is a setting like any other here.
    ///
    /// # Errors
    /// A line without a value, with its number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        for (line, text) in (1..).zip(text.split('\n')) {
            let text = text.split(['#', '\r']).next().unwrap_or_default().trim_matches([' ', '\t']);
            if text.is_empty() {
                continue;
            }
            let (name, value) = text
                .split_once([' ', '\t'])
                // It may be a line of a key, named by mistake: it is not printed.
                .ok_or_else(|| format!("line {line}: a name without a value; OpenDKIM does not start with it"))?;
            list.push(Setting { name: name.to_owned(), value: value.trim_matches([' ', '\t']).to_owned(), line });
        }
        Ok(Self { list, files: 0 })
    }

    /// Reads `path` and what it includes, each by `read`.
    ///
    /// # Errors
    /// What `read` or [`Self::parse`] said, with the file; files included in each other too deep.
    pub fn load(path: &Path, read: &mut dyn FnMut(&Path) -> Result<String, String>) -> Result<Self, String> {
        let mut settings = Self::default();
        settings.include(path, read, 0)?;
        Ok(settings)
    }

    fn include(
        &mut self,
        path: &Path,
        read: &mut dyn FnMut(&Path) -> Result<String, String>,
        level: usize,
    ) -> Result<(), String> {
        self.files = self.files.saturating_add(1);
        if level > NESTING_MAX || self.files > FILES_MAX || self.list.len() > SETTINGS_MAX {
            return Err(format!("{}: Include goes too deep, or round in a circle", path.display()));
        }
        let text = read(path)?;
        if text.contains("PRIVATE KEY-----") {
            return Err(format!("{}: a private key, but opendkim.conf is needed", path.display()));
        }
        let read_here = Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for setting in read_here.list {
            if setting.name.eq_ignore_ascii_case("Include") {
                self.include(Path::new(&setting.value), read, level.saturating_add(1))?;
            } else {
                self.list.push(setting);
            }
        }
        Ok(())
    }

    /// Sets a value as if it stood in the last line.
    pub fn set(&mut self, name: &str, value: &str) {
        self.list.push(Setting { name: name.to_owned(), value: value.to_owned(), line: 0 });
    }

    /// The value of a setting: the last one counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|setting| setting.name.eq_ignore_ascii_case(name)).map(|setting| setting.value.as_str())
    }

    /// Whether a Boolean setting is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.starts_with(['t', 'T', 'y', 'Y', '1']))
    }

    /// The settings in effect, each name once, the last line first.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        let mut seen = HashSet::new();
        self.list.iter().rev().filter(move |setting| seen.insert(setting.name.to_ascii_lowercase()))
    }
}
