//! Writes the manual pages and shell completions: `manual DIRECTORY` makes `man/` and `completions/` in it.
//!
//! In: the command line as the program defines it, and docs/configuration.md. Out: deskmilter(8), a page for each subcommand,
//! deskmilter.toml(5), and completions for bash, zsh and fish. So nothing in them can differ from the program or the document.

mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use deskmilter::cli::Arguments;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
/// What deskmilter(8) says besides the command line.
const DAEMON: &str = include_str!("../deskmilter.8.md");

/// A file to write: its name, and what is in it.
type File = (PathBuf, Vec<u8>);

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: manual DIRECTORY");
        return ExitCode::from(64);
    };
    for (name, content) in files() {
        let path = directory.join(name);
        let written = fs::create_dir_all(path.parent().unwrap_or(&directory)).and_then(|()| fs::write(&path, content));
        if let Err(error) = written {
            eprintln!("manual: {}: {error}", path.display());
            return ExitCode::from(73);
        }
    }
    ExitCode::SUCCESS
}

/// All files.
fn files() -> Vec<File> {
    let mut program = Arguments::command();
    program.build();
    let mut files = Vec::new();
    pages(&program, &mut files);
    let configuration = page::page("deskmilter.toml", 5, "configuration file of deskmilter", CONFIGURATION);
    files.push((Path::new("man").join("deskmilter.toml.5"), configuration.into_bytes()));
    for shell in Shell::value_variants() {
        let name = match shell {
            Shell::Bash => "deskmilter.bash",
            Shell::Zsh => "_deskmilter",
            Shell::Fish => "deskmilter.fish",
            _ => continue,
        };
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Arguments::command(), "deskmilter", &mut script);
        files.push((Path::new("completions").join(name), script));
    }
    files
}

/// The page of a command, and those of its subcommands.
fn pages(command: &Command, files: &mut Vec<File>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = Man::new(command.clone()).section("8").render(&mut text);
    let text = page::lint(&String::from_utf8_lossy(&text));
    // Its title has no place for a missing date.
    let rest = text.split_once(".SH NAME\n").map_or(text.as_str(), |(_, rest)| rest).replace("\\*(Aq", "\\(aq");
    let mut text = page::title(&name, 8, "System administration") + ".SH NAME\n" + &rest;
    let more = if command.has_subcommands() && name == "deskmilter" {
        DAEMON.to_owned()
    } else {
        "## See also\n\ndeskmilter(8), deskmilter.toml(5)\n".to_owned()
    };
    text.push_str(&page::body(&more));
    files.push((Path::new("man").join(format!("{name}.8")), text.into_bytes()));
    let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set());
    subcommands.for_each(|sub| pages(sub, files));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::process::Command as Process;

    fn manual() -> Vec<(String, String)> {
        let text = |(name, content): File| (name.display().to_string(), String::from_utf8(content).unwrap());
        files().into_iter().map(text).collect()
    }

    fn of(name: &str) -> String {
        let path = format!("man/{name}");
        manual().into_iter().find(|(name, _)| *name == path).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// As a reader sees it, all in one line.
    fn shown(page: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page");
        fs::write(&file, page).unwrap();
        let output = Process::new("mandoc").args(["-T", "utf8", "-O", "width=200"]).arg(&file).output().unwrap();
        // Bold and underline are overstrikes.
        let mut text: Vec<char> = Vec::new();
        for c in String::from_utf8(output.stdout).unwrap().chars() {
            if c == '\u{8}' {
                text.pop();
            } else {
                text.push(c);
            }
        }
        text.into_iter().collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_page_is_formatted_by_groff_and_by_mandoc_without_a_complaint() {
        let folder = tempfile::tempdir().unwrap();
        for (name, page) in manual().iter().filter(|(name, _)| name.starts_with("man/")) {
            let file = folder.path().join(name.trim_start_matches("man/"));
            fs::write(&file, page).unwrap();
            let man = Process::new("man")
                .env("LC_ALL", "C.UTF-8")
                .env("MANROFFSEQ", "")
                .env("MANWIDTH", "80")
                .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
                .arg(&file)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&man.stderr), "", "{name}");
            assert!(man.status.success());
            let mandoc = Process::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&file).output().unwrap();
            let told = String::from_utf8(mandoc.stdout).unwrap();
            // A date is left out on purpose: see page::title.
            let complaints: Vec<_> = told.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(complaints.is_empty(), "{name}: {complaints:?}");
        }
    }

    #[test]
    fn there_is_a_page_for_every_subcommand_and_the_daemon_s_names_them() {
        let mut program = Arguments::command();
        program.build();
        let main = of("deskmilter.8");
        for sub in program.get_subcommands().filter(|sub| sub.get_name() != "help") {
            assert!(of(&format!("deskmilter-{}.8", sub.get_name())).contains(".SH NAME"));
            assert!(
                main.contains(&format!("deskmilter\\-{}(8)", sub.get_name().replace('-', "\\-"))),
                "{}",
                sub.get_name()
            );
        }
    }

    /// The program itself tells which keys it knows: in what it says of one that it does not.
    #[test]
    fn every_key_that_the_program_knows_is_in_the_page() {
        let page = shown(&of("deskmilter.toml.5"));
        let connector = "[[connector]]\nname = \"a\"\ndomain = \"a.example\"\naddresses = []\n";
        let sections = [
            "",
            "[daemon]\n",
            "[log]\n",
            "[milter]\nlisten = []\n",
            "[transport]\ndirectory = \"/\"\n",
            "[authentication]\n",
            "[limits]\n",
            "[outbound]\n",
            "[[signing]]\ndomain = \"a\"\nselector = \"a\"\nkey_file = \"a\"\n",
            connector,
            &format!("{connector}[connector.endpoint]\nhost = \"a\"\ncredentials = []\n"),
            &format!("{connector}[connector.host]\ncredentials = []\n"),
            &format!("{connector}[connector.submission]\nlogins = []\n"),
            &format!("{connector}[connector.preserve]\n"),
            &format!("{connector}[[connector.dkim]]\nselector = \"a\"\nkey_file = \"a\"\n"),
        ];
        let mut keys = BTreeSet::new();
        for section in sections {
            let text = format!("{section}zzzzzzzzzzzzzz = 1\n");
            let problems = deskmilter::config::Config::parse(&text, Path::new("/x.toml")).unwrap_err().to_string();
            let known = problems.lines().find_map(|line| line.split_once("known here: "));
            let known = known.unwrap_or_else(|| panic!("{section}: {problems}")).1;
            keys.extend(known.split(", ").map(str::to_owned));
        }
        assert!(keys.len() > 60 && keys.contains("pid_file"), "{keys:?}");
        let missing: Vec<_> = keys.iter().filter(|key| !page.contains(key.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn completions_are_accepted_by_their_shells() {
        let script = manual().into_iter().find(|(name, _)| name.ends_with("deskmilter.bash")).unwrap().1;
        assert!(Process::new("bash").args(["-n", "-c", &script]).status().unwrap().success());
        assert_eq!(manual().iter().filter(|(name, _)| name.starts_with("completions/")).count(), 3);
    }
}
