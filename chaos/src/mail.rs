//! The messages: each made from its number alone, so that what arrives can be compared octet for octet without keeping anything.

/// Octets of the smallest body.
const SMALLEST: f64 = 1024.0;
/// How many times that the largest one has: 5 MiB.
const SPAN: f64 = 5.0 * 1024.0;
/// How rare large ones are: half of all messages have hardly more than the smallest, one in a hundred more than 2 MiB.
const SKEW: f64 = 12.0;

/// The sender of all.
pub(crate) const SENDER: &str = "a@plain.example";
/// Their recipient.
pub(crate) const RECIPIENT: &str = "support@acme.example";

/// The Message-ID, without brackets.
pub(crate) fn id(number: usize) -> String {
    format!("chaos.{number}@plain.example")
}

/// The number in a Message-ID without brackets.
pub(crate) fn number(id: &str) -> Option<usize> {
    id.strip_prefix("chaos.")?.strip_suffix("@plain.example")?.parse().ok()
}

/// The message as it goes over SMTP; no line begins with a dot.
pub(crate) fn message(number: usize) -> Vec<u8> {
    let mut text = format!(
        "From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: message {number}\r\nDate: Mon, 02 Mar 2026 09:30:00 +0000\r\n\
         Message-ID: <{}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        id(number)
    );
    let size = text.len() + body_size(number);
    let mut line = 0_usize;
    while text.len() < size {
        text.push_str(&format!(
            "message {number} line {line}, VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5\r\n"
        ));
        line += 1;
    }
    text.into_bytes()
}

/// Spread evenly by the golden ratio, so that any part of the numbers has the mix of all.
fn body_size(number: usize) -> usize {
    #[allow(clippy::cast_precision_loss)]
    let even = (number as f64 * 0.618_033_988_749_895).fract();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let octets = (SMALLEST * SPAN.powf(even.powf(SKEW))) as usize;
    octets
}
