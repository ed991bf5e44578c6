//! Header edits of a verdict as responses that Postfix and Sendmail both carry out as meant.
//!
//! - A field is deleted by its name and its ordinal among the fields of that name. Postfix renumbers after each deletion,
//!   Sendmail does not: only from the last to the first do both mean the same (CVE-2022-48521 came of the other order).
//! - A field is replaced in its place by the same name and ordinal, in the same backward order; neither MTA renumbers for it.
//! - All deletions go before all insertions. Ordinals do not count the top field, which is the MTA's own Received and not
//!   shown to milters; once something is inserted above, Postfix takes *that* for the top field and counts its Received.
//! - Where `header_checks` has already dropped Postfix's own Received, the first field of the message is taken for it:
//!   neither shown to milters nor deleted by ordinal (go-milter issue 31). No milter can help that; what a forged field
//!   could do there is defended against after the queue.

use std::collections::HashMap;

use bytes::BytesMut;

use super::response::Response;
use crate::mail::{Header, HeaderEdit, Headers, RecipientEdit};

/// Appends the responses for `edits`, whose indices mean `headers`.
pub fn write(edits: &[HeaderEdit], headers: &Headers, leading_space: bool, wire: &mut BytesMut) {
    for (ordinal, name, change) in changes(edits, headers).into_iter().rev() {
        match change {
            Change::Delete => Response::DeleteHeader { ordinal, name }.write(wire),
            Change::Replace(field) => Response::ChangeHeader { ordinal, field, leading_space }.write(wire),
        }
    }
    for edit in edits {
        if let HeaderEdit::Append(field) = edit {
            Response::AppendHeader { field, leading_space }.write(wire);
        }
    }
    for edit in edits {
        if let HeaderEdit::Prepend(field) = edit {
            Response::PrependHeader { field, leading_space }.write(wire);
        }
    }
}

/// Appends the responses for edits to the recipients.
pub fn write_recipients(edits: &[RecipientEdit], wire: &mut BytesMut) {
    for edit in edits {
        match edit {
            RecipientEdit::Add(path) => Response::AddRecipient(path).write(wire),
            RecipientEdit::Remove(path) => Response::RemoveRecipient(path).write(wire),
        }
    }
}

/// What becomes of one field.
#[derive(Clone, Copy)]
enum Change<'a> {
    Delete,
    Replace(&'a Header),
}

/// Ordinal and name of each field to be changed, in the order of the fields. One pass, however many there are.
fn changes<'a>(edits: &'a [HeaderEdit], headers: &'a Headers) -> Vec<(u32, &'a [u8], Change<'a>)> {
    let mut marks: Vec<Option<Change<'a>>> = vec![None; headers.len()];
    let mut any = false;
    for edit in edits {
        let (index, change) = match edit {
            HeaderEdit::Remove { index } => (*index, Change::Delete),
            HeaderEdit::Replace { index, field } => (*index, Change::Replace(field)),
            HeaderEdit::Prepend(_) | HeaderEdit::Append(_) => continue,
        };
        if let Some(mark) = marks.get_mut(index).filter(|mark| !matches!(mark, Some(Change::Delete))) {
            *mark = Some(change);
            any = true;
        }
    }
    if !any {
        return Vec::new();
    }
    let mut ordinals: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut changes = Vec::new();
    for (field, mark) in headers.iter().zip(marks) {
        let ordinal = ordinals.entry(field.name().to_ascii_lowercase()).or_default();
        *ordinal = ordinal.saturating_add(1);
        if let Some(change) = mark {
            changes.push((*ordinal, field.name(), change));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::milter::frame::FrameDecoder;
    use crate::mail::Header;
    use crate::mail::any_edits::{any_edits, of_their_own_names};
    use proptest::prelude::*;
    use tokio_util::codec::Decoder;

    /// An MTA's idea of the header section, its own Received on top.
    struct Mta {
        fields: Vec<(String, bool)>,
        renumbers: bool,
    }

    impl Mta {
        /// Carries out edits as cleanup_milter.c does (`renumbers`), or as Sendmail, which keeps counting what is deleted.
        fn carry_out(&mut self, wire: &mut BytesMut) {
            while let Some(frame) = FrameDecoder.decode(wire).unwrap() {
                if frame.code == b'h' {
                    let mut strings = frame.payload.split(|&b| b == 0).map(|s| String::from_utf8(s.to_vec()).unwrap());
                    let (name, value) = (strings.next().unwrap(), strings.next().unwrap());
                    self.fields.push((format!("{name}:{value}"), false));
                    continue;
                }
                let (position, strings) = frame.payload.split_at(4);
                let position = u32::from_be_bytes(position.try_into().unwrap());
                let mut strings = strings.split(|&b| b == 0).map(|s| String::from_utf8(s.to_vec()).unwrap());
                let (name, value) = (strings.next().unwrap(), strings.next().unwrap());
                if frame.code == b'i' {
                    assert_eq!(position, 0);
                    self.fields.insert(0, (format!("{name}:{value}"), false));
                    continue;
                }
                assert!(frame.code == b'm' && position >= 1);
                let is_named = |field: &str| field.split(':').next().unwrap().eq_ignore_ascii_case(&name);
                let hit = self
                    .fields
                    .iter()
                    .enumerate()
                    .skip(1)
                    .filter(|(_, (field, deleted))| is_named(field) && !(self.renumbers && *deleted))
                    .nth(position as usize - 1)
                    .map(|(at, _)| at)
                    .expect("the field is there");
                if value.is_empty() {
                    self.fields[hit].1 = true;
                } else {
                    // Postfix takes the name from us, Sendmail keeps its own.
                    let name = if self.renumbers { &name } else { self.fields[hit].0.split(':').next().unwrap() };
                    self.fields[hit].0 = format!("{name}:{value}");
                }
            }
        }

        fn left(self) -> Vec<String> {
            self.fields.into_iter().filter(|(_, deleted)| !deleted).map(|(field, _)| field).collect()
        }
    }

    fn headers(names: &[&str]) -> Headers {
        Headers::new(names.iter().enumerate().map(|(n, name)| Header::written(name, &n.to_string())).collect())
    }

    #[test]
    fn deletions_run_from_the_last_to_the_first_and_before_insertions() {
        let headers = headers(&["A", "b", "a", "B", "A"]);
        let edits = [
            HeaderEdit::Prepend(Header::written("X", "1")),
            HeaderEdit::Remove { index: 0 },
            HeaderEdit::Remove { index: 2 },
            HeaderEdit::Remove { index: 3 },
            HeaderEdit::Remove { index: 2 },
            HeaderEdit::Remove { index: 99 },
        ];
        let mut wire = BytesMut::new();
        write(&edits, &headers, true, &mut wire);
        let mut said = Vec::new();
        while let Some(frame) = FrameDecoder.decode(&mut wire).unwrap() {
            said.push((frame.code, frame.payload.to_vec()));
        }
        assert_eq!(
            said,
            [
                (b'm', b"\0\0\0\x02B\0\0".to_vec()),
                (b'm', b"\0\0\0\x02a\0\0".to_vec()),
                (b'm', b"\0\0\0\x01A\0\0".to_vec()),
                (b'i', b"\0\0\0\0X\0 1\0".to_vec()),
            ]
        );
    }

    #[test]
    fn ten_thousand_forged_fields_are_deleted_in_one_pass() {
        let headers = headers(&vec!["Authentication-Results"; 10_000]);
        let edits: Vec<_> = (0..10_000).map(|index| HeaderEdit::Remove { index }).collect();
        let found = changes(&edits, &headers);
        assert_eq!(found.len(), 10_000);
        assert_eq!(found.last().unwrap().0, 10_000);
    }

    proptest! {
        #[test]
        fn postfix_and_sendmail_end_up_with_what_the_pipeline_meant(
            names in proptest::collection::vec("[aAbB]|Received", 0..12),
            edits in any_edits("[x-z]{0,1}"),
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let headers = headers(&names);
            let edits = of_their_own_names(edits, &names);
            let mut meant = headers.clone();
            let own = "Received: own".to_owned();
            meant.apply(&edits);
            let prepended = edits.iter().filter(|e| matches!(e, HeaderEdit::Prepend(_))).count();
            let mut meant: Vec<String> = meant.iter().map(|h| String::from_utf8(h.raw().to_vec()).unwrap()).collect();
            meant.insert(prepended, own.clone());
            for renumbers in [true, false] {
                let fields = std::iter::once(own.clone())
                    .chain(headers.iter().map(|h| String::from_utf8(h.raw().to_vec()).unwrap()))
                    .map(|field| (field, false))
                    .collect();
                let mut mta = Mta { fields, renumbers };
                let mut wire = BytesMut::new();
                write(&edits, &headers, true, &mut wire);
                mta.carry_out(&mut wire);
                prop_assert_eq!(mta.left(), meant.clone());
            }
        }
    }
}
