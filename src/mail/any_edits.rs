//! Header edits for tests: any that a verdict may hold.

use proptest::prelude::*;

use super::{Header, HeaderEdit};

/// Up to a dozen edits of a header section of as many fields; `text` is the pattern of a replaced field's value.
pub(crate) fn any_edits(text: &'static str) -> impl Strategy<Value = Vec<HeaderEdit>> {
    let edit = prop_oneof![
        (0usize..14).prop_map(|index| HeaderEdit::Remove { index }),
        (0usize..14, text).prop_map(|(index, text)| HeaderEdit::Replace { index, field: Header::written("?", &text) }),
        "[d-f]".prop_map(|text| HeaderEdit::Append(Header::written("b", &text))),
        "[a-c]".prop_map(|text| HeaderEdit::Prepend(Header::written("A", &text))),
    ];
    proptest::collection::vec(edit, 0..12)
}

/// The same edits of fields with these names: a field is replaced by one of its own name.
pub(crate) fn of_their_own_names(edits: Vec<HeaderEdit>, names: &[&str]) -> Vec<HeaderEdit> {
    let own = |edit| match edit {
        HeaderEdit::Replace { index, field } => {
            let name = names.get(index).copied().unwrap_or("a");
            HeaderEdit::Replace { index, field: Header::new(name.as_bytes(), field.value()) }
        }
        other => other,
    };
    edits.into_iter().map(own).collect()
}
