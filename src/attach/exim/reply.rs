//! The line that Exim reads: `v=accept add=base64 remove=base64 ...`, taken apart there by `${extract}`.
//!
//! A name without a value is left out: after `add=` the extraction would take the next word for the value.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::edits;
use crate::mail::{Disposition, Headers, Path, RecipientEdit, Reply, Verdict};
use crate::pipeline::SEAL_FIELD;

/// What is said of a message that nobody asks more about.
pub const PASS: &[u8] = b"v=pass\n";
/// What is said of a message that is to be judged.
pub const LOOK: &[u8] = b"v=look\n";

/// A verdict on the message with these headers.
pub fn verdict(verdict: &Verdict, headers: &Headers) -> Vec<u8> {
    match &verdict.disposition {
        Disposition::Refuse(reply) => refusal(reply),
        Disposition::Continue => {
            let change = edits::change(&verdict.edits, headers);
            let (mut taken, mut extra) = (Vec::new(), Vec::new());
            for edit in &verdict.recipients {
                match edit {
                    RecipientEdit::Remove(path) => taken.extend(spellings(path)),
                    RecipientEdit::Add(path) if is_plain(path.as_str()) => extra.push(path.as_str()),
                    // Half a verdict is none.
                    RecipientEdit::Add(_) => {
                        return refusal(&Reply::new(451, 3, 5, "this recipient cannot be added to a message in Exim"));
                    }
                }
            }
            let mut line = b"v=accept".to_vec();
            word(&mut line, "remove", change.remove.join(":").as_bytes());
            word(&mut line, "add", &change.add);
            // A list of Exim: a colon in an item is doubled.
            let taken: Vec<String> = taken.iter().map(|spelling| spelling.replace(':', "::")).collect();
            word(&mut line, "taken", taken.join(":").as_bytes());
            word(&mut line, "extra", extra.join(",").as_bytes());
            if change.adds(SEAL_FIELD) {
                line.extend_from_slice(b" sealed=1");
            }
            line.push(b'\n');
            line
        }
    }
}

/// A refusal: `defer` for 4xx, `deny` for 5xx. Exim sends the first word as the code and each line as a line.
pub fn refusal(reply: &Reply) -> Vec<u8> {
    let enhanced = reply.enhanced().map(|enhanced| enhanced + " ").unwrap_or_default();
    let text = format!("{} {enhanced}{}", reply.code(), reply.lines().join("\n"));
    let mut line = if reply.is_permanent() { b"v=deny".to_vec() } else { b"v=defer".to_vec() };
    word(&mut line, "text", text.as_bytes());
    line.push(b'\n');
    line
}

/// What is said to who asks nothing that we know.
pub fn error(reason: &str) -> Vec<u8> {
    let mut line = b"v=error".to_vec();
    word(&mut line, "text", reason.as_bytes());
    line.push(b'\n');
    line
}

/// The header section for a message on its last hop follows this line, `size` octets.
pub fn signed(size: usize) -> Vec<u8> {
    format!("v=signed size={size}\n").into_bytes()
}

/// What a router may see of a recipient as `$local_part@$domain`: Exim takes needless quotes away, and the case of ASCII letters
/// does not count there. One that is not recognised would be delivered to a second time.
fn spellings(path: &Path) -> Vec<String> {
    let mut spellings = vec![path.as_str().to_owned()];
    if let (Some(address), Some((_, domain))) = (path.address(), path.as_str().rsplit_once('@')) {
        for domain in [domain, address.domain().as_str()] {
            let spelling = format!("{}@{domain}", address.local());
            if !spellings.contains(&spelling) {
                spellings.push(spelling);
            }
        }
    }
    spellings
}

/// Whether a redirect router takes it for an address and nothing else, a file or a program say.
fn is_plain(address: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+=".contains(c);
    address.starts_with(|c: char| c.is_ascii_alphanumeric()) && address.contains('@') && address.chars().all(plain)
}

fn word(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    if !value.is_empty() {
        line.extend_from_slice(format!(" {name}={}", STANDARD.encode(value)).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Header, HeaderEdit};

    fn decoded(line: &[u8]) -> Vec<(String, String)> {
        let text = std::str::from_utf8(line).unwrap().strip_suffix('\n').unwrap();
        let pairs = text.split(' ').map(|word| word.split_once('=').unwrap());
        let plain = |value: &str| match STANDARD.decode(value) {
            Ok(octets) if value.len() > 8 => String::from_utf8(octets).unwrap(),
            _ => value.to_owned(),
        };
        pairs.map(|(name, value)| (name.to_owned(), plain(value))).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_verdict_without_edits_is_one_word() {
        assert_eq!(verdict(&Verdict::pass(), &Headers::default()), b"v=accept\n");
    }

    #[test]
    fn a_refusal_carries_code_and_lines() {
        let reply = Reply::from_remote(550, ["5.7.1 no", "5.7.1 and no"]);
        assert_eq!(decoded(&refusal(&reply)), pairs(&[("v", "deny"), ("text", "550 5.7.1 no\nand no")]));
        let reply = Reply::new(451, 3, 0, "later");
        assert_eq!(decoded(&refusal(&reply)), pairs(&[("v", "defer"), ("text", "451 4.3.0 later")]));
    }

    #[test]
    fn a_seal_and_taken_recipients_are_told() {
        let taken = |path: &str| RecipientEdit::Remove(Path::parse(path.as_bytes()).unwrap());
        let edits = vec![HeaderEdit::Prepend(Header::written(SEAL_FIELD, "x"))];
        let answer =
            Verdict { edits, recipients: vec![taken("a@[IPv6:::1]"), taken("b@c.example")], ..Verdict::pass() };
        let told = decoded(&verdict(&answer, &Headers::default()));
        assert_eq!(
            told,
            pairs(&[
                ("v", "accept"),
                ("add", ":at_start:X-Deskmilter-Seal: x"),
                ("taken", "a@[IPv6::::::1]:b@c.example"),
                ("sealed", "1")
            ])
        );
    }

    #[test]
    fn a_mailbox_in_a_support_addresss_place_is_told_and_never_what_a_router_would_take_for_a_file_or_program() {
        let add = |path: &str| Verdict {
            recipients: vec![RecipientEdit::Add(Path::parse(path.as_bytes()).unwrap())],
            ..Verdict::pass()
        };
        let told = decoded(&verdict(&add("boss@acme.example"), &Headers::default()));
        assert_eq!(told, pairs(&[("v", "accept"), ("extra", "boss@acme.example")]));
        for odd in ["", "postmaster", "|sh@acme.example", "/etc/x@acme.example", ":fail:@x", "\"a,b\"@acme.example"] {
            assert!(verdict(&add(odd), &Headers::default()).starts_with(b"v=defer "), "{odd}");
        }
    }

    #[test]
    fn a_taken_recipient_is_named_as_a_router_sees_it() {
        let edits = vec![RecipientEdit::Remove(Path::parse(b"\"Support\"@Acme.example").unwrap())];
        let told = decoded(&verdict(&Verdict { recipients: edits, ..Verdict::pass() }, &Headers::default()));
        let names = "\"Support\"@Acme.example:support@Acme.example:support@acme.example";
        assert_eq!(told, pairs(&[("v", "accept"), ("taken", names)]));
    }
}
