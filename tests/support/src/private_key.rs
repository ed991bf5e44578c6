//! Keys of the company's own, as a postmaster makes them with OpenSSL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::process::{folder, read, run};

/// A private key, and what is published of it.
#[derive(Debug, Clone)]
pub struct PrivateKey {
    pem: String,
    record: String,
}

impl PrivateKey {
    /// RSA-2048, PKCS #8; the same one for the whole process.
    pub fn rsa() -> Self {
        static KEY: OnceLock<PrivateKey> = OnceLock::new();
        KEY.get_or_init(Self::another_rsa).clone()
    }

    /// RSA-2048, PKCS #8; another one each time.
    pub fn another_rsa() -> Self {
        Self::make("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
    }

    /// Ed25519, PKCS #8 (RFC 8410); the same one for the whole process.
    pub fn ed25519() -> Self {
        static KEY: OnceLock<PrivateKey> = OnceLock::new();
        KEY.get_or_init(|| Self::make("ed25519", &["-algorithm", "ED25519"])).clone()
    }

    fn make(kind: &str, arguments: &[&str]) -> Self {
        let folder = folder("key");
        let path = folder.path().join("key.pem");
        run(Command::new("openssl").arg("genpkey").args(arguments).arg("-out").arg(&path));
        let public = run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path));
        let public: String = public.lines().filter(|line| !line.starts_with('-')).collect();
        let public = match kind {
            // RFC 8463 section 4: the 32 octets of the key alone, which end its SubjectPublicKeyInfo of 44.
            "ed25519" => raw_ed25519(&public),
            _ => public,
        };
        Self { pem: read(&path), record: format!("v=DKIM1; k={kind}; p={public}") }
    }

    /// The public key's TXT record.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Writes the private key into a file that only its owner reads.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &Path) {
        Self::write_secret(path, &self.pem);
    }

    /// Writes any secret so.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_secret(path: &Path, text: &str) {
        fs::write(path, text).expect("a secret file");
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
    }
}

fn raw_ed25519(public: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let octets = STANDARD.decode(public).expect("base64 from OpenSSL");
    STANDARD.encode(octets.get(12..).expect("44 octets"))
}
