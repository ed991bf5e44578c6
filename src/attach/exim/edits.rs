//! Header edits of a verdict as `remove_header` and `add_header` of an ACL carry them out as meant (Exim specification 44.24).
//!
//! - A field can only be removed with all others of its name. Those that stay are added again: at the end of the header
//!   section, in their order, which is the order that counts for signatures.
//! - What `add_header` adds survives a removal of the same name, in whatever order the ACL says it.
//! - `:at_start:` puts a line above all others, Exim's own Received included, so that of several the last is topmost: just
//!   what a [`HeaderEdit::Prepend`] is. A line without that goes to the end.
//! - Of identical lines Exim adds one. A line whose colon stands after a blank would become `X-ACL-Warn`: the blank goes.

use std::collections::HashSet;

use crate::mail::{Header, HeaderEdit, Headers};

/// What the ACL is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Names for `remove_header`.
    pub remove: Vec<String>,
    /// Lines for `add_header`, folds and ends as LF, without the last one.
    pub add: Vec<u8>,
    added: Vec<String>,
}

impl Change {
    /// Whether a field of this name is added.
    pub fn adds(&self, name: &str) -> bool {
        self.added.iter().any(|added| added.eq_ignore_ascii_case(name))
    }

    fn line(&mut self, place: &str, field: &Header) {
        if !self.add.is_empty() {
            self.add.push(b'\n');
        }
        self.add.extend_from_slice(place.as_bytes());
        self.add.extend_from_slice(field.name());
        self.add.push(b':');
        // A field holds CR and LF only as CRLF folds.
        self.add.extend(field.value().iter().copied().filter(|&octet| octet != b'\r'));
        self.added.push(String::from_utf8_lossy(field.name()).into_owned());
    }
}

/// The change for `edits`, whose indices mean `headers`.
pub fn change(edits: &[HeaderEdit], headers: &Headers) -> Change {
    let mut fates: Vec<Option<&Header>> = headers.iter().map(Some).collect();
    let mut touched: HashSet<Vec<u8>> = HashSet::new();
    let mut change = Change::default();
    let removed: HashSet<usize> = edits.iter().filter_map(removed).collect();
    for edit in edits {
        let (index, fate) = match edit {
            HeaderEdit::Remove { index } => (*index, None),
            HeaderEdit::Replace { index, field } => (*index, Some(field).filter(|_| !removed.contains(index))),
            HeaderEdit::Prepend(_) | HeaderEdit::Append(_) => continue,
        };
        if let (Some(place), Some(field)) = (fates.get_mut(index), headers.iter().nth(index)) {
            *place = fate;
            let name = field.name().to_ascii_lowercase();
            if !touched.contains(&name) {
                change.remove.push(String::from_utf8_lossy(field.name()).into_owned());
                touched.insert(name);
            }
        }
    }
    for (field, fate) in headers.iter().zip(fates) {
        if let Some(stays) = fate.filter(|_| touched.contains(&field.name().to_ascii_lowercase())) {
            change.line("", stays);
        }
    }
    for edit in edits {
        match edit {
            HeaderEdit::Append(field) => change.line("", field),
            HeaderEdit::Prepend(field) => change.line(":at_start:", field),
            HeaderEdit::Remove { .. } | HeaderEdit::Replace { .. } => {}
        }
    }
    change
}

fn removed(edit: &HeaderEdit) -> Option<usize> {
    match edit {
        HeaderEdit::Remove { index } => Some(*index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::any_edits::{any_edits, of_their_own_names};
    use proptest::prelude::*;

    fn headers(names: &[&str]) -> Headers {
        Headers::new(names.iter().enumerate().map(|(n, name)| Header::written(name, &n.to_string())).collect())
    }

    /// Exim's idea of a header section: what receive.c does with the two lists at the end of the ACL.
    fn carry_out(change: &Change, headers: &Headers) -> Vec<String> {
        let text = |field: &Header| String::from_utf8(field.raw().to_vec()).unwrap();
        let goes = |field: &Header| change.remove.iter().any(|name| field.is(name));
        let mut fields: Vec<String> = headers.iter().filter(|field| !goes(field)).map(text).collect();
        let added = String::from_utf8(change.add.clone()).unwrap();
        for line in added.split('\n').filter(|line| !line.is_empty()) {
            match line.strip_prefix(":at_start:") {
                Some(line) => fields.insert(0, line.to_owned()),
                None => fields.push(line.to_owned()),
            }
        }
        fields
    }

    #[test]
    fn what_stays_of_a_name_is_added_again_and_nothing_else_is_touched() {
        let mut section = headers(&["A", "B", "a", "C", "A"]);
        let replaced = Header::written("A", "new");
        let edits = [
            HeaderEdit::Remove { index: 0 },
            HeaderEdit::Replace { index: 4, field: replaced.clone() },
            HeaderEdit::Replace { index: 0, field: replaced },
            HeaderEdit::Remove { index: 99 },
            HeaderEdit::Prepend(Header::written("A", "one\r\n\ttwo")),
            HeaderEdit::Prepend(Header::written("X", "top")),
        ];
        let change = change(&edits, &section);
        assert_eq!(change.remove, ["A"]);
        assert_eq!(change.add, b"a: 2\nA: new\n:at_start:A: one\n\ttwo\n:at_start:X: top");
        section.apply(&edits);
        assert!(change.adds("x") && !change.adds("B"));
    }

    #[test]
    fn a_blank_before_the_colon_goes() {
        let section = Headers::new(vec![Header::new(b"A ", b" 1"), Header::new(b"A", b" 2")]);
        assert_eq!(change(&[HeaderEdit::Remove { index: 1 }], &section).add, b"A: 1");
    }

    proptest! {
        #[test]
        fn exim_ends_up_with_what_the_pipeline_meant_name_by_name(
            names in proptest::collection::vec("[aAbBc]", 0..12),
            edits in any_edits("[x-z]{1,2}"),
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let section = headers(&names);
            let edits = of_their_own_names(edits, &names);
            let mut meant = section.clone();
            meant.apply(&edits);
            let got = carry_out(&change(&edits, &section), &section);
            for name in ["a", "b", "c"] {
                let of = |fields: Vec<String>| -> Vec<String> {
                    fields.into_iter().filter(|field| field.to_lowercase().starts_with(name)).collect()
                };
                let meant = meant.iter().map(|h| String::from_utf8(h.raw().to_vec()).unwrap()).collect();
                prop_assert_eq!(of(got.clone()), of(meant));
            }
        }
    }
}
