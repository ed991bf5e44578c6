//! SPF records as text: which of a domain's TXT records is the one, and whether all of it is well-formed (RFC 7208 sections
//! 4.5 and 4.6). The library skips terms that it cannot read and takes the first of several records.

use std::net::{Ipv4Addr, Ipv6Addr};

use mail_auth::SpfResult;
use mail_auth::dns::TxtRecordParser;
use mail_auth::spf::SpfRecord;

/// The SPF record among the TXT records of a name.
///
/// # Errors
/// `None` where there is none, `PermError` where there are several or the one has a syntax error anywhere.
pub(super) fn select(texts: &[Vec<u8>]) -> Result<SpfRecord, SpfResult> {
    let mut records = texts.iter().filter_map(|text| Some((text, terms(text)?)));
    let Some((text, terms)) = records.next() else { return Err(SpfResult::None) };
    if records.next().is_some() || !well_formed(terms) {
        return Err(SpfResult::PermError);
    }
    SpfRecord::parse(text).map_err(|_| SpfResult::PermError)
}

/// What follows the version, if this is an SPF record.
fn terms(text: &[u8]) -> Option<&[u8]> {
    let (version, terms) = text.split_at_checked("v=spf1".len())?;
    (version.eq_ignore_ascii_case(b"v=spf1") && matches!(terms.first(), None | Some(b' '))).then_some(terms)
}

/// RFC 7208 section 12; macros are read by the library.
fn well_formed(terms: &[u8]) -> bool {
    let Ok(terms) = std::str::from_utf8(terms) else { return false };
    let terms: Vec<String> = terms.split(' ').filter(|term| !term.is_empty()).map(str::to_ascii_lowercase).collect();
    let once = |name: &str| terms.iter().filter(|term| term.starts_with(name)).count() <= 1;
    once("redirect=")
        && once("exp=")
        && terms
            .iter()
            .all(|term| term.bytes().all(|b| b.is_ascii_graphic()) && (is_modifier(term) || is_directive(term)))
}

fn is_modifier(term: &str) -> bool {
    let Some((name, value)) = term.split_once('=') else { return false };
    let well_named = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    well_named && (!matches!(name, "redirect" | "exp") || !value.is_empty())
}

fn is_directive(term: &str) -> bool {
    let term = term.strip_prefix(['+', '-', '?', '~']).unwrap_or(term);
    let end = term.find([':', '/']).unwrap_or(term.len());
    let (name, rest) = term.split_at_checked(end).unwrap_or((term, ""));
    let value = rest.strip_prefix(':');
    match name {
        "all" => rest.is_empty(),
        "include" | "exists" => value.is_some_and(|value| !value.is_empty()),
        "ptr" => rest.is_empty() || value.is_some_and(|value| !value.is_empty()),
        "a" | "mx" => {
            // The prefix length begins at a slash outside of a macro's braces.
            let mut braces = false;
            let slash = rest.find(|c: char| {
                braces = (braces || c == '{') && c != '}';
                c == '/' && !braces
            });
            let (target, length) = rest.split_at_checked(slash.unwrap_or(rest.len())).unwrap_or((rest, ""));
            target != ":" && is_dual_length(length)
        }
        "ip4" => value.is_some_and(|value| is_network(value, 32, |ip| ip.parse::<Ipv4Addr>().is_ok())),
        "ip6" => value.is_some_and(|value| is_network(value, 128, |ip| ip.parse::<Ipv6Addr>().is_ok())),
        _ => false,
    }
}

fn is_network(value: &str, longest: u8, is_address: impl Fn(&str) -> bool) -> bool {
    match value.split_once('/') {
        None => is_address(value),
        Some((ip, length)) => is_address(ip) && is_length(length, longest),
    }
}

/// `[ ip4-cidr-length ] [ "/" ip6-cidr-length ]`
fn is_dual_length(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some(lengths) = text.strip_prefix('/') else { return false };
    match lengths.split_once('/') {
        None => is_length(lengths, 32),
        Some(("", ip6)) => is_length(ip6, 128),
        Some((ip4, ip6)) => is_length(ip4, 32) && ip6.strip_prefix('/').is_some_and(|ip6| is_length(ip6, 128)),
    }
}

fn is_length(text: &str, longest: u8) -> bool {
    let canonical = text == "0" || !text.starts_with('0');
    canonical && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u8>().is_ok_and(|length| length <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select_text(texts: &[&str]) -> Result<SpfRecord, SpfResult> {
        select(&texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    #[test]
    fn the_one_record_is_found_among_others() {
        assert_eq!(select_text(&["x=y", "v=spf10 +all", "v=spf1 -all", "V=SPF2"]).unwrap().directives.len(), 1);
        assert_eq!(select_text(&["v=spf1"]).unwrap().directives.len(), 0);
        assert_eq!(select_text(&["x=y", "v=spf10", " v=spf1 -all"]).unwrap_err(), SpfResult::None);
        assert_eq!(select_text(&["v=spf1 -all", "v=spf1 -all"]).unwrap_err(), SpfResult::PermError);
    }

    #[test]
    fn what_people_publish_is_well_formed() {
        for text in [
            "v=spf1  a mx ptr -all ",
            "V=SPF1 A:x.example MX:x.example/24 a/24//64 mx//64 ?ptr:x.example ~ALL",
            "v=spf1 ip4:192.0.2.1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip6:::1 -all",
            "v=spf1 exists:%{ir}.%{v}._spf.%{d2} exists:%{l1r-/+}.x.example redirect=_spf.%{d}",
            "v=spf1 a:%{d2/}.x.example/24 -all",
            "v=spf1 -all exp=why.%{d} ra=postmaster x-new.thing=%{d}",
        ] {
            assert!(select_text(&[text]).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_syntax_error_anywhere_spoils_the_record() {
        for term in [
            "ip4:999.1.1.1",
            "ip4:192.0.2.1/33",
            "ip4:192.0.2",
            "ip4:",
            "ip4",
            "ip6:192.0.2.1",
            "ip6:::/129",
            "lemon:juice",
            "all:x.example",
            "all/8",
            "include",
            "include:",
            "exists",
            "a:",
            "a/33",
            "a/024",
            "a//129",
            "a/24/64",
            "-",
            "-+all",
            "redirect=",
            "redirect=x.example redirect=y.example",
            "exp=",
            "1x=y",
            "ip4:192.0.2.1,",
            "b\u{fc}cher",
            "%",
        ] {
            let text = format!("v=spf1 ip4:192.0.2.1 {term} -all");
            assert_eq!(select_text(&[&text]).unwrap_err(), SpfResult::PermError, "{text}");
        }
    }
}
