//! Which header fields of a notification must reach the end user unchanged, and what of them is missing.

use super::acceptable;
use crate::config::{Connector, System};
use crate::mail::{Header, HeaderEdit, Headers};

/// Fields that no ticket system can do without: never rewritten, sealed before a content filter and put back after it. The
/// short ones come first, for the seal carries no more than it can.
pub(super) const GUARDED: [&str; 7] = ["From", "Message-ID", "Reply-To", "In-Reply-To", "References", "Cc", "To"];

/// A field to preserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Preserved {
    pub(super) name: String,
    /// Its value in every notification of the system; `None` where only the ticket system knows it.
    constant: Option<&'static str>,
}

/// What puts preserved fields right, and what cannot be put right.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Repair {
    /// What puts known values back.
    pub(super) edits: Vec<HeaderEdit>,
    /// Names whose value was put back.
    pub(super) restored: Vec<String>,
    /// Names that are missing or wrong and stay so.
    pub(super) lost: Vec<String>,
}

/// The fields that the ticket system writes into every notification, as its source or its mail shows. A name without a value
/// differs from message to message or from site to site.
fn preset(system: System) -> &'static [(&'static str, Option<&'static str>)] {
    match system {
        System::Zendesk => &[
            ("Auto-Submitted", Some("auto-generated")),
            ("X-Auto-Response-Suppress", Some("All")),
            ("X-Mailer", Some("Zendesk Mailer")),
            ("X-Zendesk-From-Account-Id", None),
            ("X-Zendesk-Email-Id", None),
        ],
        // Channel::EmailBuild. Auto-Submitted and its kin are only in mail of triggers, so they cannot be asked for.
        System::Zammad => &[
            ("X-Powered-By", Some("Zammad - Helpdesk/Support (https://zammad.org/)")),
            ("X-Mailer", Some("Zammad Mail Service")),
        ],
        // RT::Action::SendEmail. Since 4.4 the other two are X-RT-Ticket and X-Managed-By, before RT-Ticket and Managed-By.
        System::Rt => &[("X-RT-Loop-Prevention", None)],
        // Kernel::System::Email: both hold product and version.
        System::Otrs => &[("X-Mailer", None), ("X-Powered-By", None)],
        // App\Mail: customer.message, user.notification, auto.reply and so on.
        System::FreeScout => &[("X-FreeScout-Mail-Type", None)],
        System::Generic => &[],
    }
}

/// The fields that `connector` preserves besides the guarded ones. A name in its own list keeps the value that the preset
/// knows.
pub(super) fn of(connector: &Connector) -> Vec<Preserved> {
    let preset = preset(connector.system);
    let known = |name: &str| preset.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).and_then(|(_, v)| *v);
    match &connector.preserve.headers {
        Some(names) => names.iter().map(|name| Preserved { name: name.clone(), constant: known(name) }).collect(),
        None => {
            preset.iter().map(|(name, constant)| Preserved { name: (*name).to_owned(), constant: *constant }).collect()
        }
    }
}

/// Compares the header section of a notification with what it should hold.
///
/// A field that an existing signature covers is left alone whatever it is: the signature says that it was sent so, or is
/// broken already; changing it could only do harm.
pub(super) fn check(headers: &Headers, preserved: &[Preserved]) -> Repair {
    let mut repair = Repair::default();
    for Preserved { name, constant } in preserved {
        let present: Vec<(usize, &Header)> = headers.iter().enumerate().filter(|(_, field)| field.is(name)).collect();
        let Some(constant) = constant else {
            if !present.iter().any(|(_, field)| !field.unfolded().is_empty()) {
                repair.lost.push(name.clone());
            }
            continue;
        };
        let right = |field: &Header| field.unfolded().eq_ignore_ascii_case(constant.as_bytes());
        if matches!(present.as_slice(), [(_, field)] if right(field)) {
            continue;
        }
        if is_signed(headers, name) {
            repair.lost.push(name.clone());
            continue;
        }
        // Of several, one that is right stays.
        let stays = present.iter().find(|(_, field)| right(field)).or(present.first()).map(|(index, _)| *index);
        for (index, field) in present {
            if Some(index) != stays {
                repair.edits.push(HeaderEdit::Remove { index });
            } else if !right(field) {
                repair.edits.push(HeaderEdit::Replace { index, field: Header::written(name, constant) });
            }
        }
        if stays.is_none() {
            repair.edits.push(HeaderEdit::Append(Header::written(name, constant)));
        }
        repair.restored.push(name.clone());
    }
    repair
}

/// Whether a signature in the message covers the field or its absence.
fn is_signed(headers: &Headers, name: &str) -> bool {
    headers.named("DKIM-Signature").any(|field| {
        let covers =
            |list: &[u8]| list.split(|&b| b == b':').any(|n| n.trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
        acceptable::tags(&field.unfolded()).iter().any(|(tag, value)| *tag == b"h" && covers(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::HeadersBuilder;

    fn headers(text: &str) -> Headers {
        let mut builder = HeadersBuilder::new(1 << 16);
        builder.push(format!("{text}\r\n").as_bytes()).unwrap().unwrap().headers
    }

    fn zendesk() -> Vec<Preserved> {
        preset(System::Zendesk)
            .iter()
            .map(|(name, constant)| Preserved { name: (*name).to_owned(), constant: *constant })
            .collect()
    }

    const GOOD: &str = "Auto-Submitted: auto-generated\r\nX-Auto-Response-Suppress: All\r\nX-Mailer: Zendesk Mailer\r\n\
        X-Zendesk-From-Account-Id: 1a2b3c4\r\nX-Zendesk-Email-Id: 01HZX\r\nFrom: a@b.example\r\n";

    #[test]
    fn what_is_as_it_should_be_is_not_touched() {
        for text in [GOOD.to_owned(), GOOD.replace("X-Mailer: ", "x-mailer:\r\n\t"), GOOD.replace(": All", ": all")] {
            assert_eq!(check(&headers(&text), &zendesk()), Repair::default(), "{text}");
        }
    }

    #[test]
    fn known_values_come_back_and_unknown_ones_are_told() {
        for (text, restored, lost) in [
            (GOOD.replace("X-Mailer: Zendesk Mailer\r\n", ""), vec!["X-Mailer"], vec![]),
            (GOOD.replace(": auto-generated", ": no"), vec!["Auto-Submitted"], vec![]),
            (GOOD.replace(": auto-generated", ":"), vec!["Auto-Submitted"], vec![]),
            (format!("X-Mailer: Zendesk Mailer\r\n{GOOD}"), vec!["X-Mailer"], vec![]),
            (format!("X-Mailer: Other\r\n{GOOD}"), vec!["X-Mailer"], vec![]),
            (GOOD.replace("X-Zendesk-Email-Id: 01HZX\r\n", ""), vec![], vec!["X-Zendesk-Email-Id"]),
            (GOOD.replace(": 01HZX", ":"), vec![], vec!["X-Zendesk-Email-Id"]),
            (
                format!("DKIM-Signature: v=1; h=From:\r\n\tX-MAILER;\r\n{}", GOOD.replace("Zendesk Mailer", "Other")),
                vec![],
                vec!["X-Mailer"],
            ),
        ] {
            let mut section = headers(&text);
            let repair = check(&section, &zendesk());
            assert_eq!(
                (repair.restored.clone(), repair.lost),
                (restored.iter().map(|n| n.to_string()).collect(), lost.iter().map(|n| n.to_string()).collect()),
                "{text}"
            );
            section.apply(&repair.edits);
            if !restored.is_empty() {
                assert_eq!(check(&section, &zendesk()), Repair::default(), "{text}");
            }
        }
    }
}
