//! How many logins a second deskmilter's authentication service answers: from the cache, and computed anew.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Daemon, SaslClient, SaslReply, deskmilter};

/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(5);
/// Connections at a time: a busy MTA's.
const CONNECTIONS: u32 = 8;

fn main() {
    let folder = support::folder("bench");
    let (socket, configuration) = (folder.path().join("auth.sock"), folder.path().join("deskmilter.toml"));
    let text = format!(
        "[daemon]\nhostname = \"desk.example\"\nstate_directory = \"state\"\n[log]\nlevel = \"warn\"\n\
         [auth]\nlisten = [\"unix:{}\"]\n",
        socket.display()
    );
    std::fs::write(&configuration, text).expect("a configuration");
    let _daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
    let (user, password) = issue(&configuration);

    let right =
        measure(&socket, |client, _| client.plain(&user, &password, "192.0.2.1") == SaslReply::Ok(user.clone()));
    println!("from the cache:  {right:>8.0} logins/s, {CONNECTIONS} connections");
    // Each from an address of its own: no delays.
    let wrong = measure(&socket, |client, n| {
        let [a, b, c, d] = n.to_be_bytes();
        client.plain(&user, "wrong", &format!("2001:db8:{a:x}{b:02x}:{c:x}{d:02x}::1")) != SaslReply::Closed
    });
    println!("computed, wrong: {wrong:>8.0} logins/s, each of two Argon2id computations");
}

fn issue(configuration: &Path) -> (String, String) {
    let mut command = Command::new(deskmilter());
    command.args(["credential", "--json", "-c"]).arg(configuration).args(["issue", "--domain", "acme.example"]);
    let output = command.output().expect("deskmilter credential");
    let set: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an issued set");
    let text = |key: &str| set[key].as_str().expect("text").to_owned();
    (text("user"), text("password"))
}

/// Logins a second over all connections.
fn measure(socket: &Path, login: impl Fn(&mut SaslClient, u32) -> bool + Sync) -> f64 {
    let begun = Instant::now();
    let total: u32 = std::thread::scope(|scope| {
        let work = |connection: u32| {
            let login = &login;
            move || {
                let mut client = SaslClient::connect(socket);
                let mut count = 0;
                while begun.elapsed() < TIME {
                    if login(&mut client, connection * 1_000_000 + count) {
                        count += 1;
                    } else {
                        client = SaslClient::connect(socket);
                    }
                }
                count
            }
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(work(connection))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a measurement")).sum()
    });
    f64::from(total) / begun.elapsed().as_secs_f64()
}
