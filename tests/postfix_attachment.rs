//! `deskmilter postfix` against real Postfix configurations: what is added is what is needed, nothing else changes, and taking
//! it back leaves every byte as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use deskmilter::doctor::Outcome;
use deskmilter::doctor::postfix::{Attachment, Change, Installation, PostfixError, Undo, check};
use fixture::{Site, apply, config, undo};
use support::{LmtpSink, Message, PrivatePostfix, received_as_sent};

const DEBIAN: &str = include_str!("fixtures/postfix/debian.main.cf");

/// main.cf in the styles that postmasters write.
const STYLES: [(&str, &str); 9] = [
    ("Debian's own", DEBIAN),
    ("empty", ""),
    ("no last line feed", "myhostname = mx.acme.example\nbiff = no"),
    (
        "OpenDKIM, same milters for local mail",
        "smtpd_milters = inet:localhost:8891\nnon_smtpd_milters = $smtpd_milters\n",
    ),
    (
        "many lines with comments and blanks",
        "smtpd_milters = inet:localhost:8891,\n\t# rspamd\n\n\tunix:/rspamd/milter.sock\nnon_smtpd_milters =\n  unix:opendkim/o.sock\n# end\nbiff = no\n",
    ),
    ("settings in braces", "smtpd_milters = { inet:localhost:8891, connect_timeout=10s, default_action=accept },\n"),
    (
        "two definitions",
        "transport_maps = hash:/etc/a\nsmtpd_milters = inet:localhost:1\nsmtpd_milters=inet:localhost:2\n",
    ),
    ("own variables", "dkim = inet:localhost:8891\nsmtpd_milters = ${dkim}\nnon_smtpd_milters=$dkim\n"),
    (
        "transport maps in continuation lines",
        "transport_maps =\n  inline:{ {acme.example=relay:[10.0.0.5]} },\n  inline:{ {x.example=discard:} }\nsmtpd_milters =\n",
    ),
];

#[test]
fn applying_adds_ours_last_and_undoing_restores_every_byte() {
    for (style, main_cf) in STYLES {
        let site = Site::new(main_cf);
        let before = site.installation().explicit().unwrap();
        apply(&site);
        let installation = site.installation();
        for name in ["smtpd_milters", "non_smtpd_milters"] {
            let value = installation.parameter(name).unwrap();
            assert!(value.ends_with("unix:deskmilter/milter.sock, default_action=accept, connect_timeout=5s, command_timeout=10s, content_timeout=55s }"), "{style}: {name} = {value}");
            assert_eq!(value.matches("deskmilter").count(), 1, "{style}: {name} = {value}");
        }
        let maps = installation.parameter("transport_maps").unwrap();
        assert!(
            maps.ends_with(&format!("texthash:{}/deskmilter_transport", site.directory().display())),
            "{style}: {maps}"
        );
        let table = maps.rsplit([' ', ',']).next().unwrap();
        assert_eq!(
            installation.look_up(table, "support@acme.example").unwrap().as_deref(),
            Some("lmtp:unix:deskmilter/transport/acme.sock"),
            "{style}"
        );
        assert_eq!(installation.look_up(table, "sales@acme.example").unwrap(), None, "{style}");
        for line in main_cf.lines() {
            assert!(site.main_cf().contains(line), "{style}: {line} is gone");
        }
        undo(&site);
        assert_eq!(site.main_cf(), main_cf, "{style}");
        assert_eq!(site.installation().explicit().unwrap(), before, "{style}");
        assert_eq!(site.files(), ["main.cf", "master.cf"], "{style}");
    }
}

#[test]
fn applying_twice_changes_nothing_the_second_time_and_undoing_twice_neither() {
    let site = Site::new(DEBIAN);
    apply(&site);
    let once = site.main_cf();
    assert!(site.plan().unwrap().is_empty());
    apply(&site);
    assert_eq!(site.main_cf(), once);
    undo(&site);
    assert!(Undo::plan(&site.installation()).unwrap().is_empty());
}

#[test]
fn the_difference_is_shown_as_a_patch_and_nothing_is_written() {
    let site = Site::new("smtpd_milters = inet:localhost:8891\n");
    let diff = site.plan().unwrap().diff();
    assert!(diff.contains("+    { unix:deskmilter/milter.sock, default_action=accept"), "{diff}");
    assert!(diff.contains("+support@acme.example\tlmtp:unix:deskmilter/transport/acme.sock"), "{diff}");
    assert!(!diff.lines().any(|line| line.starts_with('-') && !line.starts_with("---")), "{diff}");
    assert_eq!(site.main_cf(), "smtpd_milters = inet:localhost:8891\n");
    assert_eq!(site.files(), ["main.cf", "master.cf"]);
}

#[test]
fn a_changed_configuration_is_applied_on_top_and_still_undone_to_the_first_state() {
    let site = Site::new(DEBIAN);
    apply(&site);
    let mut more = config();
    fixture::add_address(&mut more, "billing@acme.example");
    let installation = site.installation();
    let attachment = Attachment::of(&more, &installation).unwrap();
    let change = Change::plan(&installation, &attachment).unwrap();
    assert!(change.diff().contains("+billing@acme.example"));
    change.apply().unwrap();
    undo(&site);
    assert_eq!(site.main_cf(), DEBIAN);
}

#[test]
fn wherever_a_change_of_the_change_is_cut_off_it_can_be_made_again_and_taken_back() {
    let mut more = config();
    more.authentication.dns_timeout = std::time::Duration::from_secs(30);
    for written in 0..5 {
        for finish in [false, true] {
            let site = Site::new(DEBIAN);
            apply(&site);
            let installation = site.installation();
            let attachment = Attachment::of(&more, &installation).unwrap();
            let plan = || Change::plan(&site.installation(), &attachment);
            for (path, text) in plan().unwrap().writes().iter().take(written) {
                std::fs::write(path, text).unwrap();
            }
            site.settle();
            if finish {
                plan().unwrap_or_else(|error| panic!("after {written} files: {error}")).apply().unwrap();
                site.settle();
                assert!(site.main_cf().contains("content_timeout=70s"), "after {written} files");
            }
            undo(&site);
            assert_eq!(site.main_cf(), DEBIAN, "after {written} files");
        }
    }
}

#[test]
fn what_the_postmaster_changed_elsewhere_since_survives_the_undo() {
    let site = Site::new("smtpd_milters = inet:localhost:8891\n");
    apply(&site);
    site.edit(|text| format!("message_size_limit = 1000000\n{text}"));
    undo(&site);
    assert_eq!(site.main_cf(), "message_size_limit = 1000000\nsmtpd_milters = inet:localhost:8891\n");
}

#[test]
fn lines_of_ours_that_were_changed_by_hand_are_left_alone_with_a_word_about_them() {
    let site = Site::new(DEBIAN);
    apply(&site);
    site.edit(|text| text.replace("connect_timeout=5s", "connect_timeout=50s"));
    let edited = site.main_cf();
    for refusal in [Undo::plan(&site.installation()).map(drop), site.plan().map(drop)] {
        let message = refusal.unwrap_err().to_string();
        assert!(message.contains("changed by hand") && message.contains("connect_timeout=50s"), "{message}");
        assert!(message.contains("main.cf.deskmilter-before"), "{message}");
    }
    assert_eq!(site.main_cf(), edited);
}

#[test]
fn mode_owner_and_a_symbolic_link_survive() {
    let site = Site::new("biff = no\n");
    let real = site.directory().join("real.cf");
    fs::rename(site.directory().join("main.cf"), &real).unwrap();
    std::os::unix::fs::symlink(&real, site.directory().join("main.cf")).unwrap();
    fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    apply(&site);
    undo(&site);
    assert!(fs::symlink_metadata(site.directory().join("main.cf")).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(site.main_cf(), "biff = no\n");
}

#[test]
fn an_entry_that_the_postmaster_put_in_by_hand_is_not_added_again() {
    let own = "smtpd_milters = { unix:/var/spool/postfix/deskmilter/milter.sock, default_action=accept }\n";
    let site = Site::new(own);
    apply(&site);
    assert_eq!(site.installation().parameter("smtpd_milters").unwrap().matches("deskmilter/").count(), 1);
}

#[test]
fn a_table_of_somebody_else_is_not_overwritten() {
    let site = Site::new(DEBIAN);
    fs::write(site.directory().join("deskmilter_transport"), "x@acme.example discard:\n").unwrap();
    let message = site.plan().unwrap_err().to_string();
    assert!(message.contains("deskmilter_transport was not written by deskmilter"), "{message}");
}

#[test]
fn a_socket_that_a_chrooted_postfix_cannot_reach_is_refused_with_a_place_that_it_can() {
    let site = Site::new(DEBIAN);
    let mut config = config();
    fixture::listen(&mut config, "unix:/run/deskmilter/milter.sock");
    let error = Attachment::of(&config, &site.installation()).unwrap_err();
    assert!(matches!(error, PostfixError::Configuration(_)));
    let message = error.to_string();
    assert!(
        message.contains("smtp/inet") && message.contains("unix:/var/spool/postfix/deskmilter/milter.sock"),
        "{message}"
    );
    site.edit_master(|text| text.replace(" y ", " n "));
    assert_eq!(Attachment::of(&config, &site.installation()).unwrap().endpoint, "unix:/run/deskmilter/milter.sock");
}

#[test]
fn the_checks_find_each_way_of_being_attached_badly() {
    let entry = "{ unix:deskmilter/milter.sock, default_action=accept }";
    let transport = "transport_maps = inline:{ {support@acme.example=lmtp:unix:deskmilter/transport/acme.sock} }\n";
    let good = format!("smtpd_milters = inet:127.0.0.1:1 {entry}\nnon_smtpd_milters = $smtpd_milters\n{transport}");
    let open = "8025 inet n - y - - smtpd\n  -o smtpd_milters=inet:127.0.0.1:1\n";
    let filter = "127.0.0.1:10025 inet n - y - - smtpd\n";
    for (main_cf, master_cf, failing, outcome, words) in [
        (good.clone(), "", "", Outcome::Ok, ""),
        (transport.to_owned(), "", "milter attached", Outcome::Fail, "--apply"),
        (good.clone(), open, "milter attached", Outcome::Warn, "8025/inet"),
        (good.replace(entry, &format!("{entry}, {entry}")), "", "attached once", Outcome::Fail, "2 times"),
        (
            format!("{good}content_filter = smtp:[127.0.0.1]:10024\n"),
            filter,
            "attached once",
            Outcome::Fail,
            "no_milters",
        ),
        (good.replace("=accept", "=tempfail"), "", "default_action", Outcome::Fail, "tempfail"),
        (
            good.replace(entry, "unix:deskmilter/milter.sock"),
            "",
            "default_action",
            Outcome::Fail,
            "milter_default_action = tempfail for smtp/inet",
        ),
        (
            format!("{}milter_default_action = accept\n", good.replace(entry, "unix:deskmilter/milter.sock")),
            "",
            "",
            Outcome::Ok,
            "",
        ),
        (
            format!("{}milter_default_action = accept\n", good.replace(entry, "unix:deskmilter/milter.sock")),
            "8025 inet n - y - - smtpd\n  -o milter_default_action=reject\n",
            "default_action",
            Outcome::Fail,
            "milter_default_action = reject for 8025/inet",
        ),
        // As master.cf of the Postfix package suggests it for a submission service.
        (
            format!("{good}mua_milters = inet:127.0.0.1:1\n"),
            "8025 inet n - y - - smtpd\n  -o { smtpd_milters = $mua_milters, \
             { unix:deskmilter/milter.sock, default_action=accept } }\n",
            "",
            Outcome::Ok,
            "",
        ),
        (
            good.replace(entry, &format!("{entry} inet:127.0.0.1:2")),
            "",
            "last in order",
            Outcome::Fail,
            "inet:127.0.0.1:2",
        ),
        (good.replace(transport, ""), "", "transport", Outcome::Fail, "--apply"),
        (
            good.replace("transport_maps = ", "transport_maps = static:discard: "),
            "",
            "transport",
            Outcome::Fail,
            "static:discard:",
        ),
    ] {
        let site = Site::new(&main_cf);
        site.edit_master(|text| text + master_cf);
        let findings = check(&config(), &site.installation()).unwrap();
        for finding in &findings {
            // Nobody listens at Debian's path in a test, and what is not attached has neither action nor place.
            let detached = outcome == Outcome::Fail && failing == "milter attached";
            if finding.check == "socket reachable" || (detached && finding.found == "not attached") {
                continue;
            }
            let expected = if finding.check == failing { outcome } else { Outcome::Ok };
            let line = finding.to_string();
            assert_eq!(finding.outcome, expected, "{line}\nwith\n{main_cf}{master_cf}");
            assert!(finding.check != failing || line.contains(words), "{line}");
        }
    }
}

#[test]
fn each_of_several_listening_addresses_is_ours_and_none_is_added_to_another() {
    let site = Site::new(
        "smtpd_milters = { inet:localhost:8891, default_action=accept }\nnon_smtpd_milters = $smtpd_milters\n",
    );
    let mut config = config();
    let listen = &mut config.milter.as_mut().unwrap().listen;
    listen.insert(0, "inet:127.0.0.1:8891".parse().unwrap());
    let installation = site.installation();
    let attachment = Attachment::of(&config, &installation).unwrap();
    assert_eq!(attachment.endpoint, "unix:deskmilter/milter.sock", "a socket is better");
    let difference = Change::plan(&installation, &attachment).unwrap().diff();
    assert!(!difference.contains("milter.sock"), "{difference}");
    let found = |name: &str| {
        let findings = check(&config, &installation).unwrap();
        findings.into_iter().find(|finding| finding.check == name).map(|finding| finding.to_string()).unwrap()
    };
    for name in ["milter attached", "attached once", "default_action", "last in order"] {
        assert!(found(name).starts_with("ok"), "{}", found(name));
    }
    assert!(found("socket reachable").contains("inet:localhost:8891"), "{}", found("socket reachable"));
    site.edit(|text| text.replace("default_action=accept }", "default_action=accept }, unix:deskmilter/milter.sock"));
    assert!(found("attached once").contains("2 times"), "{}", found("attached once"));
}

#[test]
fn on_the_desk_side_mail_waits_for_the_milter_that_says_which_way_it_came() {
    let mut config = config();
    let connector = std::sync::Arc::make_mut(&mut config.connectors[0]);
    connector.endpoint = None;
    connector.desk = Some(deskmilter::config::Desk::preset(connector.system));
    for (action, outcome) in [("tempfail", Outcome::Ok), ("accept", Outcome::Fail)] {
        let entry = format!("{{ unix:deskmilter/milter.sock, default_action={action} }}");
        let site = Site::new(&format!("smtpd_milters = {entry}\nnon_smtpd_milters = $smtpd_milters\n"));
        let attachment = Attachment::of(&config, &site.installation()).unwrap();
        assert!(attachment.milter_entry.contains("default_action=tempfail"), "{}", attachment.milter_entry);
        let findings = check(&config, &site.installation()).unwrap();
        let finding = findings.iter().find(|finding| finding.check == "default_action").unwrap();
        assert_eq!(finding.outcome, outcome, "{finding}");
    }
}

#[test]
fn a_socket_is_found_through_the_chroot_and_a_closed_folder_is_named() {
    for chrooted in [false, true] {
        let postfix = PrivatePostfix::new(&["support@acme.example"], "", chrooted);
        let queue = postfix.queue_directory();
        // As `postfix check` leaves it.
        fs::set_permissions(&queue, PermissionsExt::from_mode(0o755)).unwrap();
        let mut config = config();
        fixture::listen(&mut config, &format!("unix:{}", queue.join("deskmilter/milter.sock").display()));
        fixture::transport(&mut config, &queue.join("deskmilter"));
        let installation = Installation::open(&postfix.configuration()).unwrap();
        let reachable = || {
            let findings = check(&config, &installation).unwrap();
            findings.into_iter().filter(|f| f.check == "socket reachable").map(|f| f.to_string()).collect::<Vec<_>>()
        };
        assert!(
            reachable().iter().all(|line| line.starts_with("fail") && line.contains("No such file")),
            "{:?}",
            reachable()
        );
        let _milter = LmtpSink::start(&queue.join("deskmilter/milter.sock"));
        let _transport = LmtpSink::start(&queue.join("deskmilter/acme.sock"));
        assert!(reachable().iter().all(|line| line.starts_with("ok")), "{:?}", reachable());
        fs::set_permissions(queue.join("deskmilter"), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(
            reachable().iter().all(|line| line.contains("may not enter") && line.contains("mode 0700")),
            "{:?}",
            reachable()
        );
        fs::set_permissions(queue.join("deskmilter"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(queue.join("deskmilter/milter.sock"), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(
            reachable()[0].contains("may not connect") && reachable()[0].contains("mode 0600"),
            "{:?}",
            reachable()
        );
    }
}

#[test]
fn postfix_really_hands_over_what_the_applied_map_says_whatever_a_domain_entry_before_it_says() {
    let domain_entry = "transport_maps = inline:{ {acme.example=error:5.1.1 taken by the domain entry} }";
    let mut postfix = PrivatePostfix::new(&["support@acme.example", "sales@acme.example"], domain_entry, true);
    let mut config = config();
    let queue = postfix.queue_directory();
    fixture::listen(&mut config, &format!("unix:{}", queue.join("deskmilter/milter.sock").display()));
    fixture::transport(&mut config, &queue.join("deskmilter"));
    let installation = Installation::open(&postfix.configuration()).unwrap();
    let attachment = Attachment::of(&config, &installation).unwrap();
    Change::plan(&installation, &attachment).unwrap().apply().unwrap();
    postfix.configure("recipient_delimiter = +");
    let sink = LmtpSink::start(&queue.join("deskmilter/acme.sock"));
    postfix.resume();
    let message = Message::new("ann@customer.example", "Support+x@Acme.example", "Hello").octets();
    // No milter listens: mail flows, as default_action=accept says.
    let reply = postfix.submit("ann@customer.example", &["Support+x@Acme.example"], &message);
    assert_eq!(reply.code, 250, "{reply}");
    postfix.wait_for("a hand-over", |_| sink.transactions().len() == 1);
    assert!(received_as_sent(&sink.transactions()[0].message, &message));
    assert!(postfix.log().contains("connect to Milter service unix:deskmilter/milter.sock"), "{}", postfix.log());
}

#[test]
fn the_shipped_examples_are_what_postfix_reads_and_what_apply_writes() {
    let example = include_str!("../postfix/main.cf.example");
    let site = Site::new(&format!("{DEBIAN}{example}"));
    let installation = site.installation();
    let attachment = Attachment::of(&config(), &installation).unwrap();
    assert_eq!(installation.parameter("smtpd_milters").unwrap(), attachment.milter_entry);
    assert_eq!(installation.parameter("non_smtpd_milters").unwrap(), attachment.milter_entry);
    let table = site.directory().join("deskmilter_transport");
    fs::copy(Path::new("postfix/transport.example"), &table).unwrap();
    let answer = installation.look_up(&format!("texthash:{}", table.display()), "support@acme.example").unwrap();
    assert_eq!(answer.as_deref(), Some("lmtp:unix:deskmilter/transport/acme.sock"));
    let unused = installation.explicit().unwrap();
    assert!(unused.contains("lmtp_line_length_limit = 0"), "{unused}");
}

#[cfg(test)]
mod fixture {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::Duration;

    use deskmilter::config::*;
    use deskmilter::doctor::postfix::{Attachment, Change, Installation, PostfixError, Undo};
    use deskmilter::mail::{Address, Domain};

    /// A Postfix configuration directory with Debian's master.cf.
    pub struct Site {
        folder: tempfile::TempDir,
    }

    impl Site {
        pub fn new(main_cf: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            support::write_settled(&folder.path().join("main.cf"), main_cf);
            fs::write(folder.path().join("master.cf"), include_str!("fixtures/postfix/debian.master.cf")).unwrap();
            Self { folder }
        }

        pub fn directory(&self) -> PathBuf {
            self.folder.path().canonicalize().unwrap()
        }

        pub fn installation(&self) -> Installation {
            Installation::open(self.folder.path()).unwrap()
        }

        pub fn plan(&self) -> Result<Change, PostfixError> {
            let installation = self.installation();
            Change::plan(&installation, &Attachment::of(&config(), &installation).unwrap())
        }

        pub fn main_cf(&self) -> String {
            fs::read_to_string(self.folder.path().join("main.cf")).unwrap()
        }

        /// Spares Postfix the moment it waits after a file was written.
        pub fn settle(&self) {
            for name in ["main.cf", "deskmilter_transport"] {
                if let Ok(file) = fs::File::options().append(true).open(self.folder.path().join(name)) {
                    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
                }
            }
        }

        pub fn edit(&self, edit: impl Fn(String) -> String) {
            support::write_settled(&self.folder.path().join("main.cf"), &edit(self.main_cf()));
        }

        pub fn edit_master(&self, edit: impl Fn(String) -> String) {
            let path = self.folder.path().join("master.cf");
            fs::write(&path, edit(fs::read_to_string(&path).unwrap())).unwrap();
        }

        pub fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    pub fn apply(site: &Site) {
        site.plan().unwrap().apply().unwrap();
        site.settle();
    }

    pub fn undo(site: &Site) {
        Undo::plan(&site.installation()).unwrap().apply().unwrap();
        site.settle();
    }

    pub fn listen(config: &mut Config, address: &str) {
        config.milter.as_mut().unwrap().listen = vec![address.parse().unwrap()];
    }

    pub fn transport(config: &mut Config, directory: &Path) {
        config.transport.as_mut().unwrap().directory = directory.to_owned();
    }

    pub fn add_address(config: &mut Config, address: &str) {
        Arc::make_mut(&mut config.connectors[0]).addresses.push(Address::parse(address).unwrap());
    }

    pub fn config() -> Config {
        let access = SocketAccess { group: None, mode: 0o660 };
        Config {
            daemon: Daemon {
                hostname: Domain::parse("mx.acme.example").unwrap(),
                state_directory: "/var/lib/deskmilter".into(),
                pid_file: None,
                user: None,
                site_key_file: SecretFile::new("/var/lib/deskmilter/site.key"),
            },
            log: Log { target: LogTarget::Stderr, format: LogFormat::Text, level: tracing::Level::INFO },
            milter: Some(Milter {
                listen: vec!["unix:/var/spool/postfix/deskmilter/milter.sock".parse().unwrap()],
                access: access.clone(),
            }),
            exim: None,
            metrics: None,
            transport: Some(Transport {
                directory: "/var/spool/postfix/deskmilter/transport".into(),
                access,
                peers: vec!["postfix".to_owned()],
            }),
            authentication: Authentication {
                authserv_id: "mx.acme.example".to_owned(),
                name_servers: vec![],
                dns_timeout: Duration::from_secs(15),
                max_signatures: 10,
                verdict_covers_body: true,
                on_temperror: OnTempError::Tag,
                verdict_lifetime: Duration::from_secs(10 * 24 * 3600),
            },
            limits: Limits {
                message_size: 50 << 20,
                header_size: 1 << 20,
                memory: 64 << 20,
                milter_connections: 100,
                transport_connections: 20,
                hops: 50,
                addresses_per_domain: 50,
                domains: 4,
                inline_relays: 20,
            },
            connectors: vec![Arc::new(Connector {
                name: "acme".to_owned(),
                system: System::Generic,
                native_domain: None,
                domain: Domain::parse("acme.example").unwrap(),
                recipient_delimiter: Some('+'),
                mode: Mode::TwoWay,
                observe: false,
                environment: Environment::Sandbox,
                addresses: vec![Address::parse("support@acme.example").unwrap()],
                endpoint: Some(Endpoint {
                    host: "endpoint.desk.example".to_owned(),
                    port: 587,
                    tls: Tls::Starttls,
                    ca_file: None,
                    credentials: vec![],
                    max_connections: 10,
                    deadline: Duration::from_secs(120),
                    relay: RelayMode::Transport,
                    rejected: None,
                }),
                host: None,
                desk: None,
                delivery: None,
                submission: None,
                preserve: Preserve::default(),
                dkim: Vec::new(),
            })],
            outbound: Outbound::default(),
            signing: Vec::new(),
            store: deskmilter::config::StoreConfig {
                url: deskmilter::config::StoreUrl::Sqlite("/var/lib/deskmilter/deskmilter.db".into()),
                password_file: None,
                ca_file: None,
            },
            credentials: deskmilter::config::Credentials { overlap_warning: Duration::from_secs(7 * 86_400) },
            conversations: deskmilter::config::Conversations { lifetime: Duration::from_secs(86_400), messages: 1_000 },
            auth: None,
            lookup: None,
        }
    }
}
