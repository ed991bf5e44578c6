//! From what became of each recipient to the one answer that an SMTP transaction has.
//!
//! | outcomes | answer |
//! | --- | --- |
//! | all taken, or handed to `rejected_to` | the message goes on, without them |
//! | one was put off (4xx) | that 4xx. The client comes again with all; the journal answers for those that were taken |
//! | otherwise, one was refused (5xx) | that 5xx, with a line that names who has the message nevertheless |
//!
//! So nothing is lost: whoever did not get the message is told to a client or a sender. And nothing is doubled: who got it is
//! not asked twice.

use super::Route;
use crate::mail::{Disposition, Envelope, HeaderEdit, Path, RecipientEdit, Reply, Verdict};
use crate::relay::refused_field;

/// What became of a message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) to: Path,
    pub(super) connector: String,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// The endpoint has it.
    Taken { keep_copy: bool },
    /// The endpoint refused it for good; the company's mailbox gets it instead.
    HandedBack { reply: Reply, mailbox: Path, keep_copy: bool },
    /// 4xx or 5xx.
    Refused(Reply),
}

impl Outcome {
    /// The same refusal for all recipients of a route.
    pub(super) fn of_all(route: &Route, to: &[Path], reply: &Reply) -> Vec<Self> {
        let connector = &route.connector.name;
        let one = |to: &Path| Self { to: to.clone(), connector: connector.clone(), fate: Fate::Refused(reply.clone()) };
        to.iter().map(one).collect()
    }

    fn refusal(&self) -> Option<&Reply> {
        match &self.fate {
            Fate::Refused(reply) => Some(reply),
            Fate::Taken { .. } | Fate::HandedBack { .. } => None,
        }
    }
}

/// The verdict with what became of the message.
pub(super) fn conclude(outcomes: Vec<Outcome>, envelope: &Envelope, mut verdict: Verdict) -> Verdict {
    let refusals = || outcomes.iter().filter_map(Outcome::refusal);
    if let Some(reply) = refusals().find(|reply| !reply.is_permanent()) {
        return Verdict::refuse(reply.clone());
    }
    if let Some(reply) = refusals().next() {
        return Verdict::refuse(with_those_who_have_it(reply, &outcomes, envelope));
    }
    // One field for each connector, however many recipients it has.
    let mut refused: Vec<(&str, Vec<(Path, Reply)>)> = Vec::new();
    for outcome in &outcomes {
        let keep_copy = match &outcome.fate {
            Fate::Taken { keep_copy } => *keep_copy,
            Fate::HandedBack { reply, mailbox, keep_copy } => {
                let one = (outcome.to.clone(), reply.clone());
                match refused.iter_mut().find(|(connector, _)| *connector == outcome.connector) {
                    Some((_, all)) => all.push(one),
                    None => refused.push((&outcome.connector, vec![one])),
                }
                let edit = RecipientEdit::Add(mailbox.clone());
                if !envelope.recipients.contains(mailbox) && !verdict.recipients.contains(&edit) {
                    verdict.recipients.push(edit);
                }
                *keep_copy
            }
            Fate::Refused(_) => true,
        };
        if !keep_copy {
            verdict.recipients.push(RecipientEdit::Remove(outcome.to.clone()));
        }
    }
    let fields = refused.iter().map(|(connector, all)| HeaderEdit::Prepend(refused_field(connector, all)));
    verdict.edits.extend(fields);
    verdict.disposition = Disposition::Continue;
    verdict
}

/// A refusal for good of a message that some recipients have: its sender should not send it to those again.
fn with_those_who_have_it(reply: &Reply, outcomes: &[Outcome], envelope: &Envelope) -> Reply {
    let who = |wanted: fn(&Outcome) -> bool| {
        let names: Vec<String> = outcomes.iter().filter(|o| wanted(o)).map(|o| o.to.to_string()).collect();
        names.join(" ")
    };
    let have_it = who(|outcome| outcome.refusal().is_none());
    if have_it.is_empty() && outcomes.len() == envelope.recipients.len() {
        return reply.clone();
    }
    let refused = who(|outcome| outcome.refusal().is_some());
    let mut told = format!("this concerns {refused}");
    if !have_it.is_empty() {
        told.push_str(&format!("; the message has reached {have_it}"));
    }
    reply.clone().followed_by(&told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> Path {
        Path::parse(format!("{name}@acme.example").as_bytes()).unwrap()
    }

    fn outcome(name: &str, fate: Fate) -> Outcome {
        Outcome { to: path(name), connector: "acme".to_owned(), fate }
    }

    fn conclude_all(outcomes: Vec<Outcome>) -> Verdict {
        let recipients = outcomes.iter().map(|outcome| outcome.to.clone()).collect();
        conclude(outcomes, &Envelope { recipients, ..Envelope::default() }, Verdict::pass())
    }

    const TAKEN: Fate = Fate::Taken { keep_copy: false };

    fn later() -> Fate {
        Fate::Refused(Reply::new(451, 4, 1, "later"))
    }

    fn never() -> Fate {
        Fate::Refused(Reply::new(550, 1, 1, "never"))
    }

    #[test]
    fn who_has_it_is_removed_and_with_a_copy_stays() {
        let verdict = conclude_all(vec![outcome("a", TAKEN), outcome("b", Fate::Taken { keep_copy: true })]);
        assert_eq!(verdict, Verdict { recipients: vec![RecipientEdit::Remove(path("a"))], ..Verdict::pass() });
        assert_eq!(conclude_all(vec![]), Verdict::pass());
    }

    #[test]
    fn one_who_must_wait_makes_all_come_again() {
        for outcomes in [
            vec![outcome("a", TAKEN), outcome("b", later())],
            vec![outcome("a", never()), outcome("b", later())],
            vec![outcome("a", later())],
        ] {
            let verdict = conclude_all(outcomes);
            assert_eq!(verdict, Verdict::refuse(Reply::new(451, 4, 1, "later")));
        }
    }

    #[test]
    fn a_refusal_names_who_was_refused_and_who_has_it() {
        let Disposition::Refuse(reply) = conclude_all(vec![outcome("a", TAKEN), outcome("b", never())]).disposition
        else {
            panic!("somebody must hear of it")
        };
        let wire = String::from_utf8(reply.to_wire()).unwrap();
        assert_eq!(
            wire,
            "550-5.1.1 never\r\n550 5.1.1 this concerns <b@acme.example>; the message has reached <a@acme.example>\r\n"
        );
        assert_eq!(conclude_all(vec![outcome("a", never())]), Verdict::refuse(Reply::new(550, 1, 1, "never")));
    }

    #[test]
    fn what_is_handed_back_goes_to_the_mailbox_once_with_the_reason() {
        let back = |reply: &str| Fate::HandedBack {
            reply: Reply::new(550, 1, 1, reply),
            mailbox: path("postmaster"),
            keep_copy: false,
        };
        let verdict = conclude_all(vec![outcome("a", back("no")), outcome("b", back("never"))]);
        assert_eq!(
            verdict.recipients,
            [
                RecipientEdit::Add(path("postmaster")),
                RecipientEdit::Remove(path("a")),
                RecipientEdit::Remove(path("b"))
            ]
        );
        let [HeaderEdit::Prepend(field)] = verdict.edits.as_slice() else { panic!("one field: {:?}", verdict.edits) };
        let text = field.text();
        assert!(text.contains("to=<a@acme.example>; reply=\"550 5.1.1 no\""), "{text}");
        assert!(text.contains("to=<b@acme.example>; reply=\"550 5.1.1 never\""), "{text}");
        let many = (0..1_000).map(|n| outcome(&format!("support+{n}"), back("no"))).collect();
        let verdict = conclude_all(many);
        assert_eq!((verdict.edits.len(), verdict.recipients.len()), (1, 1_001));
        let verdict = conclude_all(vec![outcome("a", back("no")), outcome("b", later())]);
        assert_eq!(verdict, Verdict::refuse(Reply::new(451, 4, 1, "later")));
    }
}
