//! `deskmilter submit`: what a ticket system calls as `sendmail`.
//!
//! In: sendmail's arguments and a message on standard input. Out: an exit code of sysexits(3). The message goes by LMTP to the
//! daemon's socket of the connector whose domain is the sender's; no secret is read here, and nothing is kept: what the daemon
//! did not take is still the caller's, which the exit code says.

mod address_list;
mod arguments;
mod deliver;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/submit.rs"]
pub(crate) mod fuzzing;
mod message;
mod outcome;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path as FilePath, PathBuf};

use crate::config::SubmissionSocket;
use crate::mail::{Address, Path};
use arguments::{Arguments, Task};
use message::Message;
pub use outcome::Failure;
use outcome::{EX_CONFIG, EX_DATAERR, EX_IOERR, EX_NOPERM, EX_USAGE};

/// The configuration file unless told.
const CONFIGURATION: &str = "/etc/deskmilter/deskmilter.toml";
/// Octets of a message at most (256 MiB): more than any host takes, it is held in memory.
const MESSAGE_MAX: u64 = 256 << 20;
/// Recipients of a message at most: as many as the daemon takes.
const RECIPIENTS_MAX: usize = 1_000;

/// Runs with the arguments after the program's name. Returns the exit code; complaints go to standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match submit(arguments) {
        Ok(()) => 0,
        Err(failure) => {
            complain(&format!("deskmilter submit: {failure}"));
            failure.code
        }
    }
}

/// Writes a line to standard error. Where nobody reads it, the exit code must still say what became of the message: whoever is told
/// of a failure sends it again.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Arguments, message, sender, recipients, socket, delivery.
fn submit(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let arguments = Arguments::parse(arguments)?;
    if arguments.task == Task::Nothing {
        return Ok(());
    }
    let configuration = arguments.configuration.clone().unwrap_or_else(|| PathBuf::from(CONFIGURATION));
    let sockets = SubmissionSocket::all(&configuration).map_err(|text| Failure::new(EX_CONFIG, text))?;
    let mut message = Message::read(&standard_input()?, arguments.ignores_dots);

    let origin = origin(&sockets);
    let mut recipients = Vec::new();
    for list in &arguments.recipients {
        recipients.extend(addresses(list)?);
    }
    if arguments.reads_recipients {
        recipients.extend(message.recipients().map_err(|text| Failure::new(EX_DATAERR, text))?);
    }
    let recipients =
        recipients.iter().map(|address| path(&qualified(address, &origin))).collect::<Result<Vec<_>, _>>()?;
    match recipients.len() {
        0 if arguments.reads_recipients => return Err(Failure::new(EX_DATAERR, "no recipient in To, Cc or Bcc")),
        0 => return Err(Failure::new(EX_USAGE, "no recipient: name one, or write -t to take those of the message")),
        1..=RECIPIENTS_MAX => {}
        _ => return Err(Failure::new(EX_USAGE, format!("more than {RECIPIENTS_MAX} recipients"))),
    }

    let sender = match &arguments.sender {
        Some(told) => sender(told)?,
        None => message.author().unwrap_or_else(user),
    };
    let sender = if sender.is_empty() { Path::null() } else { path(&qualified(&sender, &origin))? };
    message.complete(&sender, arguments.full_name.as_deref(), &origin);
    let speaker = if sender.is_null() { message.author().unwrap_or_default() } else { sender.as_str().to_owned() };
    let socket = socket_for(&sockets, &qualified(&speaker, &origin), &configuration)?;
    let replies = deliver::deliver(&socket.path, &sender, &unique(recipients), &message.wire(), &origin)?;
    if arguments.is_verbose {
        replies.iter().for_each(|(recipient, reply)| complain(&format!("{recipient} {reply}")));
    }
    outcome::of(&replies)
}

fn addresses(list: &str) -> Result<Vec<String>, Failure> {
    address_list::addresses(list).map_err(|text| Failure::new(EX_DATAERR, text))
}

/// The one address of `-f`; nothing at all and `<>` are the null sender, and what cannot be read is not.
fn sender(told: &str) -> Result<String, Failure> {
    if told.trim().is_empty() {
        return Ok(String::new());
    }
    match <[String; 1]>::try_from(addresses(told)?) {
        Ok([sender]) => Ok(sender),
        Err(_) => Err(Failure::new(EX_DATAERR, format!("{told:?} is not one address; the sender is one"))),
    }
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(MESSAGE_MAX.saturating_add(1)).read_to_end(&mut input);
    read.map_err(|error| Failure::new(EX_IOERR, format!("standard input: {error}")))?;
    if input.len() as u64 > MESSAGE_MAX {
        return Err(Failure::new(EX_DATAERR, format!("a message of more than {MESSAGE_MAX} octets")));
    }
    Ok(input)
}

/// What is put behind the `@` of a bare name: the domain, where there is one alone, else this host's name.
fn origin(sockets: &[SubmissionSocket]) -> String {
    match sockets.split_first() {
        Some((first, others)) if others.iter().all(|other| other.domain == first.domain) => first.domain.to_string(),
        _ => nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into()),
    }
}

fn user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    user.ok().flatten().map_or_else(|| "nobody".to_owned(), |user| user.name)
}

fn qualified(address: &str, origin: &str) -> String {
    if address.contains('@') { address.to_owned() } else { format!("{address}@{origin}") }
}

fn path(address: &str) -> Result<Path, Failure> {
    let parsed = Path::parse(address.as_bytes());
    parsed.map_err(|error| Failure::new(EX_DATAERR, format!("{:?} is no address: {error}", address)))
}

/// Each recipient once, in order.
fn unique(paths: Vec<Path>) -> Vec<Path> {
    let mut seen = std::collections::HashSet::new();
    paths.into_iter().filter(|path| seen.insert(path.clone())).collect()
}

/// The connector that has the sender among its addresses, else the one of its domain, else the one whose native domain it is:
/// the daemon says there why that does not go.
fn socket_for<'s>(
    sockets: &'s [SubmissionSocket],
    sender: &str,
    configuration: &FilePath,
) -> Result<&'s SubmissionSocket, Failure> {
    let nobody = |text: String| Failure::new(EX_NOPERM, text);
    let address =
        Address::parse(sender).map_err(|error| nobody(format!("sender {sender:?} is no address: {error}")))?;
    let base = address.without_extension('+').unwrap_or_else(|| address.clone());
    let own = sockets.iter().find(|socket| socket.addresses.contains(&address) || socket.addresses.contains(&base));
    let found = own
        .or_else(|| sockets.iter().find(|socket| socket.domain == *address.domain()))
        .or_else(|| sockets.iter().find(|socket| socket.native_domain.as_ref() == Some(address.domain())));
    found.ok_or_else(|| {
        nobody(format!(
            "sender {address}: no connector with [connector.host] in {} is for {}; name a support address with -f",
            configuration.display(),
            address.domain()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_is_the_null_sender() {
        assert_eq!([sender("").unwrap(), sender(" ").unwrap(), sender("<>").unwrap()], ["", "", ""]);
        assert_eq!(sender("Desk <support@acme.example>").unwrap(), "support@acme.example");
        for told in
            ["a@b.example, c@d.example", "()", ";", "team:;", "\"x", "<a@b.example", "a@b.example\n<c@d.example>x@y"]
        {
            assert_eq!(sender(told).map_err(|failure| failure.code), Err(EX_DATAERR), "{told:?}");
        }
    }
}
