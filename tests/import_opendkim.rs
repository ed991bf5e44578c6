//! `deskmilter import opendkim`: the same senders get the same signatures as from a real OpenDKIM with the same tables.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fixture::{Site, compare, import};

/// Senders of all kinds, signed or not.
const SENDERS: [&str; 20] = [
    "ann@acme.example",
    "Ann@ACME.Example",
    "bob@acme.example",
    "bob+tag@acme.example",
    "support@acme.example",
    "ann@sub.acme.example",
    "bob@sub.acme.example",
    "bob@deep.sub.acme.example",
    "ann@other.example",
    "news@other.example",
    "eve@shop.example",
    "eve@a.shop.example",
    "eve@bshop.example",
    "root@anywhere.example",
    "ann@anywhere.example",
    "x.y@acmeXexample",
    "bob@xacme.example",
    "nobody@nowhere.example",
    "ann@example",
    "\"odd name\"@acme.example",
];

const KEYS: &str = "one acme.example:one:DIR/key.pem # the first\n\ntwo\tacme.example:two:DIR/key.pem\n\
    three other.example:three:DIR/key.pem\nown %:own:DIR/%.pem\nshop.example shop.example:shop:DIR/key.pem\n\
    One acme.example:capital:DIR/key.pem\n";

/// Name, settings, SigningTable.
const TABLES: [(&str, &str, &str); 9] = [
    (
        "plain",
        "SigningTable DIR/senders",
        "acme.example one\nann@acme.example two:ann@acme.example\nother.example three\nnews@other.example own\n",
    ),
    (
        "plain, all forms",
        "SigningTable file:DIR/senders",
        "* three\nroot@* two\n.example two\nbob@.acme.example one\n.sub.acme.example One\nACME.example one\nann@.example own\n",
    ),
    ("plain, a wildcard by mistake", "SigningTable file:DIR/senders", "*@acme.example one\nother.example three\n"),
    (
        "plain, the same twice",
        "SigningTable file:DIR/senders",
        "acme.example two\nacme.example one\n  other.example  three \n",
    ),
    ("the sender's domain as key", "SigningTable file:DIR/senders", "shop.example %\n.shop.example shop.example\n"),
    (
        "patterns",
        "SigningTable refile:DIR/senders",
        "# patterns\nbob+*@acme.example two\n*@acme.example one\n*@*.acme.example two\n*shop.example shop.example\n",
    ),
    (
        "patterns, order and spaces",
        "SigningTable refile:DIR/senders",
        "  *@acme.example two\nann@* three\n*@acme.example\tone # x\n*@other.example own\n* shop.example\n",
    ),
    (
        "multiple signatures, plain",
        "SigningTable file:DIR/senders\nMultipleSignatures yes",
        "acme.example one\nann@acme.example two\n.example three\n* shop.example\nacme.example three\n",
    ),
    (
        "multiple signatures, patterns",
        "SigningTable refile:DIR/senders\nMultipleSignatures yes",
        "*@acme.example one\nann@* two\n*@*.acme.example three\n*@acme.example two\n",
    ),
];

#[test]
fn the_same_senders_get_the_same_signatures_as_from_opendkim() {
    for (name, settings, senders) in TABLES {
        for key_table in ["KeyTable DIR/keys", "KeyTable refile:DIR/keys"] {
            let site = Site::new(&format!("{key_table}\n{settings}\n"), senders);
            compare(name, &site);
        }
    }
}

#[test]
fn a_single_key_signs_the_same_domains_as_opendkim() {
    for (name, settings) in [
        ("one domain", "Domain acme.example"),
        ("a list", "Domain acme.example, other.example"),
        ("any", "Domain *"),
        ("below too", "Domain acme.example,sub.acme.example\nSubDomains yes"),
        ("a file", "Domain file:DIR/senders"),
        ("patterns", "Domain refile:DIR/senders"),
    ] {
        let site =
            Site::new(&format!("{settings}\nSelector one\nKeyFile DIR/key.pem\n"), "acme.example\n*.shop.example\n");
        compare(name, &site);
    }
}

#[test]
fn the_command_prints_toml_checks_the_keys_and_says_what_is_left_out() {
    let conf = "KeyTable refile:DIR/keys\nSigningTable refile:DIR/senders\nInternalHosts DIR/hosts\nSignatureTTL 60\n";
    let site = Site::new(conf, "ann@acme.example two\n*@acme.example one\n*@other.example three\n");
    fs::write(site.path("hosts"), "127.0.0.1\n192.0.2.0/24\n").unwrap();
    let output = import(&["--config", site.path("opendkim.conf").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let toml: toml::Table = text.parse().unwrap();
    assert_eq!(toml["signing"].as_array().unwrap().len(), 3, "{text}");
    assert_eq!(toml["signing"][0]["sign_for"][0].as_str(), Some("ann@acme.example"), "{text}");
    assert_eq!(toml["outbound"]["sign_with"].as_str(), Some("first"), "{text}");
    assert_eq!(toml["outbound"]["signing_networks"].as_array().unwrap()[0].as_str(), Some("192.0.2.0/24"), "{text}");
    for part in ["SignatureTTL 60: no equivalent", "no sender signs with own"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let tables = ["--key-table", &site.named("refile:DIR/keys"), "--signing-table", &site.named("refile:DIR/senders")];
    assert_eq!(import(&tables).status.code(), Some(0));

    fs::set_permissions(site.path("key.pem"), PermissionsExt::from_mode(0o640)).unwrap();
    let output = import(&tables);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("key.pem: mode 0640") && text.contains("[[signing]]"), "{text}");

    let output = import(&["--config", "/nonexistent/opendkim.conf"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let key = site.path("key.pem");
    let output = import(&["--key-table", key.to_str().unwrap(), "--signing-table", &site.named("DIR/senders")]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(
        output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("a private key"),
        "{output:?}"
    );
}

/// OpenDKIM's side and ours.
#[cfg(test)]
mod fixture {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use deskmilter::import::opendkim::{Import, Settings};
    use support::{Daemon, PATIENCE, Process, deskmilter};
    use tempfile::TempDir;

    use super::{KEYS, SENDERS};

    /// Every sender gets the same domains and selectors from OpenDKIM, from the tables as read here, and from the rules that
    /// are printed, as far as rules can say it.
    pub fn compare(name: &str, site: &Site) {
        let opendkim = OpenDkim::start(site);
        let import = site.import();
        let (rules, problems) = import.signing.rules();
        let all = import.settings.is_on("MultipleSignatures");
        let mut signed = 0;
        for sender in SENDERS {
            let real = opendkim.signatures(sender);
            let signatures = import.signing.signatures(sender).unwrap();
            let read: Vec<_> = signatures.into_iter().map(|s| (s.domain, s.selector)).collect();
            assert_eq!(first_and_last(read), real, "{name}: {sender}\n{}", opendkim.process.log());
            if problems.is_empty() {
                let count = if all { usize::MAX } else { 1 };
                let matching = rules.iter().filter(|rule| rule.matches(sender)).take(count);
                let ruled: Vec<_> =
                    matching.map(|rule| (rule.signature.domain.clone(), rule.signature.selector.clone())).collect();
                assert_eq!(first_and_last(ruled), real, "{name}, rules: {sender}");
            }
            signed += real.len();
        }
        assert!(signed > 0, "{name}: nobody is signed");
        // Other problems are lines that do nothing in OpenDKIM either.
        if !problems.iter().any(|problem| problem.contains("each sender's")) {
            compare_daemons(name, site, &import, &opendkim);
        }
    }

    /// A deskmilter with the printed configuration makes the signatures of the running OpenDKIM: the same domains and
    /// selectors for every sender. Of three and more, OpenDKIM leaves out those in the middle.
    fn compare_daemons(name: &str, site: &Site, import: &Import, opendkim: &OpenDkim) {
        let socket = site.path("deskmilter.sock");
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n[milter]\nlisten = [\"unix:{}\"]\n\
             [authentication]\nname_servers = [\"127.0.0.1:9\"]\n{}",
            socket.display(),
            import.show(&|_| None).0
        );
        let configuration = site.path("deskmilter.toml");
        fs::write(&configuration, &text).unwrap();
        let daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
        for sender in SENDERS {
            let made = signatures(&socket, sender, &|| daemon.log());
            let expected: BTreeSet<_> =
                import.signing.signatures(sender).unwrap().into_iter().map(|s| (s.domain, s.selector)).collect();
            let of_opendkim = opendkim.signatures(sender).into_iter().collect();
            let made: BTreeSet<_> = made.into_iter().collect();
            assert_eq!(made, expected, "{name}: {sender}\n{text}");
            assert!(made.is_superset(&of_opendkim), "{name}: {sender}: {made:?} {of_opendkim:?}");
            if expected.len() < 3 {
                assert_eq!(made, of_opendkim, "{name}: {sender}");
            }
        }
    }

    /// What OpenDKIM 2.11 makes of several matches: its list of signatures to make forgets all but the first and the last one
    /// (`dkimf_add_signrequest` never moves the tail), although its manual says that all are applied.
    pub fn first_and_last<T: Clone>(matches: Vec<T>) -> Vec<T> {
        match matches.as_slice() {
            [first, .., last] => vec![first.clone(), last.clone()],
            _ => matches,
        }
    }

    pub fn import(arguments: &[&str]) -> Output {
        Command::new(deskmilter()).args(["import", "opendkim"]).args(arguments).output().unwrap()
    }

    /// Configuration, tables and keys in a folder.
    pub struct Site {
        pub folder: TempDir,
    }

    impl Site {
        pub fn new(settings: &str, senders: &str) -> Self {
            let folder = tempfile::Builder::new().prefix("dm-od-").tempdir_in("/tmp").unwrap();
            let site = Self { folder };
            fs::write(site.path("opendkim.conf"), site.named(settings)).unwrap();
            fs::write(site.path("keys"), site.named(KEYS)).unwrap();
            fs::write(site.path("senders"), senders).unwrap();
            let key = site.path("key.pem");
            let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
            assert!(made.status.success(), "{made:?}");
            for sender in SENDERS {
                let domain = sender.rsplit('@').next().unwrap().to_lowercase();
                fs::copy(&key, site.path(&format!("{domain}.pem"))).unwrap();
            }
            site
        }

        pub fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        pub fn named(&self, text: &str) -> String {
            text.replace("DIR", self.folder.path().to_str().unwrap())
        }

        pub fn import(&self) -> Import {
            let mut read =
                |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
            let settings = Settings::load(&self.path("opendkim.conf"), &mut read).unwrap();
            Import::read(settings, &mut read).unwrap()
        }
    }

    /// A private OpenDKIM that signs. Ends when dropped.
    pub struct OpenDkim {
        pub process: Process,
        pub socket: PathBuf,
    }

    impl OpenDkim {
        pub fn start(site: &Site) -> Self {
            let socket = site.path("milter.sock");
            let conf = site.path("run.conf");
            let own = format!(
                "Include {}\nMode s\nSocket local:{}\nBackground no\nSyslog no\nRequireSafeKeys no\n",
                site.path("opendkim.conf").display(),
                socket.display()
            );
            fs::write(&conf, own).unwrap();
            let mut command = Command::new("/usr/sbin/opendkim");
            command.arg("-f").arg("-x").arg(&conf);
            let mut process = Process::start("opendkim", &mut command, &site.path("log"));
            process.wait_until("a socket", || UnixStream::connect(&socket).is_ok());
            Self { process, socket }
        }

        /// As [`signatures`].
        pub fn signatures(&self, sender: &str) -> Vec<(String, String)> {
            signatures(&self.socket, sender, &|| self.process.log())
        }
    }

    /// `d=` and `s=` of each signature that a message of `sender` gets from the milter at `socket`, in the order in which they
    /// are made.
    pub fn signatures(socket: &Path, sender: &str, log: &dyn Fn() -> String) -> Vec<(String, String)> {
        let mut mta = Mta(UnixStream::connect(socket).unwrap());
        mta.0.set_read_timeout(Some(PATIENCE)).unwrap();
        // Version 6, all actions, no steps left out.
        mta.say(b'O', &[0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0, 0, 0]);
        assert_eq!(mta.hear().0, b'O');
        for (code, payload) in [
            (b'C', b"localhost\x004\x30\x39127.0.0.1\0".as_slice()),
            (b'H', b"localhost\0"),
            (b'M', b"<bounce@envelope.example>\0"),
            (b'R', b"<ann@customer.example>\0"),
            (b'L', format!("From\0{sender}\0").as_bytes()),
            (b'L', b"Date\0Thu, 1 Jan 2026 00:00:00 +0000\0"),
            (b'N', b""),
        ] {
            if mta.ask(code, payload) == b'a' {
                return Vec::new();
            }
        }
        mta.ask(b'B', b"Hello\r\n");
        mta.say(b'E', b"");
        let mut signatures = Vec::new();
        loop {
            let (code, payload) = mta.hear();
            let text = String::from_utf8_lossy(&payload).into_owned();
            match code {
                b'i' | b'h' if text.contains("DKIM-Signature") => {
                    let tag = |name: &str| {
                        let value = text.split([';', '\0']).find_map(|tag| tag.trim().strip_prefix(name));
                        value.unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
                    };
                    // Each one is put on top of those before it.
                    signatures.push((tag("d="), tag("s=")));
                }
                b'i' | b'h' | b'p' | b'm' => {}
                b'c' | b'a' => return signatures,
                other => panic!("{sender}: {} {text:?}\n{}", char::from(other), log()),
            }
        }
    }

    impl Drop for OpenDkim {
        fn drop(&mut self) {
            // Nothing is lost with it, and it takes its time to end.
            self.process.kill();
        }
    }

    /// The MTA's side of the milter protocol.
    pub struct Mta(UnixStream);

    impl Mta {
        pub fn say(&mut self, code: u8, payload: &[u8]) {
            let length = u32::try_from(payload.len() + 1).unwrap().to_be_bytes();
            self.0.write_all(&[&length[..], &[code], payload].concat()).unwrap();
        }

        pub fn hear(&mut self) -> (u8, Vec<u8>) {
            let mut length = [0; 4];
            self.0.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.0.read_exact(&mut frame).unwrap();
            (frame[0], frame[1..].to_vec())
        }

        pub fn ask(&mut self, code: u8, payload: &[u8]) -> u8 {
            self.say(code, payload);
            let (answer, payload) = self.hear();
            assert!(answer == b'c' || answer == b'a', "{}: {} {payload:?}", char::from(code), char::from(answer));
            answer
        }
    }
}
