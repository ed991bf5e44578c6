//! Who of a message's recipients gets it by the same hand-over: what differs for them is the extension of the address for a
//! program, the queue for RT, and nothing for others.

use crate::config::{Connector, Delivery, DeliveryWay, RtTarget, Shape};
use crate::mail::{Address, Envelope, Path};

/// Characters that a value in a program's environment may have: those of Postfix's `command_expansion_filter` that are found in
/// addresses. Everybody may write to a support address, and a script that forgets a quote must not run what they write.
const PLAIN: &[u8] = b"@%-_=+:,./";

/// One hand-over.
#[derive(Debug)]
pub(super) struct Destination<'c> {
    /// Positions in the envelope.
    pub(super) recipients: Vec<usize>,
    /// What a program finds in its environment: `SENDER`, `RECIPIENT` and, where there is one, `EXTENSION`.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The queue of RT.
    pub(super) target: Option<&'c RtTarget>,
}

impl<'c> Destination<'c> {
    /// All hand-overs of a message, in the order of its recipients.
    pub(super) fn all(connector: &Connector, section: &'c Delivery, envelope: &Envelope) -> Vec<Self> {
        let mut all: Vec<(Option<String>, Self)> = Vec::new();
        for (index, path) in envelope.recipients.iter().enumerate() {
            let address = path.address();
            let (target, extension) = match &section.way {
                DeliveryWay::Command(_) => (None, address.as_ref().and_then(|address| extension(connector, address))),
                DeliveryWay::Post(post) => match &post.shape {
                    Shape::Message { .. } => (None, None),
                    Shape::RtForm { target, queues } => {
                        let own = address.as_ref().and_then(|address| support_address(connector, address));
                        let queue = queues.iter().find(|(address, _)| Some(address) == own.as_ref());
                        (Some(queue.map_or(target, |(_, target)| target)), None)
                    }
                },
            };
            match all.iter_mut().find(|(known, other)| *known == extension && other.target == target) {
                Some((_, other)) => other.recipients.push(index),
                None => {
                    let environment = environment(&envelope.sender, path, extension.as_deref());
                    all.push((extension, Self { recipients: vec![index], environment, target }));
                }
            }
        }
        all.into_iter().map(|(_, destination)| destination).collect()
    }
}

fn environment(sender: &Path, recipient: &Path, extension: Option<&str>) -> Vec<(&'static str, String)> {
    let bare = |path: &Path| plain(path.to_string().trim_start_matches('<').trim_end_matches('>'));
    let mut environment = vec![("SENDER", bare(sender)), ("RECIPIENT", bare(recipient))];
    environment.extend(extension.map(|extension| ("EXTENSION", plain(extension))));
    environment
}

fn plain(text: &str) -> String {
    let fit = |c: char| c.is_ascii_alphanumeric() || u8::try_from(c).is_ok_and(|b| PLAIN.contains(&b));
    // Nor must it become an option of what the script calls: Postfix takes no such address (allow_min_user), Exim does.
    let option = |at: usize, c: char| at == 0 && c == '-';
    text.chars().enumerate().map(|(at, c)| if fit(c) && !option(at, c) { c } else { '_' }).collect()
}

/// `4711` of `support+4711@acme.example`.
fn extension(connector: &Connector, address: &Address) -> Option<String> {
    if connector.addresses.contains(address) {
        return None;
    }
    let (_, extension) = address.local().split_once(connector.recipient_delimiter?)?;
    (!extension.is_empty()).then(|| extension.to_owned())
}

/// The support address that `address` is, or is with an extension.
fn support_address(connector: &Connector, address: &Address) -> Option<Address> {
    if connector.addresses.contains(address) {
        return Some(address.clone());
    }
    address.without_extension(connector.recipient_delimiter?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(delivery: &str) -> Config {
        let text = format!(
            "[daemon]\nhostname = \"desk.acme.example\"\n[transport]\ndirectory = \"s\"\n[[connector]]\nname = \"acme\"\n\
             domain = \"acme.example\"\naddresses = [\"support@acme.example\", \"billing@acme.example\"]\n\
             [connector.delivery]\n{delivery}\n"
        );
        Config::parse(&text, std::path::Path::new("/nonexistent/deskmilter.toml")).unwrap()
    }

    fn envelope(recipients: &[&str]) -> Envelope {
        let path = |text: &&str| Path::parse(text.as_bytes()).unwrap();
        Envelope {
            sender: path(&"\"a b;$(x)\"@end.example"),
            recipients: recipients.iter().map(path).collect(),
            ..Envelope::default()
        }
    }

    fn destinations(
        delivery: &str,
        recipients: &[&str],
        look: impl Fn(Destination<'_>) -> String,
    ) -> Vec<(Vec<usize>, String)> {
        let config = config(delivery);
        let connector = &config.connectors[0];
        let all = Destination::all(connector, connector.delivery.as_ref().unwrap(), &envelope(recipients));
        all.into_iter().map(|destination| (destination.recipients.clone(), look(destination))).collect()
    }

    #[test]
    fn a_program_gets_a_message_once_for_each_extension() {
        let recipients =
            ["support@acme.example", "Billing@acme.example", "support+4$rm@acme.example", "support+@acme.example"];
        let environment = |destination: Destination<'_>| {
            destination.environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let found = destinations("command = [\"/bin/x\"]", &recipients, environment);
        assert_eq!(
            found,
            [
                (vec![0, 1, 3], "SENDER=_a_b___x__@end.example RECIPIENT=support@acme.example".to_owned()),
                (
                    vec![2],
                    "SENDER=_a_b___x__@end.example RECIPIENT=support+4_rm@acme.example EXTENSION=4_rm".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn no_value_begins_as_an_option_does() {
        for (text, expected) in [("-rf", "_rf"), ("--x=a-b", "_-x=a-b"), ("a-b@c.example", "a-b@c.example"), ("", "")] {
            assert_eq!(plain(text), expected);
        }
    }

    #[test]
    fn rt_gets_a_message_once_for_each_queue_and_others_once_in_all() {
        let recipients = ["support@acme.example", "billing+9@acme.example", "support+4@acme.example"];
        let queue =
            |destination: Destination<'_>| destination.target.map(|target| target.queue.clone()).unwrap_or_default();
        let rt = "preset = \"rt\"\nurl = \"https://rt.example\"\nqueues = [{ address = \"billing@acme.example\", queue = \"Money\" }]";
        let found = destinations(rt, &recipients, queue);
        assert_eq!(found, [(vec![0, 2], "General".to_owned()), (vec![1], "Money".to_owned())]);
        assert_eq!(destinations("url = \"https://x.example\"", &recipients, queue), [(vec![0, 1, 2], String::new())]);
    }
}
