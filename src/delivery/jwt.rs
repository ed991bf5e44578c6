//! The token that GitLab's mail intake lets in (RFC 7519, RFC 7515): signed by HMAC with SHA-256, good for the five minutes after
//! `iat` that GitLab gives it.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A token of `issuer`, made at `now` (seconds since 1970). `nonce` makes each one different.
pub(super) fn token(secret: &[u8], issuer: &str, nonce: [u8; 12], now: u64) -> String {
    let nonce: String = nonce.iter().map(|octet| format!("{octet:02x}")).collect();
    let claims = serde_json::json!({ "nonce": nonce, "iss": issuer, "iat": now });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_the_receiver_checks() {
        let token = token(b"secret", "gitlab-mailroom", [7; 12], 1_795_000_000);
        let parts: Vec<&str> = token.split('.').collect();
        let [head, claims, tag] = parts.as_slice() else { panic!("{token}") };
        let read = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(read(head), serde_json::json!({ "typ": "JWT", "alg": "HS256" }));
        let expected = serde_json::json!({ "nonce": "07".repeat(12), "iss": "gitlab-mailroom", "iat": 1_795_000_000 });
        assert_eq!(read(claims), expected);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
        hmac::verify(&key, format!("{head}.{claims}").as_bytes(), &tag).unwrap();
    }
}
