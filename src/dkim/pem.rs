//! The private key in a PEM text (RFC 7468), or why there is none that DKIM can use.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Why a file's content cannot be used as a signing key. None of the messages holds a part of the content but labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFlaw {
    /// No BEGIN line.
    #[error("no PEM key: no line -----BEGIN PRIVATE KEY----- in it; make a key by: deskmilter key new")]
    NotPem,
    /// Binary DER.
    #[error("a binary (DER) file, but a PEM text is needed; run: openssl pkey -inform DER -in FILE -out NEWFILE")]
    Binary,
    /// BEGIN without END.
    #[error("truncated: the PEM text has no -----END line; copy the whole file again")]
    Truncated,
    /// No base64, or no key in it.
    #[error("damaged: what stands between BEGIN and END is not a whole key; copy the file again or make a new key")]
    Damaged,
    /// Under a passphrase.
    #[error(
        "encrypted: a daemon has nobody to ask for the passphrase; run: openssl pkey -in FILE -out NEWFILE, \
         and keep NEWFILE at mode 0600"
    )]
    Encrypted,
    /// The public half.
    #[error("a public key; signing needs the private key that belongs to it")]
    PublicKey,
    /// A certificate.
    #[error("a certificate; signing needs a private key, and DKIM publishes keys in DNS without certificates")]
    Certificate,
    /// Another PEM text.
    #[error("a PEM text labelled {label:?}; a PRIVATE KEY (PKCS #8) or RSA PRIVATE KEY (PKCS #1) is needed")]
    Label {
        /// What it says of itself.
        label: String,
    },
    /// More than one private key.
    #[error("{count} private keys in one file; put each into a file of its own")]
    Several {
        /// How many.
        count: usize,
    },
    /// A key for another algorithm.
    #[error("a private key for {algorithm}; DKIM signs with RSA (RFC 6376) and Ed25519 (RFC 8463) keys only")]
    Algorithm {
        /// Which.
        algorithm: &'static str,
    },
    /// RSA below 2048 bits.
    #[error(
        "an RSA key of {bits} bits; at least 2048 are needed (RFC 8301 section 3.2): make a new key under a new selector \
         by: deskmilter key new"
    )]
    TooShort {
        /// Bits of its modulus.
        bits: usize,
    },
    /// RSA beyond what verifiers must accept.
    #[error("an RSA key of {bits} bits; verifiers need not accept more than 4096 (RFC 8301 section 3.2)")]
    TooLong {
        /// Bits of its modulus.
        bits: usize,
    },
}

/// A private key's document.
pub(super) enum Document {
    /// RFC 5208.
    Pkcs8(Zeroizing<Vec<u8>>),
    /// RFC 8017 appendix A.1.2.
    Pkcs1(Zeroizing<Vec<u8>>),
}

/// Letters of a foreign label that are shown.
const LABEL_SHOWN: usize = 40;

/// Finds the one private key.
///
/// # Errors
/// As [`KeyFlaw`] says.
pub(super) fn private_key(text: &[u8]) -> Result<Document, KeyFlaw> {
    let blocks = blocks(text)?;
    let private: Vec<&Block> = blocks.iter().filter(|block| block.label.ends_with("PRIVATE KEY")).collect();
    match private.as_slice() {
        [block] => block.private_key(),
        [] => Err(blocks.first().map_or_else(|| no_block(text), Block::flaw)),
        several => Err(KeyFlaw::Several { count: several.len() }),
    }
}

fn no_block(text: &[u8]) -> KeyFlaw {
    // A DER SEQUENCE whose length takes more than one octet, as an RSA key's is, or an Ed25519 key (RFC 8410).
    let rsa = text.first() == Some(&0x30) && text.get(1).is_some_and(|octet| octet & 0x80 != 0);
    if rsa || text.starts_with(&[0x30, 0x2e, 0x02]) { KeyFlaw::Binary } else { KeyFlaw::NotPem }
}

struct Block<'a> {
    label: &'a str,
    lines: Vec<&'a str>,
}

impl Block<'_> {
    fn private_key(&self) -> Result<Document, KeyFlaw> {
        // RFC 1421 section 4.6.1.1: what OpenSSL writes above an encrypted key of its own form.
        if self.lines.iter().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) {
            return Err(KeyFlaw::Encrypted);
        }
        match self.label {
            "PRIVATE KEY" => Ok(Document::Pkcs8(self.octets()?)),
            "RSA PRIVATE KEY" => Ok(Document::Pkcs1(self.octets()?)),
            _ => Err(self.flaw()),
        }
    }

    fn octets(&self) -> Result<Zeroizing<Vec<u8>>, KeyFlaw> {
        let length = self.lines.iter().map(|line| line.len()).sum();
        let mut base64 = Zeroizing::new(String::with_capacity(length));
        for line in &self.lines {
            base64.push_str(line);
        }
        // Room at once, so that no half of a key is left behind by growing.
        let mut octets = Zeroizing::new(Vec::with_capacity(length));
        STANDARD.decode_vec(base64.as_bytes(), &mut octets).map_err(|_| KeyFlaw::Damaged)?;
        Ok(octets)
    }

    fn flaw(&self) -> KeyFlaw {
        match self.label {
            "ENCRYPTED PRIVATE KEY" => KeyFlaw::Encrypted,
            "EC PRIVATE KEY" => KeyFlaw::Algorithm { algorithm: "ECDSA" },
            "DSA PRIVATE KEY" => KeyFlaw::Algorithm { algorithm: "DSA" },
            "PUBLIC KEY" | "RSA PUBLIC KEY" => KeyFlaw::PublicKey,
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" | "CERTIFICATE REQUEST" => KeyFlaw::Certificate,
            other => KeyFlaw::Label { label: other.chars().take(LABEL_SHOWN).collect() },
        }
    }
}

/// The BEGIN ... END blocks; text around them is a comment.
fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, KeyFlaw> {
    let Ok(text) = std::str::from_utf8(text) else { return Err(no_block(text)) };
    // Editors of Windows put a byte order mark before the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = boundary(line, "-----BEGIN ") {
            if open.is_some() {
                return Err(KeyFlaw::Truncated);
            }
            open = Some(Block { label, lines: Vec::new() });
        } else if let Some(label) = boundary(line, "-----END ") {
            match open.take() {
                Some(block) if block.label == label => blocks.push(block),
                Some(_) => return Err(KeyFlaw::Damaged),
                None => {}
            }
        } else if let Some(block) = &mut open {
            block.lines.push(line);
        }
    }
    if open.is_some() { Err(KeyFlaw::Truncated) } else { Ok(blocks) }
}

fn boundary<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flaw(text: &str) -> KeyFlaw {
        private_key(text.as_bytes()).err().expect("no key")
    }

    #[test]
    fn what_is_no_private_key_is_called_by_its_name() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (text, expected) in [
            (String::new(), KeyFlaw::NotPem),
            ("hello\n".to_owned(), KeyFlaw::NotPem),
            (block("PUBLIC KEY"), KeyFlaw::PublicKey),
            (block("CERTIFICATE"), KeyFlaw::Certificate),
            (block("ENCRYPTED PRIVATE KEY"), KeyFlaw::Encrypted),
            (block("EC PARAMETERS") + &block("EC PRIVATE KEY"), KeyFlaw::Algorithm { algorithm: "ECDSA" }),
            (block("OPENSSH PRIVATE KEY"), KeyFlaw::Label { label: "OPENSSH PRIVATE KEY".to_owned() }),
            (block("PRIVATE KEY") + &block("PRIVATE KEY"), KeyFlaw::Several { count: 2 }),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n".to_owned(), KeyFlaw::Truncated),
            ("-----BEGIN PRIVATE KEY-----\nAA\u{e4}A\n-----END PRIVATE KEY-----\n".to_owned(), KeyFlaw::Damaged),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), KeyFlaw::Damaged),
        ] {
            assert_eq!(flaw(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_key_does_no_harm() {
        let text = "\u{feff}-----BEGIN PRIVATE KEY-----\r\nAQID\r\n-----END PRIVATE KEY-----\r\n";
        let Ok(Document::Pkcs8(octets)) = private_key(text.as_bytes()) else { panic!("no key") };
        assert_eq!(*octets, [1, 2, 3]);
    }

    #[test]
    fn a_certificate_beside_the_key_and_windows_line_ends_do_no_harm() {
        let text = "a comment\r\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n\
                    -----BEGIN PRIVATE KEY-----\r\nAQID\r\n-----END PRIVATE KEY-----";
        let Ok(Document::Pkcs8(octets)) = private_key(text.as_bytes()) else { panic!("no key") };
        assert_eq!(*octets, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(-----BEGIN |-----END |PRIVATE KEY-----|RSA |[A-Za-z0-9+/=:\\n\\x80-\\xff]{0,9}){0,20}") {
            let _ = private_key(text.as_bytes());
        }
    }
}
