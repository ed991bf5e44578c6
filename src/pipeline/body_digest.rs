//! A digest of a body that says whether it is still the text that was judged.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::mail::Body;

/// Octets read at a time (64 KiB).
const BLOCK: usize = 64 * 1024;

/// SHA-256 over all octets but white space, base64: on the way through the queue Postfix breaks lines over 998 octets
/// (`lmtp_line_length_limit`) and adds a missing line ending, which changes no word.
///
/// # Errors
/// The spool file could not be read.
pub(crate) async fn body_digest(body: &Body) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut offset = 0;
    loop {
        let block = body.read_at(offset, BLOCK).await?;
        if block.is_empty() {
            return Ok(URL_SAFE_NO_PAD.encode(context.finish()));
        }
        offset = offset.saturating_add(block.len() as u64);
        let words: Vec<u8> = block.into_iter().filter(|octet| !octet.is_ascii_whitespace()).collect();
        context.update(&words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_white_space_makes_no_difference() {
        let digest = async |text: &str| body_digest(&Body::from_octets(text.as_bytes().to_vec())).await.unwrap();
        let judged = digest("one two\r\nthree\r\n").await;
        assert_eq!(judged, digest("one two\r\n three").await);
        for other in ["", "one two", "one two\r\nthree\r\nfour\r\n", "two one\r\nthree\r\n", "One two\r\nthree\r\n"] {
            assert_ne!(judged, digest(other).await, "{other:?}");
        }
        let long = "words ".repeat(50_000);
        assert_eq!(digest(&long).await, digest(&long.replace(' ', "\r\n ")).await);
    }
}
