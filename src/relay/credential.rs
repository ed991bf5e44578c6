//! What a session logs in with: a user name, and a secret that is read anew for each login, so that a replaced one counts at
//! once.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::clock::{Clock, Step};
use super::failure::{Cause, Failure};
use super::route::Route;
use super::token::{self, SharedTokenCommand};
use crate::config::{CredentialSet, HostCredential, Mechanism, Proof, Secret, SecretFile, Stamp};

/// How long we wait before a secret file that cannot be used is read once more: somebody may be writing it.
const REREAD_AFTER: Duration = Duration::from_millis(250);

/// A user name, and where its secret comes from.
#[derive(Debug)]
pub(super) struct Credential {
    pub username: String,
    pub mechanism: Mechanism,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Password(SecretFile),
    TokenFile(SecretFile),
    TokenCommand(SharedTokenCommand),
}

impl Credential {
    /// That of a ticket endpoint.
    pub fn of_endpoint(set: &CredentialSet) -> Self {
        let source = Source::Password(set.password_file.clone());
        Self { username: set.username.clone(), mechanism: Mechanism::Plain, source }
    }

    /// That of a company host.
    pub fn of_host(credential: &HostCredential) -> Self {
        let source = match &credential.proof {
            Proof::Password(file) => Source::Password(file.clone()),
            Proof::TokenFile(file) => Source::TokenFile(file.clone()),
            Proof::TokenCommand(words) => {
                Source::TokenCommand(SharedTokenCommand::new(token::TokenCommand::new(words.clone())))
            }
        };
        Self { username: credential.username.clone(), mechanism: credential.mechanism, source }
    }

    /// The secret's file as it is now; `None` when it is not there, and for a command.
    ///
    /// A session outlives the token that opened it: only a replaced file says that it must not be used further.
    pub async fn stamp(&self) -> Option<Stamp> {
        let file = match &self.source {
            Source::Password(file) | Source::TokenFile(file) => file,
            Source::TokenCommand(_) => return None,
        };
        tokio::fs::metadata(file.path()).await.ok().as_ref().map(Stamp::from)
    }

    /// The secret as it is now. `refused` is the one that the host has just refused: a command then makes another.
    pub async fn secret(&self, route: &Route, refused: Option<&Secret>, clock: Clock) -> Result<Secret, Failure> {
        let fail = |cause| Failure::new(&route.host, cause);
        let reading = clock.within(Step::Password, async {
            match &self.source {
                Source::Password(file) => {
                    let password = |file: SecretFile| file.read_password().map_err(|error| error.to_string());
                    read(file, password).await.map_err(Cause::Password)
                }
                Source::TokenFile(file) => {
                    let token = |file: SecretFile| {
                        let content = file.read().map_err(|error| error.to_string())?;
                        let granted = token::parse(content.expose());
                        Ok(granted.map_err(|text| format!("{}: {text}", file.path().display()))?.token)
                    };
                    read(file, token).await.map_err(Cause::Token)
                }
                Source::TokenCommand(command) => {
                    command.token(refused).await.map_err(|error| Cause::Token(error.to_string()))
                }
            }
        });
        match reading.await {
            Ok(read) => read.map_err(fail),
            Err(elapsed) => Err(Failure::timeout(&route.host, elapsed)),
        }
    }
}

/// The secret in a file; a file that cannot be used is read once more after 250 ms.
///
/// # Errors
/// As `content` says.
pub(crate) async fn read(
    file: &SecretFile,
    content: fn(SecretFile) -> Result<Secret, String>,
) -> Result<Secret, String> {
    let once = async || {
        let file = file.clone();
        spawn_blocking(move || content(file)).await.unwrap_or_else(|error| Err(error.to_string()))
    };
    match once().await {
        Ok(secret) => Ok(secret),
        Err(_) => {
            sleep(REREAD_AFTER).await;
            once().await
        }
    }
}
