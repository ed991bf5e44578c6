//! The private keys that a configuration names, read and checked on all processors: one RSA key takes a fifth of a millisecond,
//! and ten thousand are to be ready within a second or two.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;

use super::SecretFile;
use crate::dkim::{KeyError, SigningKey};

/// Keys that a thread of its own is worth.
const KEYS_A_THREAD: usize = 64;

/// Keys that were read and checked before, by files that have not changed since.
pub type KnownKeys = HashMap<SecretFile, Arc<SigningKey>>;

type Loaded = Result<Arc<SigningKey>, KeyError>;

/// Keys by their file; one that several entries name is read once.
#[derive(Debug, Default)]
pub(super) struct KeyFiles {
    loaded: HashMap<SecretFile, Loaded>,
}

impl KeyFiles {
    /// Reads the keys in `files` that are not `known`, with what is wrong where one cannot be used.
    pub(super) fn load(files: impl IntoIterator<Item = SecretFile>, known: KnownKeys) -> Self {
        let mut files: Vec<SecretFile> = files.into_iter().filter(|file| !known.contains_key(file)).collect();
        files.sort_unstable_by(|one, other| one.path().cmp(other.path()));
        files.dedup();
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = files.len().div_ceil(processors).max(KEYS_A_THREAD);
        let load = |share: &[SecretFile]| -> Vec<(SecretFile, Loaded)> {
            share.iter().map(|file| (file.clone(), SigningKey::load(file).map(Arc::new))).collect()
        };
        let loaded = std::thread::scope(|scope| {
            let mut shares = files.chunks(share);
            let own = shares.next();
            let threads: Vec<_> = shares.map(|share| scope.spawn(move || load(share))).collect();
            let own = own.map(load).unwrap_or_default();
            // What a thread has left out, `get` reads.
            let others = threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default());
            let known = known.into_iter().map(|(file, key)| (file, Ok(key)));
            known.chain(own).chain(others).collect()
        });
        Self { loaded }
    }

    /// The key in `file`.
    ///
    /// # Errors
    /// As [`SigningKey::load`].
    pub(super) fn get(&mut self, file: &SecretFile) -> Result<Arc<SigningKey>, KeyError> {
        if let Some(Ok(key)) = self.loaded.get(file) {
            return Ok(Arc::clone(key));
        }
        // An error can be told once; whoever else names the file meets it anew.
        match self.loaded.remove(file) {
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => SigningKey::load(file).map(Arc::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::dkim::NewKey;

    #[test]
    fn of_hundreds_of_files_each_gives_its_own_key_or_its_own_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = |n: usize| SecretFile::new(folder.path().join(format!("{n}.pem")));
        for n in (0..300).filter(|n| n % 100 != 7) {
            let key = SigningKey::generate(NewKey::Ed25519).unwrap();
            std::fs::write(at(n).path(), key.expose()).unwrap();
            std::fs::set_permissions(at(n).path(), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let mut keys = KeyFiles::load((0..300).chain(0..300).map(at), KnownKeys::new());
        for n in 0..300 {
            match keys.get(&at(n)) {
                Ok(key) => {
                    assert_eq!(key.public(), SigningKey::load(&at(n)).unwrap().public(), "{n}");
                    assert!(Arc::ptr_eq(&key, &keys.get(&at(n)).unwrap()), "{n} is kept twice");
                }
                Err(error) => {
                    assert!(n % 100 == 7 && error.to_string().contains(&format!("/{n}.pem")), "{n}: {error}");
                    assert!(keys.get(&at(n)).is_err(), "{n}");
                }
            }
        }
    }
    #[test]
    fn a_known_key_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) =
            (SecretFile::new(folder.path().join("a.pem")), SecretFile::new(folder.path().join("b.pem")));
        let key = Arc::new(SigningKey::parse(&SigningKey::generate(NewKey::Ed25519).unwrap()).unwrap());
        let mut keys =
            KeyFiles::load([file.clone(), other.clone()], KnownKeys::from([(file.clone(), Arc::clone(&key))]));
        assert!(Arc::ptr_eq(&key, &keys.get(&file).unwrap()));
        assert!(keys.get(&other).is_err());
    }
}
