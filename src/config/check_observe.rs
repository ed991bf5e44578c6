//! The rule for `connector.observe`.

use toml::Spanned;

use super::check::Check;

impl Check<'_, '_> {
    /// Whether a connector only observes. On the desk side there is nothing beside which it could: the ticket
    /// system's mail goes to us or does not.
    pub(super) fn observe(&mut self, key: &str, raw: Option<Spanned<bool>>, desk_side: bool) -> bool {
        let Some(observe) = raw else { return false };
        if *observe.get_ref() && desk_side {
            let text =
                "is for the company side; what a ticket system submits goes this way or does not, so take it out here";
            self.note(observe.span(), key, text);
        }
        *observe.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const CONNECTOR: &str = "[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [\"unix:/run/x.sock\"]\n\
        [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\naddresses = [\"support@acme.example\"]\nobserve = true\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, std::path::Path::new("/x/deskmilter.toml")).map_err(|problems| problems.to_string())
    }

    #[test]
    fn who_observes_needs_no_endpoint_and_counts_for_nothing_that_is_done() {
        let config = parse(CONNECTOR).unwrap();
        assert!(config.connectors[0].observe && config.acting().connectors.is_empty());
        assert_eq!(config.observing().unwrap().connectors.len(), 1);
        assert_eq!(parse(&config.to_string()).unwrap().connectors, config.connectors);
        assert!(parse(&CONNECTOR.replace("observe = true\n", "")).unwrap_err().contains("endpoint: missing"));
    }

    #[test]
    fn on_the_desk_side_there_is_nothing_to_observe() {
        let text = format!("{CONNECTOR}[connector.host]\nhost = \"mail.acme.example\"\ncredentials = []\n");
        assert!(parse(&text).unwrap_err().contains("connector.acme.observe: is for the company side"));
    }
}
