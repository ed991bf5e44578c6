//! Postfix's configuration. Part of `doctor::postfix`.

use super::main_cf::{append, blocks, without_blocks};
use super::{MilterEntry, ParameterEdit, service};
use crate::fuzzing::input::{parts, text};

pub(crate) fn configuration(octets: &[u8]) {
    let [main_cf, entries, overrides] = parts(octets).map(text);

    // Two additions, as --apply makes them, and the whole taken back.
    if !main_cf.contains("# deskmilter begin") {
        let edit = |name, value: &str| ParameterEdit { name, value: value.to_owned() };
        let once = append(&main_cf, &edit("smtpd_milters", "unix:deskmilter/milter.sock"));
        let twice = append(&once, &edit("transport_maps", "texthash:/etc/postfix/deskmilter_transport"));
        assert_eq!(blocks(&twice).len(), 2);
        let restored = without_blocks(&twice);
        assert_eq!(restored.strip_suffix('\n').unwrap_or(&restored), main_cf.strip_suffix('\n').unwrap_or(&main_cf));
    }
    assert!(blocks(&main_cf).iter().map(String::len).sum::<usize>() <= main_cf.len());

    for service in service::parse(&entries, &overrides, "3.6") {
        assert!(!service.name.is_empty() && !service.command.contains(char::is_whitespace));
        assert!(service.label().contains('/'));
        let _ = (service.receives_smtp(), service.is_on_loopback());
    }
    for entry in MilterEntry::list(&main_cf) {
        assert!(entry.reaches(&entry.endpoint, std::path::Path::new("/var/spool/postfix")));
        assert!(entry.endpoint.len() <= main_cf.len());
    }
}
