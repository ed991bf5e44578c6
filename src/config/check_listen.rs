//! The rule that no two services want one socket: the second would find it served, by us.

use std::collections::HashMap;

use toml::Spanned;

use super::check::Check;
use super::{Listen, raw};

impl Check<'_, '_> {
    pub(super) fn sockets(&mut self, raw: &raw::Raw) {
        let mut taken: HashMap<Listen, String> = HashMap::new();
        if let Some(transport) = &raw.transport {
            let directory = self.path(transport.directory.get_ref());
            for connector in raw.connector.iter().map(|connector| connector.get_ref().name.get_ref()) {
                for file in [format!("{connector}.sock"), format!("{connector}.delivery.sock")] {
                    taken.insert(Listen::Unix(directory.join(file)), format!("the transport of connector {connector}"));
                }
            }
        }
        let services = [
            ("milter.listen", raw.milter.as_ref().map(|service| &service.listen)),
            ("exim.listen", raw.exim.as_ref().map(|service| &service.listen)),
            ("auth.listen", raw.auth.as_ref().map(|service| &service.listen)),
            ("lookup.listen", raw.lookup.as_ref().map(|service| &service.listen)),
            ("metrics.listen", raw.metrics.as_ref().map(|service| &service.listen)),
        ];
        for (key, text) in services.iter().flat_map(|(key, list)| {
            let list = list.map(Spanned::get_ref).into_iter().flatten();
            list.map(move |text| (*key, text))
        }) {
            // Port 0 is another one each time.
            let Ok(listen) = text.get_ref().parse::<Listen>() else { continue };
            if matches!(&listen, Listen::Inet(address) if address.port() == 0) {
                continue;
            }
            if let Some(other) = taken.get(&listen) {
                let message = format!("{listen} is that of {other} already; give each service a socket of its own");
                self.note(text.span(), key, message);
            } else {
                taken.insert(listen, key.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn problems(listen: [&str; 3]) -> String {
        let [milter, metrics, lookup] = listen;
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [{milter}]\n[transport]\ndirectory = \"/run/t\"\n\
             [metrics]\nlisten = [{metrics}]\n[lookup]\nlisten = [{lookup}]\n[[connector]]\nname = \"acme\"\n\
             domain = \"acme.example\"\naddresses = [\"support@acme.example\"]\nmode = \"outbound-only\"\n"
        );
        Config::parse(&text, std::path::Path::new("/x/deskmilter.toml"))
            .map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn each_service_has_sockets_of_its_own() {
        let (a, b, any) = ("\"unix:/run/a.sock\"", "\"inet:127.0.0.1:8891\"", "\"inet:127.0.0.1:0\"");
        assert_eq!(problems([a, b, any]), "");
        assert_eq!(problems([any, any, a]), "");
        let told = problems([a, "\"local:/run/a.sock\"", b]);
        assert!(told.starts_with("/x/deskmilter.toml:8: metrics.listen: unix:/run/a.sock"), "{told}");
        assert!(told.contains("milter.listen already") && told.lines().count() == 1, "{told}");
        let told = problems([a, b, "\"inet:8891@localhost\", \"unix:/run/t/acme.sock\""]);
        assert!(told.contains("lookup.listen already") && told.contains("connector acme"), "{told}");
    }
}
