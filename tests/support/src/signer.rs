//! Signs messages as a sender's own mail server does (RFC 6376).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use mail_auth::crypto::{RsaKey, Sha256};
use mail_auth::dkim::DkimSigner;
use mail_auth::headers::HeaderWriter;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, pem::PemObject};

use crate::Zone;
use crate::process::run;

/// A DKIM signer with an RSA-2048 key made for this run.
#[derive(Debug, Clone)]
pub struct Signer {
    domain: String,
    selector: String,
    fields: Vec<&'static str>,
}

/// What is signed unless told otherwise.
const FIELDS: [&str; 5] = ["From", "To", "Subject", "Date", "Message-ID"];

/// What Zendesk's own signature covers: none of the preserved fields.
const ZENDESK_FIELDS: [&str; 11] = [
    "Date",
    "From",
    "Reply-To",
    "To",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

impl Signer {
    /// A signer for `domain`.
    pub fn new(domain: &str, selector: &str) -> Self {
        Self { domain: domain.to_owned(), selector: selector.to_owned(), fields: FIELDS.to_vec() }
    }

    /// The signer that Zendesk is for a company that published Zendesk's keys: `s=zendesk2`.
    pub fn zendesk(domain: &str) -> Self {
        Self { domain: domain.to_owned(), selector: "zendesk2".to_owned(), fields: ZENDESK_FIELDS.to_vec() }
    }

    /// The message with a DKIM-Signature on top, relaxed/relaxed, covering From, To, Subject, Date and Message-ID; or what
    /// Zendesk covers.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let key = PrivatePkcs1KeyDer::from_pem_slice(key().0.as_bytes()).expect("the key that OpenSSL wrote");
        let key = RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs1(key)).expect("an RSA key");
        let signature = DkimSigner::from_key(key)
            .domain(&self.domain)
            .selector(&self.selector)
            .headers(self.fields.iter().copied())
            .sign(message)
            .expect("a signature");
        let mut signed = signature.to_header().into_bytes();
        signed.extend_from_slice(message);
        signed
    }

    /// Writes the private key into a file that only its owner reads.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_key(&self, path: &Path) {
        fs::write(path, &key().0).expect("a key file");
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
    }

    /// Where the public key is published.
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The public key's TXT record.
    pub fn record(&self) -> String {
        format!("v=DKIM1; k=rsa; p={}", key().1)
    }

    /// `zone` with the public key's record.
    #[must_use]
    pub fn publish(&self, zone: Zone) -> Zone {
        zone.txt(&self.record_name(), &self.record())
    }
}

/// The private key as PEM (PKCS #1) and the public key as base64 (SubjectPublicKeyInfo), made once a process.
fn key() -> &'static (String, String) {
    static KEY: OnceLock<(String, String)> = OnceLock::new();
    KEY.get_or_init(|| {
        let folder = crate::process::folder("key");
        let path = folder.path().join("key.pem");
        run(Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&path).arg("2048"));
        let public = run(Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&path));
        let public = public.lines().filter(|line| !line.starts_with('-')).collect();
        (crate::process::read(&path), public)
    })
}
