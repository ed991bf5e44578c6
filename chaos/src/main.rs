//! `make chaos`: 10,000 messages each way while everything fails; ends with 0 only if none is lost and each double is explained.

use std::process::ExitCode;

use chaos::{Mode, Plan};

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("chaos: private mail servers must be started as root; run: sudo make chaos");
        return ExitCode::FAILURE;
    }
    let number = |name: &str, unless_set: usize| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text} is no number")),
        Err(_) => Ok(unless_set),
    };
    let modes = match std::env::var("CHAOS_MODE").as_deref() {
        Ok("transport") => vec![Mode::Transport],
        Ok("inline") => vec![Mode::Inline],
        Ok("both") | Err(_) => vec![Mode::Transport, Mode::Inline],
        Ok(other) => {
            eprintln!("chaos: CHAOS_MODE={other} is not transport, inline or both");
            return ExitCode::FAILURE;
        }
    };
    let (messages, clients) = match (number("CHAOS_MESSAGES", 10_000), number("CHAOS_CLIENTS", 32)) {
        (Ok(messages), Ok(clients)) => (messages, clients),
        (Err(message), _) | (_, Err(message)) => {
            eprintln!("chaos: {message}");
            return ExitCode::FAILURE;
        }
    };
    let keep = std::env::var_os("CHAOS_KEEP").map(std::path::PathBuf::from);
    let mut good = true;
    for mode in modes {
        println!("{mode}: {messages} messages by {clients} clients");
        let keep = keep.as_ref().map(|folder| folder.join(mode.to_string()));
        let outcome = chaos::run(&Plan { mode, messages, clients, keep }, true);
        print!("{outcome}");
        for complaint in outcome.complaints() {
            good = false;
            println!("FAILED: {complaint}");
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
