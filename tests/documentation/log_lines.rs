//! docs/troubleshooting.md has every WARN and ERROR line that the program can write, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::root;

/// A level and a message as the source has it, `{}` and all.
type Line = (&'static str, String);

fn messages(folder: &Path, found: &mut BTreeSet<Line>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            messages(&entry, found);
        } else if entry.extension().is_some_and(|kind| kind == "rs") && !entry.ends_with("tests.rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let text = without_tests(&text);
            for (name, level) in [("warn!(", "WARN"), ("error!(", "ERROR")] {
                for (at, _) in text.match_indices(name) {
                    let before = text[..at].chars().next_back().unwrap_or(' ');
                    if before.is_alphanumeric() || before == '_' {
                        continue;
                    }
                    let message = message(&text[at + name.len()..]);
                    found.insert((
                        level,
                        message.unwrap_or_else(|| panic!("{}: {name} without words", entry.display())),
                    ));
                }
            }
        }
    }
}

/// What stands above the tests of a file; those in a file of their own are only named.
fn without_tests(text: &str) -> &str {
    let mut marks = text.match_indices("\n#[cfg(test)]\n");
    let begins = |mark: &(usize, &str)| {
        let next = text[mark.0 + mark.1.len()..].lines().next().unwrap_or_default();
        next.contains("mod ") && next.ends_with('{')
    };
    marks.find(begins).map_or(text, |(at, _)| &text[..at])
}

/// The last string among a macro's own arguments that is no field's value.
fn message(arguments: &str) -> Option<String> {
    let (mut depth, mut last, mut before) = (1, None, ' ');
    let mut chars = arguments.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next()? {
                            // The line goes on where its words do.
                            '\n' => {
                                let rest = chars.as_str().trim_start();
                                chars = rest.chars();
                            }
                            c => text.push(c),
                        },
                        c => text.push(c),
                    }
                }
                if depth == 1 && before != '=' {
                    last = Some(text);
                }
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return last;
                }
            }
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    None
}

/// Whether `text` is `message` with something in the place of each `{...}`.
fn fits(text: &str, message: &str) -> bool {
    let Some((first, rest)) = message.split_once('{') else { return text == message };
    let Some(text) = text.strip_prefix(first) else { return false };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    (0..=text.len()).any(|at| text.is_char_boundary(at) && fits(&text[at..], after))
}

#[test]
fn the_page_on_troubleshooting_has_every_warn_and_error_line_of_the_program_and_no_other() {
    let mut messages_found = BTreeSet::new();
    messages(&root().join("src"), &mut messages_found);
    assert!(messages_found.len() > 50, "{messages_found:?}");
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let (level, rest) = line.strip_prefix("| ")?.split_once(" `")?;
        Some((level, rest.split_once("` |")?.0)).filter(|(level, _)| ["WARN", "ERROR"].contains(level))
    });
    let rows: Vec<(&str, &str)> = rows.collect();
    let is_row = |(level, message): &&Line| !rows.iter().any(|(other, text)| other == level && fits(text, message));
    let missing: Vec<_> = messages_found.iter().filter(is_row).collect();
    assert!(missing.is_empty(), "give these a row in docs/troubleshooting.md: {missing:#?}");
    let is_written = |(level, text): &&(&str, &str)| {
        !messages_found.iter().any(|(other, message)| other == level && fits(text, message))
    };
    let gone: Vec<_> = rows.iter().filter(is_written).collect();
    assert!(gone.is_empty(), "nobody writes these any more: {gone:#?}");
}

#[test]
fn a_message_is_told_from_the_fields_beside_it() {
    let told = |text: &str| message(text).unwrap();
    assert_eq!(told("a, reason = \"not this\", f(\"nor this\"), %b, \"but \\\n    this\");"), "but this");
    assert_eq!(told("x = g(\"{}\"), \"{remote}: say \\\"no\\\"\")"), "{remote}: say \"no\"");
    assert!(fits("endpoint: cannot", "{remote}: cannot") && !fits("endpoint: cannot now", "{remote}: cannot"));
    assert!(fits("by the endpoint", "by the {}") && !fits("by us", "by the {}"));
}
