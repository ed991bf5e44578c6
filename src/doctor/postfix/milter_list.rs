//! The syntax of `smtpd_milters` and `non_smtpd_milters` (postconf(5), MILTER_README): entries separated by commas or white
//! space, an entry with settings in braces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One entry of a milter list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MilterEntry {
    /// `unix:path`, `inet:host:port`, as written.
    pub endpoint: String,
    /// Its own settings, for example `default_action` to `accept`.
    pub settings: BTreeMap<String, String>,
}

impl MilterEntry {
    /// Reads an expanded list.
    pub fn list(text: &str) -> Vec<Self> {
        split(text).into_iter().map(Self::one).collect()
    }

    fn one(text: &str) -> Self {
        let Some(inner) = text.strip_prefix('{').map(|inner| inner.strip_suffix('}').unwrap_or(inner)) else {
            return Self { endpoint: text.to_owned(), settings: BTreeMap::new() };
        };
        // `name = value` may have blanks around the sign: settings are separated by commas or by blanks between them.
        let inner = inner.replace(" =", "=").replace("= ", "=");
        let mut words = split(&inner).into_iter();
        let endpoint = words.next().unwrap_or_default().to_owned();
        let settings = words.map(|word| {
            let word = word.trim_start_matches('{').trim_end_matches('}').trim();
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.trim().to_owned(), value.trim().to_owned())
        });
        Self { endpoint, settings: settings.collect() }
    }

    /// Whether this names the same place as `other`: unix paths relative to the queue directory or absolute, the host as
    /// name or address.
    pub fn reaches(&self, other: &str, queue_directory: &Path) -> bool {
        place(&self.endpoint, queue_directory) == place(other, queue_directory)
    }
}

/// The place that an endpoint names, comparable.
fn place(endpoint: &str, queue_directory: &Path) -> String {
    if let Some(path) = endpoint.strip_prefix("unix:") {
        let path = queue_directory.join(path);
        let path: PathBuf = path.components().collect();
        return format!("unix:{}", path.display());
    }
    endpoint.to_ascii_lowercase().replace("inet6:", "inet:").replace(":localhost:", ":127.0.0.1:")
}

/// Splits at commas and white space outside braces.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut depth, mut start) = (0_usize, None);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth = depth.saturating_add(1),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_whitespace()) {
            words.extend(start.take().and_then(|start| text.get(start..at)));
        } else if start.is_none() {
            start = Some(at);
        }
    }
    words.extend(start.and_then(|start| text.get(start..)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart_whatever_separates_them() {
        let list = MilterEntry::list("  inet:localhost:8891,\n { unix:a/b.sock default_action = accept } unix:c,");
        let endpoints: Vec<&str> = list.iter().map(|entry| entry.endpoint.as_str()).collect();
        assert_eq!(endpoints, ["inet:localhost:8891", "unix:a/b.sock", "unix:c"]);
        assert_eq!(list[1].settings["default_action"], "accept");
        assert!(MilterEntry::list(" , ").is_empty());
    }

    #[test]
    fn the_same_socket_is_recognised_in_each_spelling() {
        let queue = Path::new("/var/spool/postfix");
        for (a, b, same) in [
            ("unix:deskmilter/m.sock", "unix:/var/spool/postfix/deskmilter/m.sock", true),
            ("unix:/deskmilter/m.sock", "unix:/var/spool/postfix/deskmilter/m.sock", false),
            ("inet:localhost:8891", "inet:127.0.0.1:8891", true),
            ("inet:127.0.0.1:8892", "inet:127.0.0.1:8891", false),
        ] {
            assert_eq!(MilterEntry::list(a)[0].reaches(b, queue), same, "{a} {b}");
        }
    }
}
