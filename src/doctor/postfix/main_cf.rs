//! Edits of `main.cf` that touch nobody else's line: what is added stands between two marker lines, and taking the marked
//! lines out again gives back the text that was there. Pure: text in, text out.
//!
//! postconf(5): a line that begins with white space continues the one before; empty lines and comments in between do not
//! end it; of several definitions the last one counts.

/// The lines around what is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Markers {
    /// The line before.
    pub(super) begin: &'static str,
    /// The line after.
    pub(super) end: &'static str,
}

/// The line before ours.
const BEGIN: &str = "# deskmilter begin: added by \"deskmilter postfix --apply\"; \"--undo\" takes it out";
/// The line after ours.
const END: &str = "# deskmilter end";

/// One value to be added at the end of a list parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterEdit {
    /// The parameter.
    pub name: &'static str,
    /// What to add.
    pub value: String,
}

/// The lines around what attaches us.
const ATTACHES: Markers = Markers { begin: BEGIN, end: END };

/// `main.cf` with `edit` made: one more continuation line for a parameter that is there, or the parameter at the end.
pub(super) fn append(text: &str, edit: &ParameterEdit) -> String {
    append_between(&ATTACHES, text, edit.name, &edit.value)
}

/// As [`append`], between other marker lines.
pub(super) fn append_between(markers: &Markers, text: &str, name: &str, value: &str) -> String {
    let Markers { begin, end } = markers;
    let (at, block) = match end_of_parameter(text, name) {
        Some(at) => (at, format!("    {begin}\n    {value}\n    {end}\n")),
        None => return set_between(markers, text, name, value),
    };
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{newline}{block}{after}")
}

/// `text` with the parameter `name` set to `value` by a line of its own at the end, where it counts.
pub(super) fn set(text: &str, name: &str, value: &str) -> String {
    set_between(&ATTACHES, text, name, value)
}

fn set_between(markers: &Markers, text: &str, name: &str, value: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}{}\n{name} = {value}\n{}\n", markers.begin, markers.end)
}

/// The octet after the last line of the last definition of `name`, line feed included.
fn end_of_parameter(text: &str, name: &str) -> Option<usize> {
    let (mut at, mut end, mut inside) = (0_usize, None, false);
    for line in text.split_inclusive('\n') {
        at = at.saturating_add(line.len());
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            inside = content.split_once('=').is_some_and(|(left, _)| left.trim_end() == name);
        }
        if inside {
            end = Some(at);
        }
    }
    end
}

/// The marked blocks of `text`, markers included, each with its indentation. An unclosed block ends with the text.
pub(super) fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.split_inclusive('\n') {
        if line.trim().starts_with("# deskmilter begin") {
            blocks.extend(block.take());
            block = Some(String::new());
        }
        if let Some(open) = &mut block {
            open.push_str(line);
            if line.trim() == END {
                blocks.extend(block.take());
            }
        }
    }
    blocks.extend(block);
    blocks
}

/// `text` without its marked blocks.
pub(super) fn without_blocks(text: &str) -> String {
    blocks(text).iter().fold(text.to_owned(), |text, block| text.replacen(block.as_str(), "", 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit(value: &str) -> ParameterEdit {
        ParameterEdit { name: "smtpd_milters", value: value.to_owned() }
    }

    #[test]
    fn an_existing_parameter_grows_by_a_continuation_line_and_nothing_else_changes() {
        let text = "a = b\nsmtpd_milters = inet:x:1,\n  # why\n\n  inet:y:2\n# next\nc = d\n";
        let changed = append(text, &edit("unix:z"));
        let expected = format!(
            "a = b\nsmtpd_milters = inet:x:1,\n  # why\n\n  inet:y:2\n    {BEGIN}\n    unix:z\n    {END}\n# next\nc = d\n"
        );
        assert_eq!(changed, expected);
        assert_eq!(without_blocks(&changed), text);
    }

    #[test]
    fn the_last_definition_counts_and_longer_names_are_other_parameters() {
        let text = "smtpd_milters = a\nnon_smtpd_milters = b\nsmtpd_milters=c\nsmtpd_milters_x = d";
        assert!(append(text, &edit("z")).contains("smtpd_milters=c\n    # deskmilter begin"));
    }

    #[test]
    fn a_missing_parameter_is_added_at_the_end_even_without_a_last_line_feed() {
        for text in ["", "a = b\n", "a = b", "# smtpd_milters = commented\n"] {
            let changed = append(text, &edit("unix:z"));
            assert!(changed.contains(&format!("{BEGIN}\nsmtpd_milters = unix:z\n{END}\n")), "{changed}");
            assert!(changed.starts_with(text));
        }
    }

    #[test]
    fn a_parameter_that_is_set_comes_last_and_leaves_the_line_that_was_there() {
        let text = "a = no\nb = c";
        let changed = set(text, "a", "yes");
        assert_eq!(changed, format!("{text}\n{BEGIN}\na = yes\n{END}\n"));
        assert_eq!(without_blocks(&changed).trim_end(), text);
    }

    proptest! {
        #[test]
        fn what_is_added_can_be_taken_out(lines in proptest::collection::vec("[ \t]{0,2}(smtpd_milters ?= ?x|a = b|#c|y,|)", 0..12)) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let once = append(&text, &edit("unix:z"));
            let twice = append(&once, &ParameterEdit { name: "transport_maps", value: "texthash:t".to_owned() });
            prop_assert_eq!(without_blocks(&twice), text);
            prop_assert_eq!(blocks(&twice).len(), 2);
        }
    }
}
