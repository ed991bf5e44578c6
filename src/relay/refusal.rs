//! Refusals that providers document, by name: what a postmaster searches for, and whether it concerns the message at all.
//!
//! The texts are those of Exchange Online ("SMTP AUTH client submission", "NDR codes in Exchange Online", "SMTP submission
//! improvements") and of Gmail ("Gmail SMTP errors and codes"). They are matched by enhanced code where it says enough, else
//! by words that stand in no other reply.

use super::reply::RemoteReply;
use crate::mail::Reply;

/// A refusal that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For the log and the reply.
    pub name: &'static str,
    pub concerns: Concerns,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concerns {
    /// The account, or what it may do: somebody must act there, and the message may pass then.
    Account,
    /// So much at a time, or in a day: time heals it.
    Rate,
    /// This message.
    Message,
}

const SMTP_AUTH_DISABLED: Refusal = Refusal {
    name: "smtp_auth_disabled",
    concerns: Concerns::Account,
    remedy: "enable authenticated SMTP for this mailbox or tenant, and use xoauth2",
};
const PLATFORM_BLOCKED: Refusal = Refusal {
    name: "platform_blocked",
    concerns: Concerns::Account,
    remedy: "a policy of the provider keeps this account or address out; see its admin centre",
};
const SEND_AS_DENIED: Refusal = Refusal {
    name: "send_as_denied",
    concerns: Concerns::Account,
    remedy: "give the account the right to send as this address, or the address a credential of its own",
};
const RATE_LIMITED: Refusal =
    Refusal { name: "rate_limited", concerns: Concerns::Rate, remedy: "lower host.connections or host.rate" };
const ATTACHMENT_REFUSED: Refusal = Refusal {
    name: "attachment_refused",
    concerns: Concerns::Message,
    remedy: "the provider does not take this attachment or size",
};

/// Code (0 for any), enhanced code or `""`, words in lower case or `""`.
type Sign = (u16, &'static str, &'static str);

/// The first row that fits counts.
const SIGNS: &[(Refusal, &[Sign])] = &[
    (
        SMTP_AUTH_DISABLED,
        &[
            (0, "", "smtpclientauthentication is disabled"),
            (0, "", "basic authentication is disabled"),
            (0, "5.7.30", "basic authentication is not supported"),
            (0, "5.7.57", "not authenticated to send"),
        ],
    ),
    (
        SEND_AS_DENIED,
        &[
            (0, "", "sendasdenied"),
            (0, "5.2.252", ""),
            (0, "5.7.60", ""),
            (0, "", "does not have permissions to send as this sender"),
        ],
    ),
    (
        RATE_LIMITED,
        &[
            (432, "", ""),
            (0, "4.7.28", ""),
            (0, "5.1.90", ""),
            (0, "5.7.232", ""),
            (0, "5.7.233", ""),
            (0, "5.4.5", "quota exceeded"),
            (0, "5.4.5", "sending limit exceeded"),
            (0, "", "submissionquotaexceeded"),
            (0, "4.2.1", "smtp relay limit exceeded"),
            (0, "5.7.1", "smtp relay limit exceeded"),
            (0, "4.7.0", "too many login attempts"),
            (421, "4.7.0", "try again later, closing connection"),
        ],
    ),
    (
        PLATFORM_BLOCKED,
        &[
            (0, "", "security defaults policy"),
            (0, "", "did not meet the criteria to be authenticated"),
            (534, "5.7.9", ""),
            (534, "5.7.14", ""),
            (0, "5.1.8", "bad outbound sender"),
            (0, "5.7.501", ""),
            (0, "5.7.502", ""),
            (0, "5.7.503", ""),
            (0, "5.7.705", ""),
            (0, "5.7.708", ""),
            (0, "5.7.1", "invalid credentials for relay"),
        ],
    ),
    (
        ATTACHMENT_REFUSED,
        &[
            (552, "5.7.0", "content presents a potential security issue"),
            (552, "5.7.0", "was blocked"),
            (552, "5.3.4", ""),
        ],
    ),
];

impl Refusal {
    /// What `reply` is known as.
    pub fn of(reply: &RemoteReply) -> Option<Self> {
        if reply.code < 400 {
            return None;
        }
        let said = reply.as_reply();
        if quotes_another(&said) {
            return None;
        }
        let (enhanced, text) = (said.enhanced().unwrap_or_default(), said.text().to_lowercase());
        let fits = |&(code, number, words): &Sign| {
            (code == 0 || code == reply.code) && (number.is_empty() || number == enhanced) && text.contains(words)
        };
        SIGNS.iter().find(|(_, signs)| signs.iter().any(fits)).map(|(refusal, _)| *refusal)
    }
}

/// Whether the words are those of a third server, which the host has asked for the recipient (Postfix's address verification:
/// `host mx.end.example[192.0.2.1] said: 550 ...`, with that server's enhanced code). Whoever runs it writes there what he likes, and
/// it says nothing of our account.
pub(super) fn quotes_another(reply: &Reply) -> bool {
    reply.text().contains(" said: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_refusals_have_their_names_and_others_none() {
        for (code, lines, expected) in [
            (
                535,
                &["5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit \
                   https://aka.ms/smtp_auth_disabled for more information. [X.prod.outlook.com]"][..],
                Some("smtp_auth_disabled"),
            ),
            (
                535,
                &["5.7.139 Authentication unsuccessful, basic authentication is disabled."],
                Some("smtp_auth_disabled"),
            ),
            (550, &["5.7.30 Basic authentication is not supported for Client Submission."], Some("smtp_auth_disabled")),
            (530, &["5.7.57 Client not authenticated to send mail. [X.prod.outlook.com]"], Some("smtp_auth_disabled")),
            (
                535,
                &[
                    "5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
                ],
                Some("platform_blocked"),
            ),
            (
                534,
                &["5.7.9 Application-specific password required. For more information, go to", "5.7.9 x"],
                Some("platform_blocked"),
            ),
            (
                534,
                &["5.7.14 <https://accounts.google.com/signin/continue>", "5.7.14 Please log in"],
                Some("platform_blocked"),
            ),
            (
                550,
                &["5.7.708 Service unavailable. Access denied, traffic not accepted from this IP."],
                Some("platform_blocked"),
            ),
            (
                554,
                &["5.2.252 SendAsDenied; desk@acme.example not allowed to send as x@acme.example"],
                Some("send_as_denied"),
            ),
            (550, &["5.7.60 SMTP; Client does not have permissions to send as this sender"], Some("send_as_denied")),
            (
                554,
                &[
                    "5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process",
                ],
                Some("send_as_denied"),
            ),
            (432, &["4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"], Some("rate_limited")),
            (421, &["4.7.28 Our system has detected an unusual rate"], Some("rate_limited")),
            (550, &["5.4.5 Daily user sending quota exceeded."], Some("rate_limited")),
            (454, &["4.7.0 Too many login attempts, please try again later."], Some("rate_limited")),
            (
                552,
                &["5.7.0 This message was blocked because its content presents a potential", "5.7.0 security issue."],
                Some("attachment_refused"),
            ),
            (552, &["5.3.4 Message size exceeds fixed maximum message size"], Some("attachment_refused")),
            (535, &["5.7.8 Username and Password not accepted."], None),
            (535, &["5.7.3 Authentication unsuccessful"], None),
            (550, &["5.1.1 no such user"], None),
            (550, &["5.4.5 something else"], None),
            (250, &["2.0.0 SendAsDenied"], None),
            (
                550,
                &["5.7.60 <x@y.example>: undeliverable address: host mx.y.example[192.0.2.1] said: 550 SendAsDenied"],
                None,
            ),
        ] {
            let reply = RemoteReply { code, lines: lines.iter().map(|&line| line.to_owned()).collect() };
            assert_eq!(Refusal::of(&reply).map(|refusal| refusal.name), expected, "{lines:?}");
        }
    }
}
