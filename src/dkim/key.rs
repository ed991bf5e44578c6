//! The private key that signs, and the public key that belongs to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::Error;
use mail_auth::crypto::{CryptoError, DkimKey, Ed25519Key, RsaKey, Sha256};
use mail_auth::headers::Writable;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::consistency;
use super::der;
use super::pem::{self, Document, KeyFlaw};
use crate::config::{Secret, SecretError, SecretFile};

/// Bits of an RSA key at least (RFC 8301 section 3.2: SHOULD for signers).
const RSA_BITS_MIN: usize = 2048;
/// Bits of an RSA key at most: what every verifier must accept (RFC 8301 section 3.2).
const RSA_BITS_MAX: usize = 4096;
/// Octets of an Ed25519 public key (RFC 8032 section 5.1.5).
pub(super) const ED25519_OCTETS: usize = 32;
/// Letters in a line of PEM (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// rsaEncryption, 1.2.840.113549.1.1.1 (RFC 8017 appendix A.1).
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// id-RSASSA-PSS, 1.2.840.113549.1.1.10.
const OID_RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
/// id-Ed25519, 1.3.101.112 (RFC 8410 section 3).
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// id-Ed448, 1.3.101.113.
const OID_ED448: &[u8] = &[0x2b, 0x65, 0x71];
/// id-X25519, 1.3.101.110.
const OID_X25519: &[u8] = &[0x2b, 0x65, 0x6e];
/// id-ecPublicKey, 1.2.840.10045.2.1 (RFC 5480 section 2.1.1).
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];

/// A DKIM signing key. Cannot be printed; it is wiped from memory when it is dropped.
pub struct SigningKey {
    /// Made when it is first needed where the document alone says that it can be.
    signer: OnceLock<Result<DkimKey, KeyFlaw>>,
    /// The document of an RSA key that is good as far as its numbers tell.
    document: Option<Document>,
    public: PublicKey,
}

/// Why there is no signing key. Names the file and the remedy, never a part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read, or others than its owner can.
    #[error(transparent)]
    File(#[from] SecretError),
    /// What is in it is no key that can sign.
    #[error("{}: {flaw}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: KeyFlaw,
    },
}

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `rsa-sha256` (RFC 6376 section 3.3.2).
    Rsa,
    /// `ed25519-sha256` (RFC 8463 section 3).
    Ed25519,
}

/// The key that verifiers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    /// As `p=` carries it: SubjectPublicKeyInfo for RSA, the bare key for Ed25519.
    octets: Vec<u8>,
    bits: usize,
}

/// A key to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKey {
    /// RSA with a modulus of 2048 bits: the one that every verifier knows and every DNS host takes.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// Ed25519.
    Ed25519,
}

impl SigningKey {
    /// Reads the key from its PEM file: RSA in PKCS #1 or PKCS #8, Ed25519 in PKCS #8. Which one, the key itself tells.
    ///
    /// # Errors
    /// As [`SecretFile::read`] and [`KeyFlaw`] say.
    pub fn load(file: &SecretFile) -> Result<Self, KeyError> {
        Self::parse(&file.read()?).map_err(|flaw| KeyError::Content { path: file.path().to_owned(), flaw })
    }

    /// Reads the key from a PEM text.
    ///
    /// # Errors
    /// As [`KeyFlaw`] says.
    pub fn parse(pem: &Secret) -> Result<Self, KeyFlaw> {
        let document = pem::private_key(pem.expose())?;
        let algorithm = match &document {
            Document::Pkcs1(_) => OID_RSA,
            Document::Pkcs8(document) => der::pkcs8_algorithm(document).ok_or(KeyFlaw::Damaged)?,
        };
        match (algorithm, &document) {
            (OID_RSA, _) => Self::rsa(document),
            (OID_ED25519, Document::Pkcs8(document)) => Self::ed25519(document),
            (other, _) => Err(KeyFlaw::Algorithm { algorithm: algorithm_name(other) }),
        }
    }

    fn rsa(document: Document) -> Result<Self, KeyFlaw> {
        let pkcs1 = match &document {
            Document::Pkcs1(document) => document.as_slice(),
            Document::Pkcs8(document) => der::pkcs8_content(document).ok_or(KeyFlaw::Damaged)?,
        };
        let bits = der::pkcs1_bits(pkcs1).ok_or(KeyFlaw::Damaged)?;
        if bits < RSA_BITS_MIN {
            return Err(KeyFlaw::TooShort { bits });
        }
        if bits > RSA_BITS_MAX {
            return Err(KeyFlaw::TooLong { bits });
        }
        let plain = match &document {
            Document::Pkcs1(_) => true,
            Document::Pkcs8(document) => der::is_plain_rsa_pkcs8(document),
        };
        let public =
            der::Pkcs1::read(pkcs1).filter(|key| plain && consistency::holds(key)).and_then(|key| key.public_key());
        if let Some(public) = public {
            let public = PublicKey::rsa(&public).ok_or(KeyFlaw::Damaged)?;
            return Ok(Self { signer: OnceLock::new(), document: Some(document), public });
        }
        // Damaged, or only unusual: that is for the cryptography library to say.
        let key = rsa_key(&document)?;
        let public = PublicKey::rsa(&key.public_key()).ok_or(KeyFlaw::Damaged)?;
        Ok(Self { signer: OnceLock::from(Ok(DkimKey::from(key))), document: None, public })
    }

    fn ed25519(document: &[u8]) -> Result<Self, KeyFlaw> {
        let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(document).map_err(|_| KeyFlaw::Damaged)?;
        let public = PublicKey::ed25519(&key.public_key()).ok_or(KeyFlaw::Damaged)?;
        Ok(Self { signer: OnceLock::from(Ok(DkimKey::from(key))), document: None, public })
    }

    /// The PEM text (PKCS #8) of a new key.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn generate(kind: NewKey) -> Result<Secret, String> {
        let size = match kind {
            NewKey::Rsa2048 => KeySize::Rsa2048,
            NewKey::Rsa3072 => KeySize::Rsa3072,
            NewKey::Rsa4096 => KeySize::Rsa4096,
            NewKey::Ed25519 => {
                // Version 1, without the public key: OpenSSL does not read version 2.
                let document: Result<Pkcs8V1Der, _> = Ed25519KeyPair::generate().and_then(|key| key.as_der());
                return document.map(|document| pem_text(document.as_ref())).map_err(|_| no_key());
            }
        };
        let document: Result<Pkcs8V1Der, _> = rsa::KeyPair::generate(size).and_then(|key| key.as_der());
        document.map(|document| pem_text(document.as_ref())).map_err(|_| no_key())
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key as the signer takes it. Of an RSA key it is made at the first call (0.2 ms).
    ///
    /// # Errors
    /// The cryptography library does not take the key.
    pub fn signer(&self) -> Result<&DkimKey, &KeyFlaw> {
        let make = || match &self.document {
            Some(document) => rsa_key(document).map(DkimKey::from),
            None => Err(KeyFlaw::Damaged),
        };
        self.signer.get_or_init(make).as_ref()
    }
}

fn rsa_key(document: &Document) -> Result<RsaKey<Sha256>, KeyFlaw> {
    let document = match document {
        Document::Pkcs1(document) => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(document.as_slice())),
        Document::Pkcs8(document) => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_slice())),
    };
    RsaKey::<Sha256>::from_key_der(document).map_err(|_| KeyFlaw::Damaged)
}

/// So that a signer can borrow the key: `DkimSigner::from_key(&key)`.
impl mail_auth::crypto::SigningKey for &SigningKey {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        let key = self.signer().map_err(|flaw| Error::Crypto(CryptoError::Library(flaw.to_string())))?;
        key.sign(input)
    }

    fn algorithm(&self) -> mail_auth::crypto::Algorithm {
        match self.public.algorithm {
            Algorithm::Rsa => mail_auth::crypto::Algorithm::RsaSha256,
            Algorithm::Ed25519 => mail_auth::crypto::Algorithm::Ed25519Sha256,
        }
    }
}

/// The same public key means the same private key.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey([secret], {}, {} bits)", self.public.algorithm, self.public.bits)
    }
}

impl Algorithm {
    /// The name in `a=` of a signature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }

    /// The name in `k=` of a record.
    pub fn key_type(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PublicKey {
    /// Reads what `p=` carries. For RSA both forms are seen: SubjectPublicKeyInfo, which everybody writes, and the bare
    /// RSAPublicKey that the text of RFC 6376 names (its erratum 3017 tells the story).
    ///
    /// `None` when it is no key of this algorithm.
    pub fn read(algorithm: Algorithm, octets: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Rsa => Self::rsa(octets),
            Algorithm::Ed25519 => Self::ed25519(octets),
        }
    }

    fn rsa(octets: &[u8]) -> Option<Self> {
        let key = rsa::PublicKey::from_der(octets).ok()?;
        let info: PublicKeyX509Der = key.as_der().ok()?;
        let bits = der::bits(key.modulus().big_endian_without_leading_zero());
        Some(Self { algorithm: Algorithm::Rsa, octets: info.as_ref().to_vec(), bits })
    }

    fn ed25519(octets: &[u8]) -> Option<Self> {
        let bits = ED25519_OCTETS.saturating_mul(8);
        (octets.len() == ED25519_OCTETS).then(|| Self { algorithm: Algorithm::Ed25519, octets: octets.to_vec(), bits })
    }

    /// What it verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Bits: of the modulus for RSA, always 256 for Ed25519.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// The text of the DNS record: `v=DKIM1; k=rsa; p=...` (RFC 6376 section 3.6.1, RFC 8463 section 4).
    pub fn record(&self) -> String {
        format!("v=DKIM1; k={}; p={}", self.algorithm.key_type(), STANDARD.encode(&self.octets))
    }
}

fn algorithm_name(identifier: &[u8]) -> &'static str {
    match identifier {
        OID_EC => "ECDSA",
        OID_RSA_PSS => "RSA-PSS",
        OID_ED448 => "Ed448",
        OID_X25519 => "X25519",
        _ => "another algorithm",
    }
}

fn no_key() -> String {
    "the system gave no random numbers for a key".to_owned()
}

/// PEM (RFC 7468 section 10) of a PKCS #8 document. No half of it is left in memory.
fn pem_text(document: &[u8]) -> Secret {
    let base64 = Zeroizing::new(STANDARD.encode(document));
    let mut text = Vec::with_capacity(base64.len().saturating_mul(2).saturating_add(128));
    text.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
    for line in base64.as_bytes().chunks(PEM_LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_reads_back_as_what_it_was_made_for() {
        for (kind, algorithm, bits) in
            [(NewKey::Ed25519, Algorithm::Ed25519, 256), (NewKey::Rsa2048, Algorithm::Rsa, 2048)]
        {
            let pem = SigningKey::generate(kind).unwrap();
            let key = SigningKey::parse(&pem).unwrap();
            assert_eq!((key.algorithm(), key.public().bits()), (algorithm, bits));
            assert!(pem.expose().split(|&b| b == b'\n').all(|line| line.len() <= PEM_LINE));
            assert_ne!(pem.expose(), SigningKey::generate(kind).unwrap().expose(), "twice the same key");
        }
    }

    #[test]
    fn the_key_of_rfc_8463_gives_the_record_of_rfc_8463() {
        // Appendix A: the seed; RFC 8410 section 7: what stands before it.
        let seed = STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let pem = pem_text(&[prefix.as_slice(), &seed].concat());
        let key = SigningKey::parse(&pem).unwrap();
        assert_eq!(key.public().record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(key.algorithm().name(), "ed25519-sha256");
    }

    #[test]
    fn an_ed25519_key_with_the_public_half_of_another_is_damaged() {
        let parts = || {
            let pair = Ed25519KeyPair::generate().unwrap();
            let public = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().to_vec();
            let document: Pkcs8V1Der = pair.as_der().unwrap();
            (document.as_ref().to_vec(), public)
        };
        let ((private, own), (_, other)) = (parts(), parts());
        // RFC 8410 section 7 and RFC 5958: version 2, the public key in [1] at the end.
        let with = |public: &[u8]| {
            let mut document = private.clone();
            document[1] += 35;
            document[4] = 1;
            document.extend([&[0x81, 33, 0][..], public].concat());
            SigningKey::parse(&pem_text(&document))
        };
        assert!(with(&own).is_ok());
        assert_eq!(with(&other).err(), Some(KeyFlaw::Damaged));
    }

    #[test]
    fn no_part_of_a_key_is_ever_printed() {
        let pem = SigningKey::generate(NewKey::Ed25519).unwrap();
        let key = SigningKey::parse(&pem).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey([secret], ed25519-sha256, 256 bits)");
    }

    #[test]
    fn a_key_with_an_octet_lost_or_changed_never_signs_as_another() {
        let pem = SigningKey::generate(NewKey::Rsa2048).unwrap();
        let whole = SigningKey::parse(&pem).unwrap();
        let lines: Vec<&[u8]> = pem.expose().split_inclusive(|&b| b == b'\n').collect();
        for lost in 1..lines.len() - 2 {
            let text: Vec<u8> =
                lines.iter().enumerate().filter(|(n, _)| *n != lost).flat_map(|(_, line)| *line).copied().collect();
            assert_eq!(SigningKey::parse(&Secret::new(text)).err(), Some(KeyFlaw::Damaged), "line {lost}");
        }
        for at in (40..pem.expose().len() - 40).step_by(97) {
            let mut text = pem.expose().to_vec();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            if let Ok(changed) = SigningKey::parse(&Secret::new(text)) {
                assert_eq!(changed.public(), whole.public(), "octet {at}");
                assert!(changed.signer().is_ok(), "octet {at}: taken, and then found damaged");
            }
        }
    }
}
