//! What is wrong with a configuration: every problem with file, line, key and remedy.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::harmless::harmless;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, dotted from the top, for example `connector.acme.endpoint.port`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// All problems of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl Problems {
    /// The problems, in the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }
}

/// One line a problem: `deskmilter.toml:12: connector.acme.domain: what is wrong; what to do`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: ", self.file.display(), problem.line)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a file is checked.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    list: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, list: Vec::new() }
    }

    /// Notes a problem at a place in the text.
    pub(super) fn note(&mut self, span: Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        // A key may hold anything: a problem is one line all the same.
        self.list.push(Problem { line, key: harmless(&key.into()), message: harmless(&message.into()) });
    }

    /// `value` if there were no problems.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        self.list.sort_by_key(|problem| problem.line);
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => Err(Problems { file: self.file.to_owned(), list: self.list }),
        }
    }
}
