//! Keys of the configuration file: which one stands where, and what an unknown one may have meant.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_ignored::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{log, metrics, raw, raw_delivery, raw_desk};

/// A key that means nothing to us.
#[derive(Debug)]
pub(super) struct UnknownKey {
    /// Its place in the file.
    pub(super) span: Range<usize>,
    /// The key, dotted.
    pub(super) key: String,
    /// What may have been meant.
    pub(super) suggestion: Option<&'static str>,
    /// All keys that are known there.
    pub(super) known: &'static [&'static str],
}

/// One step from the top of the file to a key.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The steps of a path as `serde_ignored` gives it.
pub(super) fn steps(path: &Path<'_>) -> Vec<Step> {
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => push(steps(parent), Step::Index(*index)),
        // `Spanned` wraps its value in a struct whose field names begin like this.
        Path::Map { parent, key } if key.starts_with("$__serde_spanned") => steps(parent),
        Path::Map { parent, key } => push(steps(parent), Step::Key(key.clone())),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => steps(parent),
    }
}

fn push(mut steps: Vec<Step>, step: Step) -> Vec<Step> {
    steps.push(step);
    steps
}

/// What to say of the unknown key at the end of `steps`.
pub(super) fn describe(steps: &[Step], document: &DeTable<'_>) -> UnknownKey {
    let keys: Vec<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    let (name, section) = keys.split_last().map_or(("", &[][..]), |(name, section)| (*name, section));
    let known = known_keys(section);
    let suggestion = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 3.min(candidate.len() / 2))
        .min()
        .map(|(_, candidate)| candidate);
    UnknownKey { span: span_of(steps, document), key: keys.join("."), suggestion, known }
}

/// The key whose value stands at `offset` in the file, dotted; empty at the top.
pub(super) fn key_at(offset: usize, document: &DeTable<'_>) -> String {
    let mut keys: Vec<&str> = Vec::new();
    let mut table = Some(document);
    while let Some((key, value)) = table.and_then(|table| table.iter().find(|(_, value)| holds(value, offset))) {
        keys.push(key.get_ref());
        let mut value = value.get_ref();
        while let Some(inner) = value.as_array().and_then(|array| array.iter().find(|value| holds(value, offset))) {
            value = inner.get_ref();
        }
        table = value.as_table();
    }
    keys.join(".")
}

/// Whether `offset` is in `value`; a table made of sections holds what its entries hold.
fn holds(value: &Spanned<DeValue<'_>>, offset: usize) -> bool {
    value.span().contains(&offset)
        || value.get_ref().as_table().is_some_and(|table| table.iter().any(|(_, value)| holds(value, offset)))
        || value.get_ref().as_array().is_some_and(|array| array.iter().any(|value| holds(value, offset)))
}

fn known_keys(section: &[&str]) -> &'static [&'static str] {
    match section {
        [] => fields_of::<raw::Raw>(),
        ["daemon"] => fields_of::<raw::Daemon>(),
        ["log"] => fields_of::<log::Raw>(),
        ["milter"] => fields_of::<raw::Milter>(),
        ["exim"] => fields_of::<raw::Exim>(),
        ["transport"] => fields_of::<raw::Transport>(),
        ["authentication"] => fields_of::<raw::Authentication>(),
        ["limits"] => fields_of::<raw::Limits>(),
        ["connector"] => fields_of::<raw::Connector>(),
        ["connector", "submission"] => fields_of::<raw::Submission>(),
        ["connector", "submission", "logins"] => fields_of::<raw::Login>(),
        ["connector", "preserve"] => fields_of::<raw::Preserve>(),
        ["connector", "dkim"] => fields_of::<raw::Dkim>(),
        ["outbound"] => fields_of::<raw::Outbound>(),
        ["signing"] => fields_of::<raw::Signing>(),
        ["store"] => fields_of::<raw::Store>(),
        ["credentials"] => fields_of::<raw::Credentials>(),
        ["auth"] => fields_of::<raw::Auth>(),
        ["lookup"] => fields_of::<raw::Lookup>(),
        ["conversations"] => fields_of::<raw_desk::Conversations>(),
        ["connector", "desk"] => fields_of::<raw_desk::Desk>(),
        ["metrics"] => fields_of::<metrics::Raw>(),
        ["connector", "host"] => fields_of::<raw::Host>(),
        ["connector", "delivery"] => fields_of::<raw_delivery::Delivery>(),
        ["connector", "delivery", "queues"] => fields_of::<raw_delivery::QueueOf>(),
        ["connector", "host", "credentials"] => fields_of::<raw::HostCredential>(),
        ["connector", "endpoint"] => fields_of::<raw::Endpoint>(),
        ["connector", "endpoint", "credentials"] => fields_of::<raw::CredentialSet>(),
        _ => &[],
    }
}

/// Where the last key of `steps` stands; the beginning of the file when it cannot be found.
fn span_of(steps: &[Step], document: &DeTable<'_>) -> Range<usize> {
    let mut table = Some(document);
    let mut array = None;
    let mut span = 0..0;
    for step in steps {
        let value = match step {
            Step::Key(name) => {
                table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name)).map(|(key, value)| {
                    span = key.span();
                    value.get_ref()
                })
            }
            Step::Index(index) => {
                array.and_then(|array: &toml::de::DeArray<'_>| array.get(*index)).map(|value| value.get_ref())
            }
        };
        table = value.and_then(DeValue::as_table);
        array = value.and_then(DeValue::as_array);
    }
    span
}

/// The field names that serde knows for a struct: asks its `Deserialize` and answers with an error.
fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Ask<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only asked for its fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
            tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // The answer is always the error above; the fields are what was asked for.
    let _ = T::deserialize(Ask(&mut fields));
    fields
}
