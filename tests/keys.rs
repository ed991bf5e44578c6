//! `deskmilter key`: keys and records that other programs agree with, and each thing that can be wrong with them by name.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fixture::{Keys, check, key, openssl, public, published, stderr, stdout};
use support::{NameServer, Zone};
use tempfile::TempDir;

const PLACE: [&str; 4] = ["--domain", "acme.example", "--selector", "desk2026"];
const NAME: &str = "desk2026._domainkey.acme.example";

#[test]
fn a_new_key_is_for_its_owner_alone_never_replaces_one_and_is_what_openssl_reads() {
    for (kind, text) in
        [(vec![], "2048 bit"), (vec!["--type", "ed25519"], "ED25519"), (vec!["--bits", "3072"], "3072 bit")]
    {
        let folder = TempDir::new().unwrap();
        let new = || key("new", &[&PLACE[..], &kind, &["--directory", folder.path().to_str().unwrap()]].concat());
        let output = new();
        assert!(output.status.success(), "{output:?}");
        let file = folder.path().join("acme.example.desk2026.pem");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(openssl(&format!("pkey -noout -text -in {}", file.display())).contains(text));
        let printed = stdout(&output);
        let record = published(&file);
        assert!(record.ends_with(&format!("p={}", public(&file))), "{record}");
        assert!(printed.replace("\"\n\t\"", "").contains(&record), "{printed}");
        let pasted = &printed[printed.find("[[connector.dkim]]").unwrap()..];
        assert!(
            pasted.contains("selector = \"desk2026\"") && pasted.contains("acme.example.desk2026.pem\""),
            "{pasted}"
        );
        let before = fs::read(&file).unwrap();
        let again = new();
        assert_eq!(again.status.code(), Some(73), "{again:?}");
        assert!(stderr(&again).contains("never overwritten"), "{again:?}");
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}

#[test]
fn keys_that_openssl_made_are_read_in_all_their_forms() {
    let keys = Keys::new();
    for form in ["genrsa -traditional -out FILE 2048", "genrsa -out FILE 2048", "genpkey -algorithm ed25519 -out FILE"]
    {
        let file = keys.made(form);
        assert!(published(&file).ends_with(&format!("p={}", public(&file))), "{form}");
    }
}

#[test]
fn a_file_that_cannot_sign_is_refused_with_its_path_and_the_reason() {
    let keys = Keys::new();
    let good = keys.made("genrsa -out FILE 2048");
    let pem = fs::read_to_string(&good).unwrap();
    let written = |name: &str, content: &str| keys.written(name, content);
    let open = keys.written("open", &pem);
    fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let good = good.display();
    for (file, reason) in [
        (keys.made("genrsa -traditional -out FILE 1024"), "RSA key of 1024 bits; at least 2048"),
        (keys.made("genrsa -out FILE 1024"), "RSA key of 1024 bits; at least 2048"),
        (keys.made("ecparam -name prime256v1 -genkey -out FILE"), "private key for ECDSA"),
        (keys.made("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"), "private key for ECDSA"),
        (keys.made("genpkey -algorithm ed448 -out FILE"), "private key for Ed448"),
        (keys.made(&format!("pkey -aes256 -passout pass:x -in {good} -out FILE")), "encrypted"),
        (keys.made(&format!("rsa -traditional -aes256 -passout pass:x -in {good} -out FILE")), "encrypted"),
        (keys.made(&format!("pkey -pubout -in {good} -out FILE")), "a public key"),
        (keys.made(&format!("req -x509 -subj /CN=x -key {good} -out FILE")), "a certificate"),
        (keys.made(&format!("pkey -in {good} -outform DER -out FILE")), "binary (DER)"),
        (written("cut", &pem[..pem.len() / 2]), "truncated"),
        (written("holed", &pem.replacen(&pem[100..165], "", 1)), "damaged"),
        (written("garbage", "hello\n"), "no PEM key"),
        (written("empty", ""), "empty"),
        (open, "mode 0644"),
        (keys.folder.path().join("absent"), "No such file"),
        (keys.folder.path().to_owned(), "not a regular file"),
    ] {
        let path = file.to_str().unwrap();
        let output = key("record", &[&PLACE[..], &["--file", path]].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(message.contains(path) && message.contains(reason), "{reason}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!message.contains(&pem[30..60]), "{message}");
    }
}

#[test]
fn the_zone_file_line_means_the_same_to_another_name_server_software() {
    const PROGRAM: &str = "
import sys, dns.zone
zone = dns.zone.from_text('$TTL 60\\n@ IN SOA a. b. 1 1 1 1 1\\n@ IN NS a.\\n' + sys.stdin.read(), 'acme.example')
for name, ttl, data in zone.iterate_rdatas('TXT'):
    print(name, b''.join(data.strings).decode())
";
    let keys = Keys::new();
    for form in ["genrsa -out FILE 4096", "genpkey -algorithm ed25519 -out FILE"] {
        let file = keys.made(form);
        let zone = keys.folder.path().join("zone");
        fs::write(&zone, key("record", &[&PLACE[..], &["--file", file.to_str().unwrap()]].concat()).stdout).unwrap();
        let mut python = Command::new("/usr/bin/python3");
        let output = python.args(["-c", PROGRAM]).stdin(fs::File::open(&zone).unwrap()).output().unwrap();
        assert_eq!(stdout(&output), format!("desk2026._domainkey {}\n", published(&file)), "{output:?}");
    }
}

#[test]
fn a_check_says_what_is_wrong_with_the_published_record() {
    let keys = Keys::new();
    let (rsa, ed) = (keys.made("genrsa -out FILE 2048"), keys.made("genpkey -algorithm ed25519 -out FILE"));
    let (p, other) = (public(&rsa), public(&keys.made("genrsa -out FILE 2048")));
    let weak = public(&keys.made("genrsa -out FILE 1024"));
    let txt = |record: String| Zone::new().txt(NAME, &record);
    let good = || txt(published(&rsa));
    for (file, zone, code, reason) in [
        (&rsa, good(), 0, "ok: a test signature verifies"),
        (&rsa, txt(format!("p={p}")), 0, "ok: a test signature verifies"),
        (&ed, txt(published(&ed)), 0, "warning: large providers do not verify Ed25519"),
        (&rsa, txt(format!("v=DKIM1; t=y; p={p}")), 0, "warning: t=y"),
        (&rsa, txt(format!("v=DKIM1; t=s; h=sha256:sha1; s=email; p={p}")), 0, "ok: t=s"),
        (&rsa, Zone::new(), 1, "problem: the name does not exist"),
        (&rsa, Zone::new().host(NAME, "192.0.2.1"), 1, "problem: the name exists, but has no TXT record"),
        (&rsa, good().txt(NAME, "v=spf1 -all"), 1, "problem: 2 TXT records"),
        (&rsa, txt(format!("v=DKIM1; p={other}")), 1, "problem: mismatch"),
        (&rsa, txt(format!("v=DKIM1; p={weak}")), 1, "problem: the published RSA key has 1024 bits"),
        (&rsa, txt("v=DKIM1; p=".to_owned()), 1, "problem: revoked"),
        (&rsa, txt(format!("v=DKIM1; h=sha1; p={p}")), 1, "problem: h=sha1 does not allow sha256"),
        (&rsa, txt(format!("v=DKIM1; s=other; p={p}")), 1, "problem: s=other does not allow email"),
        (&rsa, txt(format!("v=DKIM1; k=ed25519; p={p}")), 1, "problem: the record says k=ed25519"),
        (&ed, txt(published(&rsa)), 1, "problem: the record says k=rsa"),
        (&rsa, txt(format!("v=DKIM1; p={}", &p[..p.len() - 64])), 1, "problem: what p= carries is no public key"),
        (&rsa, txt(format!("v=DKIM1; p={}", &p[1..])), 1, "problem: the record cannot be read: what p= carries"),
        (&rsa, txt(format!("\"v=DKIM1; p={p}\"")), 1, "quotation mark"),
        (&rsa, txt(format!("k=rsa; v=DKIM1; p={p}")), 1, "v=DKIM1 must be the first"),
        (&rsa, Zone::new().failing("acme.example"), 75, "DNS cannot say"),
    ] {
        let server = NameServer::start(&zone);
        let output = check(&server, file);
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{reason}: {said}\n{}", server.log());
        assert!(said.contains(reason) && said.contains(NAME), "{reason}: {said}");
        assert_eq!(code == 1, said.contains(": problem: "), "{said}");
    }
}

#[test]
fn a_name_server_that_stays_silent_is_a_temporary_trouble() {
    let server = NameServer::start(&Zone::new().silent("acme.example"));
    let output = check(&server, &Keys::new().made("genpkey -algorithm ed25519 -out FILE"));
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(stderr(&output).contains(NAME), "{output:?}");
}

#[test]
fn opendkim_testkey_agrees_on_which_key_belongs_to_the_record() {
    let keys = Keys::new();
    let (own, other) = (keys.made("genrsa -out FILE 2048"), keys.made("genrsa -out FILE 2048"));
    let server = NameServer::start(&Zone::new().txt(NAME, &published(&own)));
    let folder = keys.folder.path();
    let address = server.address();
    // Unbound, OpenDKIM's resolver, asks the name server and nobody else.
    let unbound = folder.join("unbound.conf");
    let resolver = format!(
        "server:\n do-not-query-localhost: no\n module-config: iterator\nforward-zone:\n name: \".\"\n forward-addr: {}@{}\n",
        address.ip(),
        address.port()
    );
    fs::write(&unbound, resolver).unwrap();
    let conf = folder.join("opendkim.conf");
    fs::write(&conf, format!("ResolverConfiguration {}\n", unbound.display())).unwrap();
    for (file, belongs) in [(&own, true), (&other, false)] {
        let mut testkey = Command::new("/usr/sbin/opendkim-testkey");
        testkey.args(["-d", "acme.example", "-s", "desk2026", "-vvv", "-k"]).arg(file).arg("-x").arg(&conf);
        let output = testkey.output().unwrap();
        assert_eq!(output.status.success(), belongs, "{output:?}\n{}", server.log());
        assert_eq!(check(&server, file).status.success(), belongs);
    }
}

#[test]
fn a_key_made_for_the_daemons_user_is_his_and_is_read_as_his() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key.pem");
    let file = file.to_str().unwrap();
    let made = key("new", &[&PLACE[..], &["--file", file, "--type", "ed25519", "--user", "nobody"]].concat());
    assert!(made.status.success(), "{made:?}");
    let read = |user: &[&str]| key("record", &[&PLACE[..], &["--file", file], user].concat());
    assert!(read(&["--user", "nobody"]).status.success());
    let refused = read(&[]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(stderr(&refused).contains("chown"), "{refused:?}");
}

#[test]
fn wrong_arguments_are_told_apart_from_wrong_keys() {
    for wrong in [
        vec!["--domain", "acme.example"],
        vec!["--domain", "not a domain", "--selector", "s"],
        vec!["--domain", "acme.example", "--selector", "s", "--bits", "1024"],
        vec!["--domain", "acme.example", "--selector", "s", "--type", "ed25519", "--bits", "4096"],
    ] {
        assert_eq!(key("new", &wrong).status.code(), Some(64), "{wrong:?}");
    }
}

/// The programs: deskmilter's own and OpenSSL.
#[cfg(test)]
mod fixture {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use support::{NameServer, deskmilter};
    use tempfile::TempDir;

    use super::PLACE;

    /// Keys made by OpenSSL, in a folder of their own.
    pub struct Keys {
        pub folder: TempDir,
    }

    impl Keys {
        pub fn new() -> Self {
            Self { folder: TempDir::new().unwrap() }
        }

        /// What `openssl` with these arguments wrote to FILE.
        pub fn made(&self, arguments: &str) -> PathBuf {
            let file = self.free();
            openssl(&arguments.replace("FILE", file.to_str().unwrap()));
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            file
        }

        pub fn written(&self, name: &str, content: &str) -> PathBuf {
            let file = self.folder.path().join(name);
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            file
        }

        pub fn free(&self) -> PathBuf {
            let names = (0..).map(|n| self.folder.path().join(format!("{n}.pem")));
            names.into_iter().find(|path| !path.exists()).unwrap()
        }
    }

    pub fn key(action: &str, arguments: &[&str]) -> Output {
        Command::new(deskmilter()).args(["key", action]).args(arguments).output().unwrap()
    }

    pub fn check(server: &NameServer, file: &Path) -> Output {
        let address = server.address().to_string();
        key("check", &[&PLACE[..], &["--file", file.to_str().unwrap(), "--name-server", &address]].concat())
    }

    /// The record's text, as deskmilter prints it.
    pub fn published(file: &Path) -> String {
        let output = key("record", &[&PLACE[..], &["--format", "text", "--file", file.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{output:?}");
        stdout(&output).trim_end().to_owned()
    }

    /// The public key as `p=` carries it, as OpenSSL sees it: for Ed25519 without the twelve octets before the key itself.
    pub fn public(file: &Path) -> String {
        let pem = openssl(&format!("pkey -pubout -in {}", file.display()));
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        if base64.len() < 64 { base64[16..].to_owned() } else { base64 }
    }

    pub fn openssl(arguments: &str) -> String {
        let output = Command::new("openssl").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", stderr(&output));
        stdout(&output)
    }

    pub fn stdout(output: &Output) -> String {
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn stderr(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}
