//! DMARC records as text: which of a name's TXT records is the one, and what stays of it without what cannot be read
//! (RFC 9989 sections 4.7 and 4.10). The library takes the first of several, and nothing of one with a mistake in any tag.

use std::borrow::Cow;

use mail_auth::dmarc::DmarcRecord;
use mail_auth::dns::TxtRecordParser;

/// Names asked for one domain at most (RFC 9989 section 4.10).
const NAMES_MAX: usize = 8;

/// The record among the TXT records of a name; `None` where there is none, or several.
pub(super) fn select(texts: &[Vec<u8>]) -> Option<DmarcRecord> {
    let mut records = texts.iter().map(|text| String::from_utf8_lossy(text)).filter(|text| is_record(text));
    let record = records.next()?;
    if records.next().is_some() { None } else { read(record) }
}

fn is_record(text: &str) -> bool {
    let first = text.split(';').next().unwrap_or_default();
    first.split_once('=').is_some_and(|(name, value)| name.trim() == "v" && value.trim() == "DMARC1")
}

/// The record with every tag that alone spoils it taken out.
fn read(text: Cow<'_, str>) -> Option<DmarcRecord> {
    if let Ok(record) = DmarcRecord::parse(text.as_bytes()) {
        return Some(record);
    }
    let readable = |tag: &&str| DmarcRecord::parse(format!("v=DMARC1; {tag}").as_bytes()).is_ok();
    let tags: Vec<&str> = text.split(';').skip(1).filter(readable).collect();
    DmarcRecord::parse(format!("v=DMARC1; {}", tags.join(";")).as_bytes()).ok()
}

/// The names under which a record of `domain` may be, the longest first: the tree walk of RFC 9989 section 4.10.
pub(super) fn names(domain: &str) -> Vec<String> {
    let labels: Vec<&str> = domain.split('.').collect();
    let all = labels.len();
    (0..all)
        .filter(|&left| left == 0 || all.saturating_sub(left) < NAMES_MAX)
        .filter_map(|left| labels.get(left..))
        .map(|name| format!("_dmarc.{}.", name.join(".")))
        .collect()
}

#[cfg(test)]
mod tests {
    use mail_auth::dmarc::{Alignment, Policy};

    use super::*;

    fn select_text(texts: &[&str]) -> Option<DmarcRecord> {
        select(&texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    #[test]
    fn the_one_record_is_found_among_others_and_two_are_none() {
        assert_eq!(select_text(&["x=y", "v=DMARC1; p=reject"]).unwrap().p, Policy::Reject);
        assert!(select_text(&["v = DMARC1 ;p = reject ; ;"]).is_some());
        for texts in
            [&["v=DMARC1; p=none", "v=DMARC1; p=reject"][..], &["p=reject; v=DMARC1"], &["v=DMARC2; p=reject"], &[]]
        {
            assert!(select_text(texts).is_none(), "{texts:?}");
        }
    }

    #[test]
    fn a_mistake_in_one_tag_does_not_spoil_the_others() {
        let record = select_text(&["v=DMARC1; fo=x; adkim=q; aspf=s; p=reject; rua=mailto:a@b.example!!"]).unwrap();
        assert_eq!((record.p, record.aspf, record.adkim), (Policy::Reject, Alignment::Strict, Alignment::Relaxed));
        assert_eq!(select_text(&["v=DMARC1; p=maybe; aspf=s"]).unwrap().p, Policy::Unspecified);
    }

    #[test]
    fn the_walk_goes_up_in_at_most_eight_steps() {
        assert_eq!(names("a.b.example"), ["_dmarc.a.b.example.", "_dmarc.b.example.", "_dmarc.example."]);
        let long = names("l.k.j.i.h.g.f.e.d.c.b.example");
        assert_eq!(long.len(), NAMES_MAX);
        assert_eq!(long.get(1).unwrap(), "_dmarc.g.f.e.d.c.b.example.");
    }
}
