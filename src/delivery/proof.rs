//! What lets us in, made for one request: the secret is read from its file each time, so that a replaced one counts at once.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::jwt;
use crate::config::{PostProof, Secret, SecretFile};
use crate::relay::read_secret;

/// A secret shorter than that is not looked for in what the ticket system says: it would be found everywhere.
const SECRET_MIN: usize = 4;

/// A header field for one request. Cannot be printed.
pub(super) struct Proof {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    /// What must never be told to anybody, should the ticket system repeat it.
    secrets: Vec<Secret>,
}

impl Proof {
    /// Reads the secret and makes the field; `None` where nothing is shown.
    ///
    /// # Errors
    /// The secret cannot be read or cannot be shown this way. Holds nothing of it.
    pub(super) async fn make(proof: &PostProof) -> Result<Option<Self>, String> {
        let (name, text, secret) = match proof {
            PostProof::None => return Ok(None),
            PostProof::Basic { username, password_file } => {
                let password = read(password_file).await?;
                let pair = Zeroizing::new([username.as_bytes(), b":", password.expose()].concat());
                let text = format!("Basic {}", STANDARD.encode(&*pair));
                (AUTHORIZATION, Zeroizing::new(text), password)
            }
            PostProof::Key { header, key_file } => {
                let key = read(key_file).await?;
                let text = String::from_utf8(key.expose().to_vec()).map_err(|_| unfit(key_file))?;
                (field(header)?, Zeroizing::new(text), key)
            }
            PostProof::Jwt { header, issuer, secret_file } => {
                let encoded = read(secret_file).await?;
                let secret = STANDARD.decode(encoded.expose()).map_err(|_| unfit(secret_file))?;
                let secret = Zeroizing::new(secret);
                let mut nonce = [0; 12];
                aws_lc_rs::rand::fill(&mut nonce).map_err(|_| "no randomness from the system".to_owned())?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                // RFC 9110 section 11.6.2 and RFC 6750 section 2.1; a field of its own holds the token alone.
                let scheme = if header.eq_ignore_ascii_case("Authorization") { "Bearer " } else { "" };
                let token = Zeroizing::new(jwt::token(&secret, issuer, nonce, now));
                (field(header)?, Zeroizing::new(format!("{scheme}{}", *token)), encoded)
            }
        };
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| "the secret cannot be in a header field".to_owned())?;
        value.set_sensitive(true);
        let shown = text.rsplit(' ').next().unwrap_or_default().as_bytes().to_vec();
        Ok(Some(Self { name, value, secrets: vec![secret, Secret::new(shown)] }))
    }

    /// Whether `text` holds a secret.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.secrets
            .iter()
            .filter_map(|secret| std::str::from_utf8(secret.expose()).ok())
            .any(|secret| secret.len() >= SECRET_MIN && text.contains(secret))
    }
}

async fn read(file: &SecretFile) -> Result<Secret, String> {
    read_secret(file, |file| file.read_password().map_err(|error| error.to_string())).await
}

fn field(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header field"))
}

fn unfit(file: &SecretFile) -> String {
    format!("{}: what it holds cannot be shown this way", file.path().display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &str) -> (tempfile::TempDir, SecretFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        (folder, SecretFile::new(path))
    }

    #[tokio::test]
    async fn a_password_is_shown_as_rfc_7617_says_and_known_again_in_either_shape() {
        let (_folder, password_file) = file("opensesame\n");
        let basic = PostProof::Basic { username: "actionmailbox".to_owned(), password_file };
        let proof = Proof::make(&basic).await.unwrap().unwrap();
        assert_eq!(
            (proof.name.as_str(), proof.value.to_str().unwrap()),
            ("authorization", "Basic YWN0aW9ubWFpbGJveDpvcGVuc2VzYW1l")
        );
        assert!(proof.is_in("you said opensesame") && proof.is_in("YWN0aW9ubWFpbGJveDpvcGVuc2VzYW1l"));
        assert!(!proof.is_in("Basic authentication is wanted"));
        assert!(!format!("{:?}", proof.value).contains("YWN0"));
    }

    #[tokio::test]
    async fn a_token_stands_alone_in_a_field_of_its_own_and_behind_its_scheme_in_authorization() {
        let (_folder, secret_file) = file("c2VjcmV0");
        for (header, scheme) in [("Gitlab-Mailroom-Api-Request", ""), ("authorization", "Bearer ")] {
            let (issuer, secret_file) = ("x".to_owned(), secret_file.clone());
            let jwt = PostProof::Jwt { header: header.to_owned(), issuer, secret_file };
            let proof = Proof::make(&jwt).await.unwrap().unwrap();
            let token = proof.value.to_str().unwrap().strip_prefix(scheme).unwrap();
            assert!(token.split('.').count() == 3 && !token.contains(' '), "{token}");
            assert!(proof.is_in(&format!("you said {token}")));
        }
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_shown_is_told_by_its_file_alone() {
        let (_folder, key_file) = file("s3cr\u{1}et");
        let header = "X-API-Key".to_owned();
        let error = Proof::make(&PostProof::Key { header: header.clone(), key_file }).await.err().unwrap();
        assert!(!error.contains("s3cr"), "{error}");
        let (_folder, secret_file) = file("s3cret!");
        let error = Proof::make(&PostProof::Jwt { header, issuer: "x".to_owned(), secret_file }).await.err().unwrap();
        assert!(error.contains("/secret") && !error.contains("s3cret!"), "{error}");
    }
}
