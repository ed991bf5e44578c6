//! A desk side: a daemon that checks logins, and the command that issues them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Daemon, SaslClient, deskmilter};

/// An issued set.
#[derive(Debug, Clone)]
pub struct Issued {
    pub number: i64,
    pub user: String,
    pub password: String,
}

/// A configuration with an authentication service and tables, and a daemon for it.
pub struct Desk {
    pub daemon: Daemon,
    folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Desk {
    /// One that uses the store `url`, with its socket in a folder of its own.
    pub fn start(url: &str) -> Self {
        let folder = support::folder("desk");
        let socket = folder.path().join("auth.sock");
        Self::start_at(url, folder, socket, "")
    }

    /// One whose service listens on `socket`, with further keys of `[daemon]`.
    pub fn start_at(url: &str, folder: tempfile::TempDir, socket: PathBuf, keys: &str) -> Self {
        let at = |name: &str| folder.path().join(name);
        let text = format!(
            "[daemon]\nhostname = \"desk.example\"\nstate_directory = \"state\"\n{keys}\n[store]\nurl = \"{url}\"\n\
             [auth]\nlisten = [\"unix:{}\"]\n[lookup]\nlisten = [\"unix:{}\"]\n",
            socket.display(),
            at("lookup.sock").display()
        );
        std::fs::write(at("deskmilter.toml"), text).unwrap();
        let sockets = [socket.clone(), at("lookup.sock")];
        let daemon = Daemon::start(&at("deskmilter.toml"), &sockets);
        Self { daemon, folder, socket }
    }

    /// One that gives up root for the user `name`, with its store in its state directory.
    pub fn start_as(name: &str) -> Self {
        let folder = support::folder("desk");
        let socket = folder.path().join("auth.sock");
        Self::start_at("sqlite:state/deskmilter.db", folder, socket, &format!("user = \"{name}\""))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn lookup(&self) -> PathBuf {
        self.folder.path().join("lookup.sock")
    }

    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    pub fn client(&self) -> SaslClient {
        SaslClient::connect(&self.socket)
    }

    /// `deskmilter credential` with these words.
    pub fn run(&self, words: &str) -> Output {
        credential(&self.configuration(), words)
    }

    /// As [`Self::run`], and it must succeed; what it printed.
    pub fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("--json {words}"));
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn issue(&self, words: &str) -> Issued {
        issued(&self.json(&format!("issue {words}")))
    }
}

pub fn issued(value: &Value) -> Issued {
    let text = |key: &str| value[key].as_str().unwrap().to_owned();
    Issued { number: value["number"].as_i64().unwrap(), user: text("user"), password: text("password") }
}

pub fn credential(configuration: &Path, words: &str) -> Output {
    let mut command = Command::new(deskmilter());
    command.arg("credential").arg("-c").arg(configuration).args(words.split_whitespace());
    command.output().unwrap()
}
