//! The configuration without what is taken down: the postmaster's own text, comments and order kept.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::target::Target;
use crate::config::Config;
use crate::mail::Address;

/// `text` without `targets`. What is left is read and checked, and must be what `config` has besides.
///
/// # Errors
/// What has to be changed by hand first.
pub(super) fn without(text: &str, file: &Path, config: &Config, targets: &[Target]) -> Result<String, String> {
    let by_hand = |what: &str| format!("{}: {what}; take it out by hand, and try again", file.display());
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| by_hand(error.message()))?;
    let connectors = document
        .get_mut("connector")
        .and_then(Item::as_array_of_tables_mut)
        .ok_or_else(|| by_hand("the connectors are not written as [[connector]]"))?;
    let named = |table: &dyn TableLike, target: &Target| {
        table.get("name").and_then(Item::as_str) == Some(target.connector.name.as_str())
    };
    connectors.retain(|table| !targets.iter().any(|target| target.is_whole() && named(table, target)));
    for table in connectors.iter_mut() {
        if let Some(target) = targets.iter().find(|target| named(&*table, target)) {
            strike(table, &target.addresses);
        }
    }
    if connectors.is_empty() {
        document.remove("connector");
    }
    let after = document.to_string();
    let left = Config::parse(&after, file).map_err(|problems| {
        format!("without what is taken down the configuration would be wrong; change this by hand first:\n{problems}")
    })?;
    let untouched = |name: &str| !targets.iter().any(|target| target.connector.name == name);
    let before = config.connectors.iter().filter(|connector| untouched(&connector.name));
    let goes = |address: &Address| targets.iter().any(|target| target.addresses.contains(address));
    if !before.eq(left.connectors.iter().filter(|connector| untouched(&connector.name)))
        || left.connectors.iter().any(|connector| connector.addresses.iter().any(goes))
    {
        return Err(by_hand("what is taken down cannot be told from the rest"));
    }
    Ok(after)
}

/// Takes addresses out of one connector, wherever it names them.
fn strike(connector: &mut dyn TableLike, addresses: &[Address]) {
    strike_from(connector.get_mut("addresses"), addresses);
    if let Some(logins) = connector.get_mut("submission").and_then(|section| section.get_mut("logins")) {
        tables(logins).into_iter().for_each(|login| strike_from(login.get_mut("addresses"), addresses));
        // A login that may send as nobody any more.
        retain(logins, |login| login.get("addresses").and_then(Item::as_array).is_none_or(|left| !left.is_empty()));
    }
    if let Some(accounts) = connector.get_mut("host").and_then(|section| section.get_mut("credentials")) {
        retain(accounts, |account| {
            let address = account.get("address").and_then(Item::as_str).and_then(|text| Address::parse(text).ok());
            address.is_none_or(|address| !addresses.contains(&address))
        });
    }
}

fn strike_from(list: Option<&mut Item>, addresses: &[Address]) {
    if let Some(list) = list.and_then(Item::as_array_mut) {
        let goes = |value: &Value| {
            value
                .as_str()
                .and_then(|text| Address::parse(text).ok())
                .is_some_and(|address| addresses.contains(&address))
        };
        list.retain(|value| !goes(value));
        begin_at_the_bracket(list);
    }
}

/// The tables of a list, in whichever of the two ways it is written.
fn tables(list: &mut Item) -> Vec<&mut dyn TableLike> {
    match list {
        Item::ArrayOfTables(tables) => tables.iter_mut().map(|table| table as &mut dyn TableLike).collect(),
        Item::Value(Value::Array(array)) => {
            let tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
            tables.map(|table| table as &mut dyn TableLike).collect()
        }
        _ => Vec::new(),
    }
}

fn retain(list: &mut Item, keep: impl Fn(&dyn TableLike) -> bool) {
    match list {
        Item::ArrayOfTables(tables) => tables.retain(|table| keep(table)),
        Item::Value(Value::Array(array)) => {
            array.retain(|value| value.as_inline_table().is_none_or(|table| keep(table)));
            begin_at_the_bracket(array);
        }
        _ => {}
    }
}

/// Without the blank that stood before an element which is the first one now.
fn begin_at_the_bracket(array: &mut Array) {
    if let Some(first) = array.get_mut(0) {
        let blank = first
            .decor()
            .prefix()
            .and_then(|prefix| prefix.as_str())
            .is_some_and(|prefix| prefix.chars().all(|c| c == ' ' || c == '\t'));
        if blank {
            first.decor_mut().set_prefix("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::{Request, Way};
    use super::*;
    use crate::mail::Domain;

    const TEXT: &str = "\
# The mail gate of Acme.
[daemon]
hostname = \"mx.acme.example\"   # its name

# Customers.
[[connector]]
name = \"acme\"
domain = \"acme.example\"
mode = \"outbound-only\"
addresses = [\"support@acme.example\", \"Billing@acme.example\", \"help@acme.example\"]
[connector.submission]
# by hand
logins = [{ name = \"s\", addresses = [\"support@acme.example\"] }, { name = \"b\", addresses = [\"billing@acme.example\", \"help@acme.example\"] }]

# Partners.
[[connector]]
name = \"other\"
domain = \"other.example\"
mode = \"outbound-only\"
addresses = [
    \"help@other.example\",   # first
]

[limits]
hops = 30   # generous
";

    fn after(domain: Option<&str>, addresses: &[&str]) -> Result<String, String> {
        let file = Path::new("/nonexistent/deskmilter.toml");
        let config = Config::parse(TEXT, file).unwrap();
        let request = Request {
            domain: domain.map(|domain| Domain::parse(domain).unwrap()),
            addresses: addresses.iter().map(|text| (Address::parse(text).unwrap(), None)).collect(),
            way: Way::Native,
        };
        without(TEXT, file, &config, &request.targets(&config).unwrap())
    }

    #[test]
    fn a_connector_goes_with_its_sections_and_every_other_line_stays_as_it_was() {
        let text = after(Some("acme.example"), &[]).unwrap();
        let (begin, end) = (TEXT.find("\n# Customers").unwrap(), TEXT.find("\n# Partners").unwrap());
        assert_eq!(text, format!("{}{}", &TEXT[..begin], &TEXT[end..]));
        let text =
            after(None, &["support@acme.example", "billing@acme.example", "help@acme.example", "help@other.example"]);
        assert!(!text.as_ref().unwrap().contains("connector") && text.unwrap().contains("hops = 30   # generous"));
    }

    #[test]
    fn an_address_goes_wherever_its_connector_names_it() {
        let text = after(None, &["support@acme.example"]).unwrap();
        let expected = TEXT
            .replace("[\"support@acme.example\", \"Billing", "[\"Billing")
            .replace("[{ name = \"s\", addresses = [\"support@acme.example\"] }, ", "[");
        assert_eq!(text, expected);
        let text = after(None, &["billing@acme.example"]).unwrap();
        let expected = TEXT.replace("\"Billing@acme.example\", ", "").replace("\"billing@acme.example\", ", "");
        assert_eq!(text, expected);
    }
}
