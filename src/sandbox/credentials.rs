//! The sandbox's credentials: issued once, kept as Argon2id hashes, bound to a domain (M4).

use std::fs;
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Account, SandboxError, authority};
use crate::attach::smtp::Login;
use crate::config::{Secret, SecretFile};
use crate::mail::Domain;

/// Octets of randomness in a password: 24, which are 32 characters.
const PASSWORD_OCTETS: usize = 24;
/// Hashes computed at a time, each with 19 MiB: a flood of logins waits instead of taking the machine.
const COMPUTATIONS_MAX: usize = 2;
/// Octets of a password that are looked at, at most.
const PASSWORD_MAX: usize = 1024;

/// One set as it is kept in `credentials.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    domain: String,
    username: String,
    hash: String,
}

/// The credentials in force.
#[derive(Debug)]
pub(super) struct Credentials {
    sets: Vec<(Account, PasswordHash)>,
    /// Checked for unknown users, so that they take as long as known ones.
    decoy: PasswordHash,
    computations: Semaphore,
}

impl Credentials {
    /// Reads the sets of `accounts`, issuing those that are missing. Returns the new passwords, in the order of `accounts`.
    pub(super) fn open(directory: &Path, accounts: &[Account]) -> Result<(Self, Vec<Option<Secret>>), SandboxError> {
        let file = directory.join("credentials.json");
        let mut stored: Vec<Stored> = match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| {
                SandboxError(format!("{}: {error}; remove it to have new credentials issued", file.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(SandboxError::at(&file, error)),
        };
        let (mut sets, mut issued) = (Vec::new(), Vec::new());
        for account in accounts {
            if sets.iter().any(|(other, _): &(Account, _)| other.username == account.username) {
                return Err(SandboxError(format!("user name {} is given to two domains", account.username)));
            }
            let known = stored
                .iter()
                .find(|set| set.domain == account.domain.as_str() && set.username == account.username)
                .map(|set| set.hash.clone());
            let (hash, password) = match known {
                Some(hash) => {
                    no_password_left(account, &file)?;
                    (hash, None)
                }
                None => {
                    let password = new_password(account)?;
                    let hash = hash(password.expose())?.to_string();
                    stored.retain(|set| set.domain != account.domain.as_str());
                    stored.push(Stored {
                        domain: account.domain.to_string(),
                        username: account.username.clone(),
                        hash: hash.clone(),
                    });
                    (hash, Some(password))
                }
            };
            let hash = PasswordHash::new(&hash).map_err(|error| SandboxError::at(&file, error))?;
            sets.push((account.clone(), hash));
            issued.push(password);
        }
        let json = serde_json::to_vec_pretty(&stored).map_err(|error| SandboxError::at(&file, error))?;
        authority::replace(&file, &json, 0o600).map_err(|error| SandboxError::at(&file, error))?;
        let decoy = hash(random_password()?.expose())?;
        Ok((Self { sets, decoy, computations: Semaphore::new(COMPUTATIONS_MAX) }, issued))
    }

    /// Checks a login; returns the domain that it is good for. Takes as long whether the user is known or not.
    pub(super) async fn check(&self, login: Login) -> Option<Domain> {
        let known = self.sets.iter().find(|(account, _)| account.username == login.user);
        let hash = known.map_or(&self.decoy, |(_, hash)| hash).clone();
        let in_own_name = login.acts_as.is_empty() || login.acts_as == login.user;
        let password = login.password;
        if password.expose().len() > PASSWORD_MAX {
            return None;
        }
        let _permit = self.computations.acquire().await.ok()?;
        let verify = move || Argon2::default().verify_password(password.expose(), &hash).is_ok();
        let right = tokio::task::spawn_blocking(verify).await.unwrap_or(false);
        known.filter(|_| right && in_own_name).map(|(account, _)| account.domain.clone())
    }

    /// The domain that a user's credentials are bound to.
    pub(super) fn domain_of(&self, user: &str) -> Option<&Domain> {
        self.sets.iter().find(|(account, _)| account.username == user).map(|(account, _)| &account.domain)
    }
}

/// A password file that should be there but is not cannot be written again: only the hash is kept.
fn no_password_left(account: &Account, credentials: &Path) -> Result<(), SandboxError> {
    match &account.password_file {
        Some(file) if !file.exists() => Err(SandboxError(format!(
            "{}: the password of {} was issued earlier and only its hash is kept; remove {} to have new ones issued",
            file.display(),
            account.username,
            credentials.display()
        ))),
        _ => Ok(()),
    }
}

/// The password in the account's file, or a new one, written there when the account has a file.
fn new_password(account: &Account) -> Result<Secret, SandboxError> {
    let Some(file) = &account.password_file else { return random_password() };
    if file.exists() {
        return SecretFile::new(file).read_password().map_err(|error| SandboxError(error.to_string()));
    }
    let password = random_password()?;
    let line = [password.expose(), b"\n"].concat();
    authority::replace(file, &line, 0o600).map_err(|error| SandboxError::at(file, error))?;
    Ok(password)
}

fn random_password() -> Result<Secret, SandboxError> {
    let mut octets = zeroize::Zeroizing::new([0; PASSWORD_OCTETS]);
    aws_lc_rs::rand::fill(octets.as_mut_slice())
        .map_err(|_| SandboxError("no randomness from the system".to_owned()))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(octets.as_slice()).into_bytes()))
}

fn hash(password: &[u8]) -> Result<PasswordHash, SandboxError> {
    Argon2::default().hash_password(password).map_err(|error| SandboxError(format!("cannot hash a password: {error}")))
}
