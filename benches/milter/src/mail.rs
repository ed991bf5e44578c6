//! The mail that is sent: 10 KiB, with the fields that mail has today, signed or not.

use support::{Message, Signer};

/// Octets of a message, about.
pub const SIZE: usize = 10 * 1024;
/// Different messages of one kind, sent in turn: nobody gains by remembering the last one.
const VARIETY: usize = 64;

/// A message with its envelope, as the milter protocol carries it.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The sender.
    pub sender: String,
    /// The only recipient.
    pub recipient: String,
    /// The SASL login by which it is submitted.
    pub login: Option<String>,
    /// Name, and all after the colon, folded with LF.
    pub fields: Vec<(String, String)>,
    /// The body, CRLF line endings.
    pub body: Vec<u8>,
}

/// Who writes to the company's support address.
pub const CUSTOMER: &str = "ann@customer.example";

/// Messages to `recipient`, signed if there is a signer.
pub fn letters(recipient: &str, signer: Option<&Signer>) -> Vec<Letter> {
    (0..VARIETY).map(|n| letter(CUSTOMER, recipient, &octets(n, recipient, signer))).collect()
}

/// Messages that ticket systems submit, one for each of `submitters`, who are an address and a login: at least
/// [`VARIETY`], if need be with submitters again.
pub fn notifications(submitters: &[(String, String)]) -> Vec<Letter> {
    let submitters = submitters.iter().cycle().take(submitters.len().max(VARIETY)).enumerate();
    let letters = submitters.map(|(n, (address, login))| Letter {
        login: Some(login.clone()),
        ..letter(address, CUSTOMER, &plain(n, address, CUSTOMER))
    });
    letters.collect()
}

/// One message to `recipient` as it goes over SMTP.
pub fn octets(n: usize, recipient: &str, signer: Option<&Signer>) -> Vec<u8> {
    let plain = plain(n, CUSTOMER, recipient);
    signer.map_or(plain.clone(), |signer| signer.sign(&plain))
}

/// As [`octets`], not signed, of another sender.
pub fn plain(n: usize, sender: &str, recipient: &str) -> Vec<u8> {
    let hop = |host: &str| {
        format!(
            "from {host} ({host} [192.0.2.10])\r\n\tby mail.customer.example (Postfix) with ESMTPS id 4bXYZ{n:05}\r\n\t\
             for <{recipient}>; Mon, 02 Mar 2026 09:30:00 +0000 (UTC)"
        )
    };
    let message = Message::new(&format!("Ann Author <{sender}>"), recipient, &format!("order {n} has not arrived"))
        .field("Received", &hop("relay.customer.example"))
        .field("Received", &hop("desk.customer.example"))
        .field("X-Mailer", "Example Mail 16.0")
        .field("Content-Language", "en-GB")
        .field("Thread-Topic", "order has not arrived")
        .field("Thread-Index", "AdqMV0m1Qe7hT0kcTz2rX3mVb0l1dw==")
        .field("References", &format!("<a{n}@customer.example>\r\n <b{n}@customer.example>"))
        .field("In-Reply-To", &format!("<b{n}@customer.example>"))
        .field("Accept-Language", "en-GB, en-US")
        .field("X-Originating-IP", "[192.0.2.77]")
        .field("List-Unsubscribe", &format!("<mailto:leave-{n}@customer.example>,\r\n <https://customer.example/{n}>"));
    let line = format!("{n:05} The quick brown fox jumps over the lazy dog and looks for its parcel.\r\n");
    let room = SIZE.saturating_sub(message.clone().body("").octets().len());
    message.body(&line.repeat(room.div_ceil(line.len()))).octets()
}

fn letter(sender: &str, recipient: &str, octets: &[u8]) -> Letter {
    let text = String::from_utf8_lossy(octets);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let unfolded = head.replace("\r\n\t", "\n\t").replace("\r\n ", "\n ");
    let fields = unfolded.split("\r\n").filter_map(|field| field.split_once(':'));
    Letter {
        sender: sender.to_owned(),
        recipient: recipient.to_owned(),
        login: None,
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: body.as_bytes().to_vec(),
    }
}
