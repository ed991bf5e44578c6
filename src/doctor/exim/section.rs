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

/// `text` without its marked lines; `None` where a marker has lost its other one, so that nobody can tell which lines are ours.
pub(super) fn without_blocks(text: &str) -> Option<String> {
    let (mut kept, mut inside) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        match (line.trim(), inside) {
            (BEGIN, true) | (END, false) => return None,
            (BEGIN, false) => inside = true,
            (END, true) => {
                inside = false;
                if !line.ends_with('\n') {
                    // The file had no line end at its end; [`insert`] put one there.
                    kept.pop();
                }
            }
            (_, true) => {}
            (_, false) => kept.push_str(line),
        }
    }
    (!inside).then_some(kept)
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
            if out.ends_with('\n') {
                out.push_str(block);
            } else {
                out.push('\n');
                out.push_str(block.trim_end());
            }
        }
    }
    out
}

/// `text` with `block` before its line number `at`, counted from 0.
pub(super) fn insert_before(text: &str, block: &str, at: usize) -> String {
    let lines = text.split_inclusive('\n').enumerate();
    lines.map(|(n, line)| if n == at { format!("{block}{line}") } else { line.to_owned() }).collect()
}

/// The number of the line, counted from 0, by which the ACL `label` accepts unconditionally at its end, where no other statement
/// of it accepts or discards and nothing is included or left out there.
pub(super) fn accepting_line(text: &str, label: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begin = lines.iter().position(|line| *line == "begin acl")?;
    let acl = lines.iter().enumerate().skip(begin).skip_while(|(_, line)| **line != label).skip(1);
    let ends = |line: &str| line.starts_with("begin ") || (line.ends_with(':') && !line.contains(' '));
    let body: Vec<(usize, &str)> = acl.map(|(n, line)| (n, *line)).take_while(|(_, line)| !ends(line)).collect();
    let statements = body.iter().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let last = statements.clone().next_back()?;
    let accepts = |line: &str| ["accept", "discard"].iter().any(|verb| line.split(' ').next() == Some(*verb));
    let plain = |(_, line): &&(usize, &str)| !line.starts_with('.') && !line.ends_with('\\');
    let once = statements.clone().filter(|(_, line)| accepts(line)).count() == 1;
    (last.1 == "accept" && once && statements.clone().all(|line| plain(&line))).then_some(last.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_in_can_be_taken_out(lines in proptest::collection::vec("begin (acl|routers)|  driver = smtp|# x|a:|", 0..12), whole: bool) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let text = if whole { text } else { text.trim_end().to_owned() };
            let ours = block("  ", &["x = y".to_owned()]);
            let changed = insert(&text, &ours, |line, section| line == "driver = smtp" && section == "routers");
            let changed = insert(&changed, &ours, |line, _| line == "begin acl");
            prop_assert_eq!(without_blocks(&changed), Some(text));
        }
    }

    #[test]
    fn the_place_before_the_last_word_of_an_acl_is_found_and_only_where_nothing_goes_round_it() {
        let acl =
            |statements: &str| format!("x = y\nbegin acl\nother:\n  deny\ndata:\n{statements}\nnext:\n  accept\n");
        assert_eq!(accepting_line(&acl("  deny hosts = a\n  # last\n  accept\n"), "data:"), Some(7));
        for statements in [
            "  accept hosts = a\n  accept\n",
            "  deny\n",
            "  discard senders = :\n  accept\n",
            "  accept hosts = a\n",
            "  .include /etc/x\n  accept\n",
            "  deny hosts = a : \\\n  b\n  accept\n",
        ] {
            assert_eq!(accepting_line(&acl(statements), "data:"), None, "{statements}");
        }
        assert_eq!(accepting_line("data:\n  accept\n", "data:"), None);
        let text = acl("  accept\n");
        let ours = block("  ", &["x".to_owned()]);
        assert_eq!(without_blocks(&insert_before(&text, &ours, 5)), Some(text));
        // The last ACL of the file, or of its section.
        assert_eq!(accepting_line("begin acl\ndata:\n  accept\nbegin routers\nx:\n  accept\n", "data:"), Some(2));
    }

    #[test]
    fn where_a_marker_is_gone_no_line_is_taken_for_ours() {
        let ours = block("", &["x = y".to_owned()]);
        for (gone, left) in [(format!("{BEGIN}\n"), "begin"), (format!("{END}\n"), "end")] {
            let damaged = ours.replace(&gone, "");
            for text in [format!("a\n{damaged}b\n"), format!("a\n{damaged}b\n{ours}c\n")] {
                assert_eq!(without_blocks(&text), None, "without {left}: {text}");
            }
        }
    }

    #[test]
    fn sections_are_told_apart_and_comments_are_no_lines() {
        let text = "a = b\nbegin acl\n#begin routers\nx:\nbegin routers\nx:\n";
        assert_eq!(insert(text, "!\n", |line, section| line == "x:" && section == "routers"), format!("{text}!\n"));
    }
}
