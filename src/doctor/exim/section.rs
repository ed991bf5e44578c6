//! Marked lines in an Exim configuration file: put in without touching any other line, taken out again. Pure.

/// The line before ours.
const BEGIN: &str = "# deskmilter begin: added by \"deskmilter exim --apply\"; \"--undo\" takes it out";
/// The line after ours.
const END: &str = "# deskmilter end";

/// `lines` between markers, indented by `indent`.
pub(super) fn block(indent: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{indent}{line}\n")).collect();
    format!("{indent}{BEGIN}\n{lines}{indent}{END}\n")
}

/// `text` without its marked lines.
pub(super) fn without_blocks(text: &str) -> String {
    let mut inside = false;
    let kept = text.split_inclusive('\n').filter(|line| {
        let begins = line.trim() == BEGIN;
        let ends = inside && line.trim() == END;
        let ours = inside || begins;
        inside = (inside || begins) && !ends;
        !ours
    });
    kept.collect()
}

/// `text` with `block` after each line for which `after` holds; `after` sees each line trimmed, and the section it is in: empty
/// for the main section, otherwise what follows `begin`. Nothing is put after a line that goes on in the next one.
pub(super) fn insert(text: &str, block: &str, mut after: impl FnMut(&str, &str) -> bool) -> String {
    let (mut out, mut section) = (String::with_capacity(text.len().saturating_add(block.len())), String::new());
    for line in text.split_inclusive('\n') {
        out.push_str(line);
        let content = line.trim();
        if let Some(name) = content.strip_prefix("begin ") {
            name.trim().clone_into(&mut section);
        }
        if !content.starts_with('#') && after(content, &section) {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(block);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_in_can_be_taken_out(lines in proptest::collection::vec("begin (acl|routers)|  driver = smtp|# x|a:|", 0..12)) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let ours = block("  ", &["x = y".to_owned()]);
            let changed = insert(&text, &ours, |line, section| line == "driver = smtp" && section == "routers");
            let changed = insert(&changed, &ours, |line, _| line == "begin acl");
            prop_assert_eq!(without_blocks(&changed), text);
        }
    }

    #[test]
    fn sections_are_told_apart_and_comments_are_no_lines() {
        let text = "a = b\nbegin acl\n#begin routers\nx:\nbegin routers\nx:\n";
        assert_eq!(insert(text, "!\n", |line, section| line == "x:" && section == "routers"), format!("{text}!\n"));
    }
}
