use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

/// A folder with a configuration file and the password files that it names.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        site.password("acme.password", 0o600);
        site.write(
            "acme.pem",
            crate::dkim::SigningKey::generate(crate::dkim::NewKey::Ed25519).unwrap().expose(),
            0o600,
        );
        site
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn password(&self, name: &str, mode: u32) {
        self.write(name, b"s3cret-of-acme\n", mode);
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        Config::parse(text, &self.file())
    }

    /// The problems of `text`, each as `line: key: message`.
    fn problems(&self, text: &str) -> Vec<String> {
        let problems = self.parse(text).expect_err(text);
        problems.iter().map(|problem| format!("{}: {}: {}", problem.line, problem.key, problem.message)).collect()
    }
}

const GOOD: &str = r#"
[daemon]
hostname = "mx.acme.example"
[milter]
listen = ["unix:/run/deskmilter/milter.sock", "inet:127.0.0.1:8891"]
[transport]
directory = "transport"
[authentication]
authserv_id = "MX.acme.example."
name_servers = ["192.0.2.53", "127.0.0.1:5353"]
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
addresses = ["Support@acme.example", "billing@ACME.example"]
[connector.endpoint]
host = "endpoint.desk.example"
credentials = [{ username = "acme.example", password_file = "acme.password" }]
"#;

#[test]
fn a_good_file_is_read_with_its_defaults_and_relative_paths() {
    let site = Site::new();
    let config = site.parse(GOOD).unwrap();
    assert_eq!(config.authentication.authserv_id, "mx.acme.example");
    assert_eq!(config.authentication.name_servers[0].to_string(), "192.0.2.53:53");
    assert_eq!(config.transport.unwrap().directory, site.folder.path().join("transport"));
    let acme = &config.connectors[0];
    assert_eq!(acme.native_domain.as_ref().unwrap().as_str(), "acme.zendesk.com");
    let endpoint = acme.endpoint.as_ref().unwrap();
    assert_eq!((endpoint.port, endpoint.tls), (587, Tls::Starttls));
    let address = |text| Address::parse(text).unwrap();
    assert!(acme.supports(&address("SUPPORT@acme.example")) && acme.supports(&address("support+tag@acme.example")));
    assert!(!acme.supports(&address("sales@acme.example")) && !acme.supports(&address("support@other.example")));
}

#[test]
fn what_check_prints_reads_back_as_the_same_configuration_and_holds_no_secret() {
    let site = Site::new();
    let config = site.parse(GOOD).unwrap();
    let shown = config.to_string();
    assert_eq!(site.parse(&shown).unwrap().to_string(), shown);
    assert!(!shown.contains("s3cret"));
}

#[test]
fn odd_characters_are_shown_as_toml_reads_them() {
    let site = Site::new();
    let odd = r#"tran'sport\"\\\u0000\u001b\u200b\U0001F4E7"#;
    let shown = site.parse(&GOOD.replace("= \"transport\"", &format!("= \"{odd}\""))).unwrap().to_string();
    let config = site.parse(&shown).unwrap_or_else(|problems| panic!("{problems}\n{shown}"));
    let directory = config.transport.as_ref().unwrap().directory.file_name().unwrap().to_str().unwrap();
    assert_eq!(directory, "tran'sport\"\\\0\u{1b}\u{200b}\u{1f4e7}");
    assert_eq!(config.to_string(), shown);
}

#[test]
fn an_unknown_key_is_told_with_line_and_suggestion() {
    let site = Site::new();
    let text = GOOD.replace("credentials = ", "prot = 25\ncredentials = ").replace("[milter]", "[miltre]");
    let problems = site.problems(&text);
    assert!(problems.contains(&"4: miltre: unknown key; did you mean \"milter\"?".to_owned()), "{problems:?}");
    assert!(
        problems.contains(&"19: connector.endpoint.prot: unknown key; did you mean \"port\"?".to_owned()),
        "{problems:?}"
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_their_lines() {
    let site = Site::new();
    let text = GOOD
        .replace("unix:/run", "unix:run")
        .replace("192.0.2.53", "dns.acme.example")
        .replace("endpoint.desk", "end point");
    let problems = site.problems(&text);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("5: milter.listen: "), "{problems:?}");
    assert!(problems[1].starts_with("10: authentication.name_servers: "), "{problems:?}");
    assert!(problems[2].starts_with("18: connector.acme.endpoint.host: "), "{problems:?}");
}

#[test]
fn each_rule_of_domains_addresses_and_limits_is_kept() {
    let site = Site::new();
    let second = |name: &str, domain: &str, addresses: &str, more: &str| {
        format!(
            "{GOOD}[[connector]]\nname = {name:?}\ndomain = {domain:?}\nmode = \"outbound-only\"\naddresses = {addresses}\n{more}"
        )
    };
    let many: Vec<String> = (0..51).map(|n| format!("a{n}@acme.example")).collect();
    let domains: String = (0..4)
        .map(|n| format!("[[connector]]\nname = \"c{n}\"\ndomain = \"d{n}.example\"\nmode = \"outbound-only\"\naddresses = [\"a@d{n}.example\"]\n"))
        .collect();
    for (text, expected) in [
        (GOOD.replace("billing@ACME.example", "billing@other.example"), "not in the connector's domain acme.example"),
        (GOOD.replace("billing@ACME.example", "billing@acme.zendesk.com"), "is a native address"),
        (GOOD.replace("billing@ACME.example", "SUPPORT@acme.example"), "is listed twice"),
        (GOOD.replace("billing@ACME.example", "support+x@acme.example"), "has an extension"),
        (GOOD.replace("billing@ACME.example", "billing"), "is no mail address"),
        (second("acme", "other.example", "[\"a@other.example\"]", ""), "two connectors are called \"acme\""),
        (second("two", "acme.example", "[\"support@acme.example\"]", ""), "belongs to connector \"acme\" already"),
        (
            second("two", "acme.example", "[\"support@acme.example\"]", "environment = \"sandbox\"\n"),
            "in another environment",
        ),
        (second("two", "acme.example", &format!("{many:?}"), ""), "53 support addresses in acme.example"),
        (format!("{GOOD}{domains}"), "one domain more than limits.domains = 4"),
        (GOOD.replace("domain = \"acme.example\"", "domain = \"acme.zendesk.com\""), "the ticket system's own domain"),
        (GOOD.replace("name = \"acme\"", "name = \"../acme\""), "also names a socket"),
        (GOOD.replace("[transport]\ndirectory = \"transport\"\n", ""), "needs a [transport] section"),
        (
            GOOD.replace("host = \"endpoint", "tls = \"none\"\nhost = \"endpoint"),
            "no message and no password travels unencrypted",
        ),
        (GOOD.replace("account = \"acme\"", "account = \"acme.zendesk.com\""), "not an account name"),
        (
            GOOD.replace("system = \"zendesk\"", "system = \"zendsk\""),
            "\"zendsk\" is not known here; write \"zendesk\"",
        ),
        (GOOD.replace("host = \"endpoint", "port = 0\nhost = \"endpoint"), "out of range"),
        (GOOD.replace("host = \"endpoint", "port = \"587\"\nhost = \"endpoint"), "connector.endpoint.port"),
        (GOOD.replace("host = \"endpoint", "deadline = \"2 weeks\"\nhost = \"endpoint"), "no duration from 5s to 9m"),
        (
            GOOD.replace("listen = [\"unix:/run/deskmilter/milter.sock\", \"inet:127.0.0.1:8891\"]", "listen = []"),
            "name at least one socket",
        ),
        (
            GOOD.replace("directory = \"transport\"", "directory = \"transport\"\nsocket_mode = \"0666\""),
            "others must not reach them",
        ),
        (
            GOOD.replace("directory = \"transport\"", "directory = \"transport\"\nsocket_group = \"nosuchgroup\""),
            "no group \"nosuchgroup\"",
        ),
        (GOOD.replace("password_file", "password"), "missing field `password_file`"),
        (GOOD.replace("[[connector]]", "[[connector]"), "11: "),
    ] {
        let problems = site.problems(&text);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}\n{text}");
    }
}

#[test]
fn a_password_file_that_cannot_be_used_is_named() {
    let site = Site::new();
    site.password("open.password", 0o644);
    let problems = site.problems(&GOOD.replace("acme.password", "open.password"));
    assert!(problems[0].contains("open.password: mode 0644") && problems[0].contains("chmod 0600"), "{problems:?}");
    let problems = site.problems(&GOOD.replace("acme.password", "missing.password"));
    assert!(problems[0].starts_with("19: ") && problems[0].contains("missing.password"), "{problems:?}");
    assert!(!format!("{problems:?}").contains("s3cret"));
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_names_it() {
    let problems = Config::load(Path::new("/nonexistent/deskmilter.toml")).unwrap_err().to_string();
    assert!(problems.starts_with("/nonexistent/deskmilter.toml:1: "), "{problems}");
}

const OUTBOUND: &str = r#"
[connector.submission]
logins = [{ name = "zendesk-support", addresses = ["support@acme.example"] },
          { name = "zendesk-billing", addresses = ["billing@acme.example"] }]
networks = ["216.198.0.0/18", "2001:db8::/32", "192.0.2.1"]
rate = "600/h"
recipient_rate = "6000/h"
[connector.preserve]
policy = "reject"
headers = ["X-Custom", "X-Mailer"]
[[connector.dkim]]
selector = "desk2026"
key_file = "acme.pem"
cover = "core"
sign = "unless-signed"
[[connector.dkim]]
selector = "desk2027"
key_file = "acme.pem"
[outbound]
signing_networks = ["192.0.2.0/24"]
reinjection_networks = ["127.0.0.1/32"]
seal_lifetime = "2h"
[[signing]]
domain = "acme.example"
selector = "mail2026"
key_file = "acme.pem"
sign_for = ["acme.example", "*@news.acme.example"]
"#;

#[test]
fn the_outbound_side_is_read_and_what_is_shown_reads_back() {
    let site = Site::new();
    let config = site.parse(&format!("{GOOD}{OUTBOUND}")).unwrap();
    let acme = &config.connectors[0];
    let submission = acme.submission.as_ref().unwrap();
    assert_eq!(submission.logins[1].addresses[0].to_string(), "billing@acme.example");
    assert_eq!((submission.networks.len(), submission.rate.unwrap().count), (3, 600));
    assert_eq!((acme.dkim[0].cover, acme.dkim[0].sign), (Cover::Core, SignWhen::UnlessSigned));
    assert_eq!((acme.dkim[1].cover, acme.dkim[1].sign), (Cover::Preserved, SignWhen::Always));
    assert_eq!(config.outbound.seal_lifetime.as_secs(), 7_200);
    let shown = config.to_string();
    assert_eq!(site.parse(&shown).unwrap().to_string(), shown);
    assert!(shown.contains("recipient_rate = \"6000/h\"") && shown.contains("selector = \"mail2026\""), "{shown}");
    assert!(!shown.contains("PRIVATE KEY") && !format!("{config:?}").contains("PRIVATE"), "{shown}");
}

#[test]
fn each_rule_of_the_outbound_side_is_kept() {
    let site = Site::new();
    site.write("short.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600);
    site.write("open.pem", b"x", 0o644);
    let second = "[[connector]]\nname = \"two\"\ndomain = \"b.example\"\nmode = \"outbound-only\"\naddresses = [\"a@b.example\"]\n\
        [connector.submission]\nlogins = [{ name = \"zendesk-support\", addresses = [\"a@b.example\"] }]\n";
    let cut = |from: &str, to: &str| {
        let (start, end) = (OUTBOUND.find(from).unwrap(), OUTBOUND.find(to).unwrap());
        format!("{}{}", &OUTBOUND[..start], &OUTBOUND[end..])
    };
    for (outbound, expected) in [
        (OUTBOUND.replace("\"billing@acme", "\"sales@acme"), "sales@acme.example is none of the connector's addresses"),
        (OUTBOUND.replace("\"billing@acme.example\"", ""), "\"zendesk-billing\" could send nothing"),
        (OUTBOUND.replace("zendesk-billing", "zendesk-support"), "login \"zendesk-support\" is listed twice"),
        (format!("{OUTBOUND}{second}"), "login \"zendesk-support\" belongs to connector \"acme\" already"),
        (OUTBOUND.replace("zendesk-billing", ""), "not a login"),
        (OUTBOUND.replace("216.198.0.0/18", "216.198.1.0/18"), "write \"216.198.0.0/18\""),
        (OUTBOUND.replace("216.198.0.0/18", "desk.example"), "is no network"),
        (OUTBOUND.replace("127.0.0.1/32", "0.0.0.0/0"), "is the whole Internet"),
        (OUTBOUND.replace("600/h", "600"), "\"600\" is no rate"),
        (OUTBOUND.replace("policy = \"reject\"", "policy = \"drop\""), "write \"warn\" or \"reject\""),
        (OUTBOUND.replace("X-Custom", "X Custom"), "is no field name"),
        (OUTBOUND.replace("X-Custom", "x-mailer"), "X-Mailer is listed twice"),
        (OUTBOUND.replace("X-Custom", "X-Deskmilter-Seal"), "is written by mail servers on the way"),
        (OUTBOUND.replace("desk2027", "desk2026"), "selector desk2026 stands twice"),
        (OUTBOUND.replace("desk2027", "desk 2027"), "is no selector"),
        (OUTBOUND.replace("acme.pem", "open.pem"), "open.pem: mode 0644"),
        (OUTBOUND.replace("acme.pem", "short.pem"), "short.pem: "),
        (OUTBOUND.replace("acme.pem", "missing.pem"), "missing.pem: "),
        (OUTBOUND.replace("cover = \"core\"", "cover = \"all\""), "write \"core\" or \"preserved\""),
        (OUTBOUND.replace("unless-signed", "never"), "write \"always\" or \"unless-signed\""),
        (OUTBOUND.replace("*@news", "@news"), "write \"acme.example\", \"*@news.acme.example\""),
        (OUTBOUND.replace("\"acme.example\", \"*@news.acme.example\"", ""), "nothing would be signed"),
        (OUTBOUND.replace("seal_lifetime = \"2h\"", "seal_lifetime = \"2s\""), "no duration from 1m to 7d"),
        (OUTBOUND.replace("recipient_rate", "recipients_rate"), "did you mean \"recipient_rate\"?"),
        (cut("[connector.submission]", "[connector.preserve]"), "has no effect without [connector.submission]"),
        (cut("[[signing]]", "sign_for"), "unknown key"),
        (OUTBOUND.split("[[signing]]").next().unwrap().to_owned(), "has no effect without [[signing]]"),
    ] {
        let problems = site.problems(&format!("{GOOD}{outbound}"));
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

#[test]
fn inline_relay_needs_a_milter_and_no_transport_and_what_is_shown_reads_back() {
    let site = Site::new();
    let inline = GOOD.replace(
        "credentials = ",
        "relay = \"inline\"\nkeep_copy = true\nrejected_to = \"postmaster@acme.example\"\ncredentials = ",
    );
    let config = site.parse(&inline).unwrap();
    let endpoint = config.connectors[0].inline_endpoint().unwrap();
    assert_eq!(endpoint.relay, RelayMode::Inline { keep_copy: true });
    assert_eq!(endpoint.rejected.as_ref().unwrap().via.to_string(), "127.0.0.1:25");
    let shown = config.to_string();
    assert_eq!(site.parse(&shown).unwrap().to_string(), shown);

    let section = |name: &str| {
        let (begin, rest) = inline.split_once(&format!("[{name}]\n")).unwrap();
        let (_, end) = rest.split_once("\n[").unwrap();
        format!("{begin}[{end}")
    };
    assert!(site.parse(&section("transport")).unwrap().transport.is_none());
    let rejected = "rejected_to = \"postmaster@acme.example\"";
    for (text, words) in [
        (section("milter"), "add a [milter] section, or [exim]"),
        (format!("{inline}\n[outbound]\nreinjection_networks = [\"127.0.0.1/32\"]"), "before the content filter"),
        (inline.replace("relay = \"inline\"", "relay = \"transport\""), "only relay = \"inline\" can leave a copy"),
        (inline.replace("\"inline\"", "\"both\""), "\"both\" is not known here; write \"transport\" or \"inline\""),
        (inline.replace("postmaster@", "Billing+x@"), "billing+x@acme.example is a support address"),
        (inline.replace("postmaster@", ""), "no @"),
        (inline.replace(rejected, "rejected_via = \"127.0.0.1:25\""), "rejected_to, which is not set"),
        (inline.replace(rejected, &format!("{rejected}\nrejected_via = \"192.0.2.1:25\"")), "no address of this host"),
    ] {
        let problems = site.problems(&text).concat();
        assert!(problems.contains(words), "{words}: {problems}");
    }
}

const DESK: &str = r#"
[daemon]
hostname = "desk.acme.example"
[transport]
directory = "transport"
[[connector]]
name = "acme"
system = "zammad"
native_domain = "desk.internal"
domain = "acme.example"
addresses = ["support@acme.example", "billing@acme.example"]
[connector.host]
host = "mail.acme.example"
credentials = [{ address = "Support@acme.example", username = "desk", password_file = "acme.password" },
               { address = "billing@acme.example", mechanism = "xoauth2", token_command = ["/usr/bin/token", "b"] }]
unverified = "native"
default_address = "support@acme.example"
rate = "600/h"
"#;

#[test]
fn the_desk_side_is_read_with_its_defaults_and_what_is_shown_reads_back() {
    let site = Site::new();
    let config = site.parse(DESK).unwrap();
    let host = config.connectors[0].host.as_ref().unwrap();
    assert_eq!((host.port, host.tls, host.connections, host.preset), (587, Tls::Starttls, 5, None));
    assert_eq!((host.credentials[0].mechanism, host.credentials[1].mechanism), (Mechanism::Plain, Mechanism::Xoauth2));
    assert_eq!(host.credentials[1].username, "billing@acme.example");
    assert_eq!(host.unverified, Unverified::Native(Address::parse("support@acme.example").unwrap()));
    let shown = config.to_string();
    assert_eq!(site.parse(&shown).unwrap().to_string(), shown);
    assert!(!shown.contains("s3cret"));
    let preset = DESK
        .replace("host = \"mail.acme.example\"", "preset = \"office365\"")
        .replace("password_file = \"acme.password\"", "token_file = \"later.token\"");
    let config = site.parse(&preset).unwrap();
    let host = config.connectors[0].host.as_ref().unwrap();
    assert_eq!((host.host.as_str(), host.port, host.connections), ("smtp.office365.com", 587, 3));
    assert_eq!(host.credentials[0].mechanism, Mechanism::Xoauth2);
    assert_eq!(site.parse(&config.to_string()).unwrap().to_string(), config.to_string());
}

#[test]
fn each_rule_of_the_desk_side_is_kept() {
    let site = Site::new();
    site.password("open.password", 0o644);
    let second = "{ address = \"billing@acme.example\"";
    for (text, expected) in [
        (DESK.replace("host = \"mail.acme.example\"\n", ""), "connector.acme.host.host: missing"),
        (DESK.replace("mail.acme", "mail acme"), "is no host name"),
        (DESK.replace("host = \"mail", "preset = \"outlook\"\nhost = \"mail"), "write \"office365\" or \"gmail\""),
        (DESK.replace("host = \"mail", "preset = \"gmail\"\nhost = \"mail"), "xoauth2 shows a token, not a password"),
        (DESK.replace("rate = ", "tls = \"none\"\nrate = "), "no password travels unencrypted"),
        (DESK.replace("rate = ", "prot = 25\nrate = "), "did you mean \"port\"?"),
        (DESK.replace("username", "user"), "credentials.user: unknown key"),
        (DESK.replace("600/h", "600"), "\"600\" is no rate"),
        (DESK.replace("rate = \"600/h\"", "connections = 0"), "out of range"),
        (DESK.replace(second, "{ address = \"billing@other.example\""), "not in the connector's domain acme.example"),
        (DESK.replace(second, "{ address = \"billing\""), "is no mail address"),
        (DESK.replace(second, "{ address = \"support@acme.example\""), "two credentials for support@acme.example"),
        (DESK.replace(second, "{ address = \"sales@acme.example\""), "no credential for billing@acme.example"),
        (DESK.replace(second, "{ address = \"sales@acme.example\""), "none of the connector's addresses"),
        (DESK.replace("mechanism = \"xoauth2\"", "mechanism = \"plain\""), "a token is shown by xoauth2"),
        (DESK.replace("mechanism = \"xoauth2\"", "mechanism = \"cram-md5\""), "write \"plain\" or \"login\""),
        (DESK.replace("token_command", "token_file = \"x\", token_command"), "exactly one of password_file"),
        (DESK.replace(", token_command = [\"/usr/bin/token\", \"b\"]", ""), "exactly one of password_file"),
        (DESK.replace("/usr/bin/token", "token"), "write the full path of a program"),
        (DESK.replace("[\"/usr/bin/token\", \"b\"]", "[]"), "write the full path of a program"),
        (DESK.replace("acme.password", "open.password"), "open.password: mode 0644"),
        (DESK.replace("acme.password", "missing.password"), "missing.password"),
        (DESK.replace("default_address = \"support@acme.example\"\n", ""), "needs default_address"),
        (DESK.replace("default_address = \"support", "default_address = \"sales"), "has no credential"),
        (DESK.replace("\"native\"", "\"defer\""), "has no effect without unverified = \"native\""),
        (DESK.replace("\"native\"", "\"bounce\""), "write \"defer\" or \"native\""),
        (DESK.replace("[transport]\ndirectory = \"transport\"\n", ""), "needs a [transport] section"),
        (
            format!("{DESK}[connector.endpoint]\nhost = \"e.example\"\ncredentials = []\n"),
            "a connector has one of them",
        ),
        (format!("{DESK}[connector.submission]\nlogins = []\n"), "a connector has one of them"),
        (format!("{DESK}[[connector.dkim]]\nselector = \"a\"\nkey_file = \"acme.pem\"\n"), "has no effect without"),
    ] {
        let problems = site.problems(&text);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}\n{text}");
    }
}

#[test]
fn a_problem_is_one_line_whatever_the_file_says() {
    let problems = Config::parse("\"a\\nb\\u001b[2J\" = 1\n", Path::new("x.toml")).unwrap_err().to_string();
    assert!(problems.contains(r"a\u{a}b\u{1b}[2J: unknown key"), "{problems}");
    assert!(problems.lines().all(|line| line.starts_with("x.toml:")), "{problems}");
}
