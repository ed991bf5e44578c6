//! `deskmilter exim`: the change to a configuration, its checks, and taking it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::exim_program;

/// A configuration of the upstream kind, as a postmaster has it.
const SINGLE: &str = "\
# My Exim
spool_directory = FOLDER/spool
log_file_path = FOLDER/%slog
primary_hostname = mx.acme.example
keep_environment =
domainlist local_domains = acme.example
acl_smtp_rcpt = check_rcpt
acl_smtp_data = check_data

begin acl
check_rcpt:
  accept domains = +local_domains
check_data:
  deny condition = ${if >{$message_size}{100M}}
  accept

begin routers
# support: is ours
people:
  driver = accept
  domains = +local_domains
  transport = local
others:
  driver = manualroute
  route_list = * 127.0.0.1
  transport = remote_smtp

begin transports
local:
  driver = appendfile
  file = /dev/null
remote_smtp:
  driver = smtp

begin retry
* * F,1h,1m
";

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(exim_conf: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dm-attach-").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("spool")).unwrap();
        fs::write(at("exim.conf"), exim_conf.replace("FOLDER", &folder.path().display().to_string())).unwrap();
        fs::write(at("password"), "s3cret\n").unwrap();
        fs::set_permissions(at("password"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\n[exim]\nlisten = [\"unix:{folder}/exim.sock\"]\n\
             spool_directory = \"{folder}/spool\"\n[transport]\ndirectory = \"{folder}/lmtp\"\n\
             [[connector]]\nname = \"acme-desk\"\ndomain = \"acme.example\"\naddresses = [\"support@acme.example\"]\n\
             [connector.endpoint]\nhost = \"localhost\"\ncredentials = [{{ username = \"a\", password_file = \"password\" }}]\n\
             [connector.submission]\nlogins = [{{ name = \"desk\", addresses = [\"support@acme.example\"] }}]\n",
            folder = folder.path().display()
        );
        fs::write(at("deskmilter.toml"), text).unwrap();
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, action: &str, file: &Path) -> Output {
        let mut command = Command::new(support::deskmilter());
        command.args(["exim", action, "-c"]).arg(self.at("deskmilter.toml")).arg("--config-file").arg(file);
        command.arg("--exim").arg(exim_program()).arg("--generated").arg(file);
        command.output().unwrap()
    }

    fn succeeds(&self, action: &str, file: &Path) -> String {
        let output = self.run(action, file);
        assert!(output.status.success(), "{action}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Everything below a folder.
fn snapshot(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files.extend(snapshot(&entry)),
            false => files.push((entry.clone(), String::from_utf8_lossy(&fs::read(&entry).unwrap()).into_owned())),
        }
    }
    files.retain(|(path, _)| !path.to_string_lossy().ends_with("log"));
    files.sort();
    files
}

#[test]
fn a_single_file_is_attached_checked_and_given_back_byte_for_byte() {
    let site = Site::new(SINGLE);
    let file = site.at("exim.conf");
    let before = snapshot(site.folder.path());
    let shown = site.succeeds("--diff", &file);
    assert!(shown.contains("+  transport_filter = DESKMILTER_LAST_HOP"), "{shown}");
    assert_eq!(snapshot(site.folder.path()), before, "--diff changes nothing");
    let output = site.run("--check", &file);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(1) && told.contains("fail  routes: support@acme.example is not routed"),
        "{told}"
    );
    assert!(told.contains("fail  last hop: transport remote_smtp"), "{told}");

    site.succeeds("--apply", &file);
    assert!(site.succeeds("--apply", &file).starts_with("nothing to change"), "once is enough");
    let output = site.run("--check", &file);
    let told = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = told.lines().filter(|line| line.starts_with("fail")).collect();
    assert!(failed.len() == 1 && failed[0].contains("nobody answers"), "{told}{output:?}");
    assert!(told.contains("ok    asked: the DATA ACL waits 55 s"), "{told}");
    assert!(told.contains("ok    last hop: transport remote_smtp runs the filter"), "{told}");

    site.succeeds("--undo", &file);
    assert_eq!(snapshot(site.folder.path()), before);
}

#[test]
fn what_a_configuration_does_to_our_work_is_told() {
    let rewriting = SINGLE.replace("begin retry", "begin rewrite\n*@acme.example $1@mangled.example F\n\nbegin retry");
    let site = Site::new(&format!("spool_wireformat = true\n{rewriting}"));
    let file = site.at("exim.conf");
    site.succeeds("--apply", &file);
    let output = site.run("--check", &file);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("fail  spool format") && told.contains("fail  rewriting"), "{told}{output:?}");
}

#[test]
fn a_login_and_a_socket_that_exim_does_not_know_are_told_until_its_files_are_written_anew() {
    let site = Site::new(SINGLE);
    let file = site.at("exim.conf");
    site.succeeds("--apply", &file);
    let path = site.at("deskmilter.toml");
    let text = fs::read_to_string(&path).unwrap().replace("/exim.sock", "/other.sock");
    let logins = "logins = [{ name = \"desk\", ";
    let more = "logins = [{ name = 'ACME\\desk:2{$', addresses = [\"support@acme.example\"] }, { name = \"desk\", ";
    assert!(text.contains(logins));
    fs::write(&path, text.replace(logins, more)).unwrap();
    let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
    assert!(told.contains("fail  logins: Exim does not know the login ACME"), "{told}");
    assert!(told.contains("fail  asked: the DATA ACL asks") && told.contains("other.sock (exim.listen)"), "{told}");
    site.succeeds("--apply", &file);
    let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
    assert!(!told.contains("fail  logins") && !told.contains("fail  asked"), "{told}");
    // Exim reads the login as it is.
    let asked = fs::read_to_string(site.at("deskmilter/macros")).unwrap();
    let list = asked.lines().find_map(|line| line.strip_prefix("DESKMILTER_LOGINS = ")).unwrap();
    let question = format!("${{if inlisti{{${{base64d:QUNNRVxkZXNrOjJ7JA==}}}}{{{list}}}{{known}}{{unknown}}}}");
    let output = Command::new(exim_program()).arg("-C").arg(&file).args(["-be", &question]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "known", "{question} {output:?}");
}

#[test]
fn debians_split_configuration_gets_files_of_ours_and_is_given_back() {
    let site = Site::new("");
    let debian = exim_program().ancestors().nth(3).unwrap().join("etc/exim4");
    let copied = Command::new("cp").arg("-r").arg(debian.join("conf.d")).arg(site.folder.path()).status().unwrap();
    assert!(copied.success());
    let file = site.at("exim4.conf.template");
    fs::copy(debian.join("exim4.conf.template"), &file).unwrap();
    let before = snapshot(site.folder.path());
    site.succeeds("--apply", &file);
    let smtp = fs::read_to_string(site.at("conf.d/transport/30_exim4-config_remote_smtp")).unwrap();
    assert!(smtp.contains("transport_filter = DESKMILTER_LAST_HOP"), "{smtp}");
    let main = fs::read_to_string(site.at("conf.d/main/00_deskmilter")).unwrap();
    assert!(main.contains("CHECK_DATA_LOCAL_ACL_FILE = "), "{main}");

    // As update-exim4.conf puts it together.
    let mut whole = String::new();
    for part in ["main", "acl", "router", "transport", "retry", "rewrite", "auth"] {
        let folder = snapshot(&site.at("conf.d").join(part));
        whole.extend(folder.into_iter().map(|(_, text)| text + "\n"));
    }
    let whole: String = whole.split("DEBCONF").step_by(2).collect();
    let head = format!("SPOOLDIR = {}/spool\nlog_file_path = {0}/%slog\n", site.folder.path().display());
    let generated = site.at("generated.conf");
    fs::write(&generated, head + &whole).unwrap();
    let output = Command::new(exim_program()).arg("-C").arg(&generated).arg("-bV").output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
    fs::remove_file(&generated).unwrap();

    site.succeeds("--undo", &file);
    assert_eq!(snapshot(site.folder.path()), before);
}

#[test]
fn a_file_that_is_not_ours_and_an_acl_that_is_elsewhere_are_left_alone() {
    let site = Site::new(&SINGLE.replace("check_data:", "other:"));
    let file = site.at("exim.conf");
    let output = site.run("--apply", &file);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("by hand"), "{output:?}");
    let site = Site::new(SINGLE);
    fs::create_dir(site.at("deskmilter")).unwrap();
    fs::write(site.at("deskmilter/acl"), "mine").unwrap();
    let output = site.run("--apply", &site.at("exim.conf"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("was not written by deskmilter"), "{output:?}");
}

#[test]
fn debians_template_is_changed_where_conf_d_is_not_in_use() {
    let site = Site::new("");
    let debian = exim_program().ancestors().nth(3).unwrap().join("etc/exim4");
    fs::create_dir(site.at("conf.d")).unwrap();
    fs::write(site.at("update-exim4.conf.conf"), "dc_use_split_config='false'\n").unwrap();
    let text: String =
        fs::read_to_string(debian.join("exim4.conf.template")).unwrap().split("DEBCONF").step_by(2).collect();
    let file = site.at("exim4.conf.template");
    fs::write(&file, format!("SPOOLDIR = {0}/spool\nlog_file_path = {0}/%slog\n{text}", site.folder.path().display()))
        .unwrap();
    let before = snapshot(site.folder.path());
    site.succeeds("--apply", &file);
    let output = Command::new(exim_program()).arg("-C").arg(&file).arg("-bV").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
    assert!(told.contains("ok    routes") && told.matches("ok    last hop").count() == 2, "{told}");
    site.succeeds("--undo", &file);
    assert_eq!(snapshot(site.folder.path()), before);
}

/// Where deskmilter relays at DATA time.
fn inline(site: &Site, endpoint: &str, transport: bool) {
    let path = site.at("deskmilter.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    text = text.replace("[connector.submission]", &format!("relay = \"inline\"\n{endpoint}\n[connector.submission]"));
    if !transport {
        let (begin, rest) = text.split_once("[transport]\n").unwrap();
        text = format!("{begin}{}", rest.split_once('\n').unwrap().1);
    }
    fs::write(path, text).unwrap();
}

#[test]
fn what_inline_relay_needs_is_written_and_checked_and_given_back() {
    for (endpoint, transport, routes) in [
        ("", true, "ok    routes: 1 addresses lead to deskmilter_acme_desk"),
        ("", false, "ok    routes: not needed: the DATA ACL relays 1 addresses of acme-desk"),
        ("keep_copy = true", true, "ok    routes: not needed"),
    ] {
        let site = Site::new(SINGLE);
        let file = site.at("exim.conf");
        let before = snapshot(site.folder.path());
        // What was written for relaying out of the queue does not do.
        site.succeeds("--apply", &file);
        inline(&site, endpoint, transport);
        let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
        for missing in ["fail  asked: the DATA ACL waits 55 s", "fail  inline relay: Exim has another list"] {
            assert!(told.contains(missing), "{missing}: {told}");
        }
        if endpoint.contains("keep_copy") {
            assert!(told.contains("fail  routes: support@acme.example is routed to deskmilter_acme_desk"), "{told}");
        }
        site.succeeds("--apply", &file);
        let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
        for found in ["ok    asked: the DATA ACL waits 130 s", "ok    asked at RCPT", "ok    last in order", routes] {
            assert!(told.contains(found), "{found}: {told}");
        }
        let text = fs::read_to_string(site.at("deskmilter.toml")).unwrap();
        site.succeeds("--undo", &file);
        fs::write(site.at("deskmilter.toml"), &text).unwrap();
        let after: Vec<_> =
            snapshot(site.folder.path()).into_iter().filter(|(path, _)| !path.ends_with("deskmilter.toml")).collect();
        let before: Vec<_> = before.into_iter().filter(|(path, _)| !path.ends_with("deskmilter.toml")).collect();
        assert_eq!(after, before);
    }
}

#[test]
fn what_may_refuse_a_message_that_is_a_ticket_already_is_named() {
    let site = Site::new(&SINGLE.replace(
        "  accept\n\nbegin routers",
        "  accept hosts = 10.0.0.0/8\n  deny malware = *\n  accept\n\nbegin routers",
    ));
    inline(&site, "", true);
    let file = site.at("exim.conf");
    site.succeeds("--apply", &file);
    let told = String::from_utf8(site.run("--check", &file).stdout).unwrap();
    assert!(told.contains("warn  last in order: \"deny condition"), "{told}");
}
