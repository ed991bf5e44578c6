//! Which addresses are taken down, and where their mail goes from then on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Stop;
use crate::config::{Config, Connector};
use crate::mail::{Address, Domain};

/// Octets of a list of addresses at most.
const LIST_MAX: usize = 1 << 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// All connectors of that domain, and what was issued for it.
    pub domain: Option<Domain>,
    /// Or these addresses, each with where its mail goes if that was said for it alone.
    pub addresses: BTreeMap<Address, Option<Address>>,
    /// Where the mail of all others goes.
    pub way: Way,
}

/// Where mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To the same local part in the ticket system's own domain.
    Native,
    /// To that address.
    Forward(Address),
    /// Wherever the MTA delivers it without us.
    Mailbox,
}

/// What is taken down of one connector.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) connector: Arc<Connector>,
    /// Those of its addresses that go.
    pub(super) addresses: Vec<Address>,
    /// Where mail for the address goes; `None` for a mailbox.
    pub(super) ways: BTreeMap<Address, Option<Address>>,
}

impl Target {
    /// Whether nothing of the connector is left.
    pub(super) fn is_whole(&self) -> bool {
        self.addresses.len() == self.connector.addresses.len()
    }
}

impl Request {
    /// What names the request in a record, so that the same one is known again.
    pub fn name(&self) -> String {
        match &self.domain {
            Some(domain) => domain.to_string(),
            None => self.addresses.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    /// Where it says that mail goes, in the words of the command; `None` where it says nothing of it.
    pub fn way(&self) -> Option<String> {
        let own = self.addresses.iter().filter_map(|(address, to)| Some(format!("{address} {}", to.as_ref()?)));
        let all = match &self.way {
            Way::Native => None,
            Way::Forward(to) => Some(format!("--forward-to {to}")),
            Way::Mailbox => Some("--to-mailbox".to_owned()),
        };
        let words: Vec<String> = all.into_iter().chain(own).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// What it comes to with `config`.
    pub(super) fn targets(&self, config: &Config) -> Result<Vec<Target>, Stop> {
        let mut targets = Vec::new();
        for connector in &config.connectors {
            let goes = |address: &&Address| match &self.domain {
                Some(domain) => connector.domain == *domain,
                None => self.addresses.contains_key(address),
            };
            let addresses: Vec<Address> = connector.addresses.iter().filter(goes).cloned().collect();
            if addresses.is_empty() {
                continue;
            }
            let ways = match connector.endpoint {
                Some(_) => self.ways(connector, &addresses)?,
                None => BTreeMap::new(),
            };
            targets.push(Target { connector: Arc::clone(connector), addresses, ways });
        }
        let found = |address: &&Address| targets.iter().any(|target| target.addresses.contains(address));
        let unknown: Vec<String> =
            self.addresses.keys().filter(|address| !found(address)).map(ToString::to_string).collect();
        if !unknown.is_empty() {
            return Err(Stop::Refused(format!("not a support address of any connector: {}", unknown.join(", "))));
        }
        Ok(targets)
    }

    fn ways(&self, connector: &Connector, addresses: &[Address]) -> Result<BTreeMap<Address, Option<Address>>, Stop> {
        let mut ways = BTreeMap::new();
        for address in addresses {
            let own = self.addresses.get(address).cloned().flatten();
            let way = match (own, &self.way) {
                (Some(own), _) => Some(own),
                (None, Way::Forward(to)) => Some(to.clone()),
                (None, Way::Mailbox) => None,
                // Its mail goes its own way, which nobody may change by saying nothing.
                (None, Way::Native) if connector.observe => {
                    return Err(Stop::Refused(format!(
                        "connector {} only observes, so that mail for {address} does not go through it: take the connector out of the \
                         configuration and reload deskmilter, or say --forward-to ADDRESS or --to-mailbox",
                        connector.name
                    )));
                }
                (None, Way::Native) => Some(native(connector, address)?),
            };
            if way.as_ref().is_some_and(|to| addresses.contains(to) || self.addresses.contains_key(to)) {
                return Err(Stop::Refused(format!(
                    "{address} would be forwarded to an address that is taken down too"
                )));
            }
            ways.insert(address.clone(), way);
        }
        Ok(ways)
    }
}

fn native(connector: &Connector, address: &Address) -> Result<Address, Stop> {
    let native = connector.native_domain.as_ref().and_then(|domain| {
        let local = address.local();
        Address::parse(&format!("{local}@{domain}")).ok()
    });
    native.ok_or_else(|| {
        Stop::Refused(format!(
            "connector {} has no native_domain, so it is not known where mail for {address} makes tickets; say --forward-to \
             ADDRESS, or --to-mailbox",
            connector.name
        ))
    })
}

/// Reads a list of addresses, one a line, each with where its mail goes if that is another place than for the rest. A `#` begins
/// a comment.
///
/// # Errors
/// Names the line that cannot be read.
pub fn read_list(text: &str) -> Result<BTreeMap<Address, Option<Address>>, String> {
    if text.len() > LIST_MAX {
        return Err("larger than 1 MiB; this is no list of support addresses".to_owned());
    }
    let mut list = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        let wrong = |what: &str| format!("line {}: {what}", number.saturating_add(1));
        let parse = |word: &str| Address::parse(word).map_err(|error| wrong(&format!("{word}: {error}")));
        let (address, to) = (parse(address)?, words.next().map(parse).transpose()?);
        if words.next().is_some() {
            return Err(wrong("write ADDRESS, or ADDRESS FORWARD-TO"));
        }
        list.insert(address, to);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn a_list_has_an_address_a_line_and_where_its_mail_goes() {
        let list =
            read_list("# all of them\nsupport@acme.example\n\n billing@acme.example  b@desk.example # note\n").unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[&address("support@acme.example")], None);
        assert_eq!(list[&address("billing@acme.example")], Some(address("b@desk.example")));
        for (wrong, said) in
            [("x", "line 1"), ("a@b.example c", "line 1"), ("#\na@b.example c@d.example e", "line 2: write")]
        {
            assert!(read_list(wrong).unwrap_err().contains(said), "{wrong}");
        }
    }

    fn config() -> Config {
        let folder = std::path::Path::new("/nonexistent");
        let text = "[daemon]\nhostname = \"mx.acme.example\"\n\
                    [[connector]]\nname = \"one\"\nsystem = \"zendesk\"\naccount = \"acme\"\ndomain = \"acme.example\"\n\
                    mode = \"outbound-only\"\naddresses = [\"support@acme.example\", \"billing@acme.example\"]\n\
                    [[connector]]\nname = \"two\"\ndomain = \"other.example\"\nmode = \"outbound-only\"\n\
                    addresses = [\"help@other.example\"]\n";
        Config::parse(text, &folder.join("deskmilter.toml")).unwrap()
    }

    fn request(domain: Option<&str>, addresses: &[&str]) -> Request {
        Request {
            domain: domain.map(|domain| Domain::parse(domain).unwrap()),
            addresses: addresses.iter().map(|text| (address(text), None)).collect(),
            way: Way::Native,
        }
    }

    #[test]
    fn a_domain_is_all_of_its_connectors_and_an_address_is_itself() {
        let targets = request(Some("acme.example"), &[]).targets(&config()).unwrap();
        assert!(targets.len() == 1 && targets[0].is_whole() && targets[0].connector.name == "one");
        let targets = request(None, &["billing@acme.example", "help@other.example"]).targets(&config()).unwrap();
        assert_eq!(targets.iter().map(Target::is_whole).collect::<Vec<_>>(), [false, true]);
        let unknown = request(None, &["billing@acme.example", "nobody@acme.example"]).targets(&config()).unwrap_err();
        assert!(unknown.to_string().contains("nobody@acme.example"), "{unknown}");
        assert!(request(Some("none.example"), &[]).targets(&config()).unwrap().is_empty());
    }

    #[test]
    fn mail_goes_to_the_native_address_unless_told_and_never_in_a_circle() {
        let config = config();
        let one = &config.connectors[0];
        let ways = request(None, &["billing@acme.example"]).ways(one, &one.addresses[1..]).unwrap();
        assert_eq!(ways[&address("billing@acme.example")], Some(address("billing@acme.zendesk.com")));
        let observing = Connector { observe: true, ..(**one).clone() };
        let refused = request(None, &["billing@acme.example"]).ways(&observing, &one.addresses[1..]).unwrap_err();
        assert!(refused.to_string().contains("only observes"), "{refused}");
        let two = request(Some("other.example"), &[]).ways(&config.connectors[1], &config.connectors[1].addresses);
        assert!(two.unwrap_err().to_string().contains("--forward-to"));
        let circle =
            Request { way: Way::Forward(address("support@acme.example")), ..request(Some("acme.example"), &[]) };
        assert!(circle.ways(one, &one.addresses).is_err());
    }
}
