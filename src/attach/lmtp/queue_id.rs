//! The MTA's queue id, read from its Received field (RFC 5321 section 4.4).

use crate::mail::Headers;

/// Octets of a queue id at most; Postfix's long ones have 20, Exim's 23.
const QUEUE_ID_MAX: usize = 64;

/// The queue id under which the MTA that hands over the message logs it: the `id` clause of the topmost Received field,
/// which that MTA wrote. For the log alone, as nothing proves it.
pub fn queue_id(headers: &Headers) -> Option<String> {
    let field = headers.first("Received")?.text();
    let plain = without_comments(&field);
    let stamp = plain.split(';').next()?;
    let words: Vec<&str> = stamp.split_ascii_whitespace().collect();
    // What the client said in HELO stands before, and may look like a clause: from the last `by` on the words are the MTA's.
    let by = words.iter().rposition(|word| word.eq_ignore_ascii_case("by"))?;
    let value = words.get(by..)?.windows(2).find_map(|pair| match pair {
        [word, value] if word.eq_ignore_ascii_case("id") => Some(*value),
        _ => None,
    })?;
    let id = value.trim_start_matches('<').trim_end_matches('>');
    let well_formed = (1..=QUEUE_ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    well_formed.then(|| id.to_owned())
}

/// The text with each comment, nested ones included, as one space.
fn without_comments(text: &str) -> String {
    let mut depth = 0_usize;
    let mut escaped = false;
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if depth > 0 => escaped = true,
            '(' => depth = depth.saturating_add(1),
            ')' if depth > 0 => {
                depth -= 1;
                plain.push(' ');
            }
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Header;

    fn id_of(value: &str) -> Option<String> {
        let above = Header::written("Authentication-Results", "mx.acme.example; spf=pass");
        let older = Header::written("Received", "from x by y with SMTP id OLDER; Sun, 22 Nov 2026 08:00:00 +0000");
        queue_id(&Headers::new(vec![above, Header::new(b"Received", value.as_bytes()), older]))
    }

    #[test]
    fn the_id_of_each_mta_is_found() {
        for (value, expected) in [
            (
                " from client.example (unknown [192.0.2.1])\r\n\t(using TLSv1.3 with cipher X (256/256 bits))\r\n\t(No client \
                 certificate requested)\r\n\tby mx.acme.example (Postfix) with ESMTPS id 4XyzAb1kQ9z1\r\n\tfor \
                 <support@acme.example>; Sun, 22 Nov 2026 08:23:12 +0000 (UTC)",
                "4XyzAb1kQ9z1",
            ),
            (
                " by mx.acme.example (Postfix, from userid 1000)\r\n\tid 0A1B2C3D4E; Sun, 22 Nov 2026 08:00:00 +0000",
                "0A1B2C3D4E",
            ),
            (
                " from client.example ([192.0.2.1])\r\n\tby mx.acme.example with esmtps (TLS1.3) (Exim 4.96)\r\n\t\
                 (envelope-from <a@b.example>)\r\n\tid 1tEABC-000XYZ-1a\r\n\tfor support@acme.example; Sun, 22 Nov 2026",
                "1tEABC-000XYZ-1a",
            ),
            (" from id (id [192.0.2.1]) by mx (id id WRONG) with ESMTP id RIGHT; date", "RIGHT"),
        ] {
            assert_eq!(id_of(value).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_field_without_id_gives_none() {
        for value in
            [" from id by mx; id LATE", " ((((", "", " id", &format!(" by mx id {}", "a".repeat(65)), " by mx id ü"]
        {
            assert_eq!(id_of(value), None, "{value}");
        }
        assert_eq!(queue_id(&Headers::new(Vec::new())), None);
    }
}
