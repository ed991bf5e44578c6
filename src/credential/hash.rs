//! Argon2id: the hash of a password, and the comparison with one.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

use super::LIVE_SETS_MAX;

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("the password cannot be hashed: {0}")]
pub struct HashError(String);

/// The hash of `password` as a PHC string, with a salt of its own: Argon2id with 19 MiB, two passes and one lane, which OWASP
/// recommends as the least. More would protect nothing here: the passwords have 138 bits, and nobody chooses them.
///
/// # Errors
/// No randomness, or no memory.
pub fn hash(password: &[u8]) -> Result<String, HashError> {
    let hash = Argon2::default().hash_password(password);
    hash.map(|hash| hash.to_string()).map_err(|error| HashError(error.to_string()))
}

/// The first of `hashes` that is of `password`, by its place. A password that is none of them takes as long as any other: as many
/// computations as there can be live sets, whether there is one, two or none. Blocks for some 20 ms each.
pub(super) fn position(password: &[u8], hashes: &[String]) -> Option<usize> {
    let found = hashes.iter().take(LIVE_SETS_MAX).position(|hash| is_of(password, hash));
    if found.is_none() {
        for _ in hashes.len()..LIVE_SETS_MAX {
            let _ = is_of(password, &DECOY);
        }
    }
    found
}

/// A hash in the store that cannot be read is of no password.
fn is_of(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// A hash with the parameters of all others, of a password that nobody has.
static DECOY: LazyLock<String> =
    LazyLock::new(|| super::new_password().ok().and_then(|password| hash(password.expose()).ok()).unwrap_or_default());

/// Makes the hash that unknown users are compared with, so that the first of them does not take longer.
pub(super) fn prepare() {
    LazyLock::force(&DECOY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_password_finds_its_set_and_no_other_does() {
        let hashes = [hash(b"one").unwrap(), hash(b"two").unwrap()];
        assert!(hashes.iter().all(|hash| hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$")), "{hashes:?}");
        assert_eq!(position(b"one", &hashes), Some(0));
        assert_eq!(position(b"two", &hashes), Some(1));
        for wrong in ["", "One", "one\0", "three"] {
            assert_eq!(position(wrong.as_bytes(), &hashes), None);
        }
        assert_eq!(position(b"one", &["nonsense".to_owned(), String::new()]), None);
        assert_eq!(position(b"one", &[]), None);
    }
}
