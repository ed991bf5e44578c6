//! What the documents say is true: their configurations are valid, no key and no log line is left out, commands and settings are those
//! that the programs take, and links lead somewhere.

#![cfg(test)]

mod book;
mod commands;
mod log_lines;
mod settings;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Begins each block that is a whole configuration.
const MARK: &str = "```toml\n# deskmilter.toml";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs"), root().join("postfix"), root().join("exim")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// A code block of a document.
struct Block {
    /// The document's path.
    document: String,
    /// What stands behind the opening fence: `toml`, `text`, or nothing.
    language: String,
    text: String,
}

/// All code blocks, those within lists too, without what they are indented by.
fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let name = document.strip_prefix(root()).unwrap().display().to_string();
        let mut open: Option<(Block, usize)> = None;
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(block, _)| block)),
                (None, Some(language)) => {
                    let block = Block { document: name.clone(), language: language.to_owned(), text: String::new() };
                    open = Some((block, indent));
                }
                (Some((block, by)), None) => {
                    block.text += line.get((*by).min(indent)..).unwrap_or_default();
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{name}: a code block has no end");
    }
    assert!(blocks.len() > 50, "{} code blocks", blocks.len());
    blocks
}

/// The whole configurations in a document.
fn configurations(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let blocks = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.filter(|block| block.starts_with("# deskmilter.toml")).map(str::to_owned).collect()
}

/// `deskmilter check` on a configuration in a folder that has the password file which it names.
fn check(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    // The key is base64, too.
    for name in ["acme.password", "acme-new.password", "acme.key"] {
        fs::write(folder.path().join(name), "s3cretkey123\n").unwrap();
        fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let file = folder.path().join("deskmilter.toml");
    // A user that the packages make.
    fs::write(&file, text.replace("user = \"deskmilter\"\n", "")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_deskmilter")).arg("check").arg("-c").arg(&file).output().unwrap()
}

#[test]
fn every_whole_configuration_in_the_documents_is_valid() {
    let mut found = 0;
    for document in documents() {
        assert_eq!(configurations(&document).len(), fs::read_to_string(&document).unwrap().matches(MARK).count());
        for text in configurations(&document) {
            found += 1;
            let output = check(&text);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{}: {complaint}\n{text}", document.display());
        }
    }
    assert!(found >= 4, "{found} configurations found");
}

#[test]
fn the_reference_names_every_key_that_check_prints() {
    let reference = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let text = configurations(&root().join("README.md")).remove(0);
    let printed = String::from_utf8(check(&text).stdout).unwrap();
    assert!(printed.contains("[connector.endpoint]"), "{printed}");
    for key in printed.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(reference.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
    }
}
