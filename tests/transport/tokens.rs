//! Access tokens from a command, against a host that lets them expire.

use support::DeskSite;
use support::endpoint::Script;
use tokio::runtime::Runtime;

/// Prints what is in `token`, and counts its runs.
const COMMAND: &str = "{ address = \"support@acme.example\", username = \"desk-support\", \
    token_command = [\"/bin/sh\", \"-c\", \"echo x >> FOLDER/runs; cat FOLDER/token\"] }, \
    { address = \"billing@acme.example\", username = \"desk-billing\", password_file = \"billing.secret\" }";

fn script() -> Script {
    let long: &'static str = Box::leak(long().into_boxed_str());
    Script { secure: vec!["PIPELINING", "AUTH PLAIN XOAUTH2"], passwords: vec![long], ..Script::default() }
}

/// As long as Microsoft's: it does not fit into the AUTH command.
fn long() -> String {
    "eyJ0eXAi".repeat(256)
}

fn write(site: &DeskSite, token: &str, lifetime: u32) {
    let text = format!("{{\"token_type\":\"Bearer\",\"access_token\":\"{token}\",\"expires_in\":{lifetime}}}");
    std::fs::write(site.folder().join("token"), text).unwrap();
}

fn runs(site: &DeskSite) -> usize {
    std::fs::read_to_string(site.folder().join("runs")).map_or(0, |text| text.lines().count())
}

#[test]
fn a_token_serves_until_the_host_refuses_it_and_then_a_new_one_is_got_before_any_4xx() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, script(), COMMAND, "connections = 4");
    let send = || site.send("support@acme.example", &["jane@end.example"], b"Subject: x\r\n\r\nx\r\n").remove(0);
    write(&site, &long(), 3_600);
    // The daemon reads files again that were written right before its start, and forgets its tokens when the authorities did.
    std::thread::sleep(std::time::Duration::from_secs(7));
    let first = send();
    assert_eq!((first.code, runs(&site)), (250, 1), "{first}\n{}", site.daemon.log());
    // Sessions that are open stay good; four at once need new ones, which show the same token.
    std::thread::scope(|scope| {
        let sent: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        assert!(sent.into_iter().all(|sent| sent.join().unwrap().code == 250));
    });
    assert_eq!(runs(&site), 1);
    host.set_passwords(&["second"]);
    write(&site, "second", 3_600);
    // The pool's sessions end before their time.
    runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_secs(31)).await });
    let renewed = send();
    assert_eq!((renewed.code, runs(&site)), (250, 2), "{renewed}\n{}", site.daemon.log());
    let log = site.daemon.log();
    assert!(log.contains("scope") && !log.contains("eyJ0eXAi") && !log.contains("second"), "{log}");
}
