//! An event as a line, in the forms that there are.

use std::fmt::{self, Write as _};

use crate::harmless::is_harmful;
use serde_json::Value;
use tracing::Level;
use tracing::field::{Field, Visit};

/// Octets of one value at most; what is longer is cut and ends in `...`.
const VALUE_MAX: usize = 1_024;

/// An event on its way to text.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) queue_id: Option<String>,
    pub(super) message: String,
    /// Cleaned: no value has a control character or is longer than [`VALUE_MAX`] and three dots.
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn text(&mut self, field: &Field, value: &str) {
        let value = clean(value);
        match field.name() {
            "message" => self.message = value,
            "queue_id" => self.queue_id = Some(value),
            name => self.fields.push((name, Value::String(value))),
        }
    }

    /// `time=... level=info queue_id=4XYZ12 msg=judged decision=tagged`
    pub(super) fn logfmt(&self, now: &str, level: Level) -> String {
        let mut text = format!("time={now} level={}", level.to_string().to_lowercase());
        let first = self.queue_id.iter().map(|id| ("queue_id", id.as_str())).chain([("msg", self.message.as_str())]);
        for (name, value) in first {
            // Writing to a String does not fail.
            let _ = write!(text, " {name}={}", quoted(value));
        }
        self.write_fields(&mut text);
        text
    }

    /// `{"time":"...","level":"info","queue_id":"4XYZ12","msg":"judged","decision":"tagged"}`
    pub(super) fn json(&self, now: &str, level: Level) -> String {
        let mut text = format!("{{\"time\":{},\"level\":{}", json(now), json(&level.to_string().to_lowercase()));
        let first = self.queue_id.iter().map(|id| ("queue_id", id.as_str())).chain([("msg", self.message.as_str())]);
        for (name, value) in first {
            // Writing to a String does not fail.
            let _ = write!(text, ",{}:{}", json(name), json(value));
        }
        for (name, value) in &self.fields {
            let _ = write!(text, ",{}:{value}", json(name));
        }
        text.push('}');
        text
    }

    fn write_fields(&self, text: &mut String) {
        for (name, value) in &self.fields {
            let _ = match value {
                Value::String(value) => write!(text, " {name}={}", quoted(value)),
                value => write!(text, " {name}={value}"),
            };
        }
    }
}

/// Queue id, message, fields.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(queue_id) = &self.queue_id {
            write!(f, "{queue_id}: ")?;
        }
        let mut fields = String::new();
        self.write_fields(&mut fields);
        write!(f, "{}{fields}", self.message)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

/// A string of JSON.
fn json(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value as logfmt has it: bare where that is unambiguous, else in quotes. Nothing in it can begin another line.
fn quoted(value: &str) -> String {
    let bare = !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && c != '"' && c != '=' && c != '\\');
    if bare { value.to_owned() } else { format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// `text` without control characters and line separators, cut to length.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(VALUE_MAX));
    for c in text.chars() {
        if clean.len() >= VALUE_MAX {
            clean.push_str("...");
            break;
        }
        clean.push(if is_harmful(c) { '?' } else { c });
    }
    clean
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a stranger would write to put words into our mouth.
    const HOSTILE: &str =
        "a\r\n4XYZ: judged\n\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}x\0\u{1b}[2J\u{85}\u{7f}\"b=\\";

    fn hostile() -> Line {
        let text = clean(HOSTILE);
        Line {
            queue_id: Some(text.clone()),
            message: text.clone(),
            fields: vec![("from", Value::String(text)), ("size", 5_u64.into())],
        }
    }

    /// A line in each form.
    pub(in crate::log) fn relayed() -> [String; 3] {
        let fields = [
            ("decision", "relayed"),
            ("message_id", "<a@b.example>"),
            ("connector", "acme"),
            ("from", "<j@b.example>"),
            ("to", "<support@acme.example>"),
            ("reply", "250 2.0.0 a \"b\" \\ c"),
        ];
        let mut fields: Vec<(&'static str, Value)> = fields.map(|(key, value)| (key, value.into())).to_vec();
        fields.push(("size", 5_u64.into()));
        let line = Line { queue_id: Some("4A1B2C".to_owned()), message: "relay".to_owned(), fields };
        let now = "2026-11-22T08:00:00Z";
        [format!("{now} INFO {line}"), line.logfmt(now, Level::INFO), line.json(now, Level::INFO)]
    }

    #[test]
    fn a_value_of_a_stranger_stays_in_its_place() {
        let quoted = |value: &str| quoted(&clean(value));
        assert_eq!(quoted("plain@b.example"), "plain@b.example");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("a b=\"c\""), "\"a b=\\\"c\\\"\"");
        assert_eq!(quoted("a\r\n4XYZ: judged"), "\"a??4XYZ: judged\"");
        assert!(quoted(&"x".repeat(5_000)).len() < 1_100);
    }

    #[test]
    fn no_form_of_a_line_has_a_second_line_in_it() {
        let line = hostile();
        for text in [line.to_string(), line.logfmt("now", Level::INFO), line.json("now", Level::INFO)] {
            assert!(!text.chars().any(is_harmful), "{text:?}");
            assert_eq!(text.lines().count(), 1);
        }
    }

    #[test]
    fn json_is_json_with_numbers_as_numbers_and_the_queue_id_before_the_rest() {
        let text = hostile().json("2026-11-22T08:00:00Z", Level::WARN);
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((read["level"].as_str(), read["size"].as_u64()), (Some("warn"), Some(5)));
        assert_eq!(read["from"], read["queue_id"]);
    }

    #[test]
    fn logfmt_has_every_field_by_name() {
        let line = Line {
            queue_id: Some("4XYZ12".to_owned()),
            message: "judged".to_owned(),
            fields: vec![("decision", "tagged".into()), ("auth", "pass; reason=dmarc".into())],
        };
        let expected = "time=T level=info queue_id=4XYZ12 msg=judged decision=tagged auth=\"pass; reason=dmarc\"";
        assert_eq!(line.logfmt("T", Level::INFO), expected);
        assert_eq!(line.to_string(), "4XYZ12: judged decision=tagged auth=\"pass; reason=dmarc\"");
    }
}
