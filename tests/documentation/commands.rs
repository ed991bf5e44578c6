//! Every command line of ours in the documents is one that the program takes.

use std::fs;

use clap::Parser;
use clap::error::ErrorKind;
use deskmilter::cli::Arguments;

use super::{blocks, documents, root};

/// What words may stand before the program's name.
const BEFORE: [&str; 4] = ["#", "$", "sudo", "/usr/bin/"];

/// What looks like one in a sentence: the texts that a MAC begins with.
const NO_COMMANDS: [&str; 2] = ["deskmilter verdict 1", "deskmilter seal 1"];

/// The commands in a line of a shell.
fn commands(line: &str) -> Vec<Vec<String>> {
    let without_remark = line.split("  #").next().unwrap_or_default();
    let parts = without_remark.split(['|', ';']).flat_map(|part| part.split("&&"));
    let commands = parts.filter_map(|part| {
        let words = words(part);
        let at = words
            .iter()
            .position(|word| word == "deskmilter" || (word.starts_with('/') && word.ends_with("/deskmilter")))?;
        let is_prefix = |word: &String| BEFORE.contains(&word.as_str());
        let user = words.first().is_some_and(|word| word == "sudo") && words.get(1).is_some_and(|word| word == "-u");
        let before = words.get(..at)?;
        (before.iter().all(is_prefix) || (user && at == 3)).then(|| words.get(at..).unwrap_or_default().to_vec())
    });
    commands.collect()
}

/// Words of a shell, as far as the documents use its quotes. An unquoted `#` begins a remark.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() && !words.is_empty() => return words,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What the program says of the arguments; they are not carried out. A name alone in a sentence may leave out what it needs.
fn complaint(command: &[String], is_mention: bool) -> Option<String> {
    // Its arguments are sendmail's.
    if command.get(1).is_some_and(|word| word == "submit") || command.iter().any(|word| word.contains("...")) {
        return None;
    }
    let error = Arguments::try_parse_from(command).err()?;
    let said = error.to_string();
    let incomplete = said.contains("a value is required")
        || matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
    // A word that stands for another, and a user that this host need not have.
    let is_stand_in = command.iter().any(|word| {
        let inner = word.trim_matches(['[', ']']);
        said.contains(&format!("'{word}'")) && inner.len() > 1 && inner.chars().all(|c| c.is_ascii_uppercase())
    });
    let harmless = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
        || (is_mention && incomplete)
        || is_stand_in
        || said.contains("no such user");
    (!harmless).then(|| format!("{}: {}", command.join(" "), said.lines().next().unwrap_or_default()))
}

#[test]
fn every_command_in_a_code_block_is_one_that_the_program_takes() {
    let (mut found, mut wrong) = (0, Vec::new());
    for block in blocks().iter().filter(|block| ["", "sh", "console"].contains(&block.language.as_str())) {
        for line in block.text.replace("\\\n", " ").lines() {
            for command in commands(line) {
                found += 1;
                wrong.extend(complaint(&command, false).map(|what| format!("{}: {what}", block.document)));
            }
        }
    }
    assert!(found > 25, "{found} commands found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_that_a_sentence_names_is_one_that_the_program_knows() {
    let (mut found, mut wrong) = (0, Vec::new());
    let manual = root().join("packaging/manual/deskmilter.8.md");
    for document in documents().into_iter().chain([manual]) {
        let text = fs::read_to_string(&document).unwrap();
        // Between the code blocks every second piece is code.
        let outside = text.split("```").step_by(2).collect::<Vec<_>>().join(" ");
        for code in outside.split('`').skip(1).step_by(2).filter(|code| code.starts_with("deskmilter ")) {
            let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
            if NO_COMMANDS.contains(&code.as_str()) {
                continue;
            }
            for command in commands(&code) {
                found += 1;
                wrong.extend(complaint(&command, true).map(|what| format!("{}: {what}", document.display())));
            }
        }
    }
    assert!(found > 50, "{found} commands found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_command_would_be_noticed() {
    let of = |line: &str| commands(line).iter().filter_map(|command| complaint(command, false)).count();
    assert_eq!(of("# deskmilter postfix --apply && systemctl restart deskmilter   # remark"), 0);
    assert_eq!(of("sudo -u deskmilter deskmilter check -c x.toml # a remark --wrong"), 0);
    assert_eq!(of("deskmilter postfix --aply"), 1);
    assert_eq!(of("x && deskmilter chek"), 1);
    assert_eq!(of("deskmilter audit --since \"next week\""), 1);
    assert_eq!(of("install -o deskmilter -g deskmilter x"), 0);
}
