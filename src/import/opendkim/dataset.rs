//! Data sets: lists of names, each with a value or without.

use std::path::PathBuf;

/// Octets that OpenDKIM reads as one line of a data set.
const LINE_MAX: usize = 1022;
/// What OpenDKIM leaves as it is when it makes a regular expression of a pattern, so that it keeps its POSIX meaning.
const REGEXP: &str = "?[](){}|\\^$";

/// Where a data set is kept, as a setting's value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of names (`file:/path`, `/path`).
    File(PathBuf),
    /// A file of patterns (`refile:/path`).
    Patterns(PathBuf),
    /// The value itself is the list (`csl:a,b=c`, `a,b`).
    List(String),
    /// A data base or directory: db, dsn, ldap, lua, memcache, ...
    Other(String),
}

impl Source {
    /// Reads a setting's value.
    pub fn parse(value: &str) -> Self {
        // A colon beyond the first comma belongs to the list.
        let typed = value.split_once(':').filter(|(kind, _)| !kind.contains(','));
        let Some((kind, rest)) = typed else {
            return match value {
                path if path.ends_with(".db") => Self::Other("db".to_owned()),
                path if path.starts_with('/') => Self::File(path.into()),
                list => Self::List(list.to_owned()),
            };
        };
        match kind.to_ascii_lowercase().as_str() {
            "file" => Self::File(rest.into()),
            "refile" => Self::Patterns(rest.into()),
            "csl" => Self::List(rest.to_owned()),
            _ => Self::Other(kind.chars().filter(char::is_ascii_alphanumeric).collect()),
        }
    }
}

/// How the names of a data set are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matching {
    /// Octet by octet, but for letter case where the setting says so.
    Exact,
    /// `*` stands for any text; the first match counts.
    Pattern,
}

/// One name and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Line in the file, from 1; place in a list.
    pub line: usize,
    /// The name or pattern.
    pub name: String,
    /// What follows it; empty when nothing does.
    pub value: String,
}

/// A data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    matching: Matching,
    entries: Vec<Entry>,
    problems: Vec<String>,
}

impl Dataset {
    /// Reads the text of a file.
    pub fn file(text: &str, matching: Matching) -> Self {
        let mut set = Self { matching, entries: Vec::new(), problems: Vec::new() };
        for (line, text) in (1..).zip(text.split('\n')) {
            set.line(line, text);
        }
        set
    }

    /// Reads a list in a setting's value.
    pub fn list(text: &str) -> Self {
        let entry = |(line, item): (usize, &str)| {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            Entry { line, name: trim(name).to_owned(), value: trim(value).to_owned() }
        };
        let items = text.split(',').filter(|item| !item.is_empty());
        Self { matching: Matching::Exact, entries: (1..).zip(items).map(entry).collect(), problems: Vec::new() }
    }

    fn line(&mut self, line: usize, text: &str) {
        if text.len() > LINE_MAX {
            self.problems.push(format!(
                "line {line}: longer than {LINE_MAX} octets, which OpenDKIM reads as two lines; left out"
            ));
            return;
        }
        let text = text.split('#').next().unwrap_or_default();
        if trim(text).is_empty() {
            return;
        }
        if self.matching == Matching::Pattern && text.starts_with(is_space) {
            self.problems.push(format!("line {line}: begins with a space, so that OpenDKIM ignores it; left out"));
            return;
        }
        let text = trim(text);
        let (name, value) = text.split_once(is_space).unwrap_or((text, ""));
        if self.matching == Matching::Pattern && name.contains(|c| REGEXP.contains(c)) {
            self.problems
                .push(format!("line {line}: {name:?} is a regular expression; write it as patterns with * alone"));
            return;
        }
        self.entries.push(Entry { line, name: name.to_owned(), value: trim(value).to_owned() });
    }

    /// The same set with other values.
    #[must_use]
    pub fn map_values(mut self, change: impl Fn(&str) -> String) -> Self {
        for entry in &mut self.entries {
            entry.value = change(&entry.value);
        }
        self
    }

    /// How names are compared.
    pub fn matching(&self) -> Matching {
        self.matching
    }

    /// The entries in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What could not be read, with its line.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// All entries that answer for `name`, the first one first.
    pub fn matches<'a>(&'a self, name: &'a str, ignore_case: bool) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| match self.matching {
            Matching::Pattern => Pattern(&entry.name).matches(name, ignore_case),
            Matching::Exact if ignore_case => entry.name.eq_ignore_ascii_case(name),
            Matching::Exact => entry.name == name,
        })
    }
}

/// A text in which `*` stands for any text, also for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern<'a>(pub &'a str);

impl Pattern<'_> {
    /// Whether it describes the whole of `text`. Takes time in the product of both lengths at most.
    pub fn matches(self, text: &str, ignore_case: bool) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = strip_start(text, first, ignore_case) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(after) = (0..=rest.len()).find_map(|at| strip_start(rest.get(at..)?, part, ignore_case)) else {
                return false;
            };
            rest = after;
        }
        let at = rest.len().checked_sub(last.len());
        at.and_then(|at| rest.get(at..)).is_some_and(|end| equal(end, last, ignore_case))
    }
}

fn strip_start<'a>(text: &'a str, start: &str, ignore_case: bool) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(start.len())?;
    equal(head, start, ignore_case).then_some(tail)
}

fn equal(one: &str, other: &str, ignore_case: bool) -> bool {
    if ignore_case { one.eq_ignore_ascii_case(other) } else { one == other }
}

/// isspace(3) in the C locale.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}
