//! When a remote server's certificate expires: the one thing of it that a postmaster must know before it is too late. Whether it is
//! good at all, rustls has said before.

use std::sync::atomic::{AtomicI64, Ordering};

use rustls::pki_types::CertificateDer;
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::dkim::der::{SEQUENCE, take};

/// Tags of a certificate's fields (X.690; RFC 5280 section 4.1).
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_0: u8 = 0xa0;
const GENERALIZED: &[FormatItem<'_>] = format_description!("[year][month][day][hour][minute][second]Z");

/// Seconds since 1970 of the expiry seen last; 0 for none.
#[derive(Debug, Default)]
pub(super) struct Expiry(AtomicI64);

impl Expiry {
    /// Takes note of what a server showed; its own certificate is the first.
    pub fn note(&self, shown: Option<&[CertificateDer<'_>]>) {
        let expires = shown.and_then(|chain| not_after(chain.first()?));
        self.0.store(expires.map_or(0, OffsetDateTime::unix_timestamp), Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|expires| *expires != 0)
    }
}

/// The end of a certificate's validity.
fn not_after(certificate: &[u8]) -> Option<OffsetDateTime> {
    let (certificate, _) = take(SEQUENCE, certificate)?;
    let (fields, _) = take(SEQUENCE, certificate)?;
    let fields = take(EXPLICIT_0, fields).map_or(fields, |(_version, rest)| rest);
    let (_serial, fields) = take(INTEGER, fields)?;
    let (_algorithm, fields) = take(SEQUENCE, fields)?;
    let (_issuer, fields) = take(SEQUENCE, fields)?;
    let (validity, _) = take(SEQUENCE, fields)?;
    let (_not_before, rest) = take(UTC_TIME, validity).or_else(|| take(GENERALIZED_TIME, validity))?;
    let text = match take(UTC_TIME, rest) {
        Some((short, _)) => {
            let short = std::str::from_utf8(short).ok()?;
            // Two digits of the year: 50 to 99 are of the last century (section 4.1.2.5.1).
            let century = if short.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{short}")
        }
        None => std::str::from_utf8(take(GENERALIZED_TIME, rest)?.0).ok()?.to_owned(),
    };
    Some(PrimitiveDateTime::parse(&text, GENERALIZED).ok()?.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut terms = rcgen::CertificateParams::new(vec!["endpoint.example".to_owned()]).unwrap();
        terms.not_after = rcgen::date_time_ymd(year, 3, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        terms.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_expiry_is_read_in_both_spellings_of_time() {
        for year in [2031, 2049, 2050, 2100] {
            let expires = not_after(&certificate(year)).unwrap();
            assert_eq!(expires.date(), time::Date::from_calendar_date(year, time::Month::March, 4).unwrap());
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_expiry() {
        let whole = certificate(2031);
        for end in 0..whole.len() {
            let _no_panic = not_after(whole.get(..end).unwrap());
        }
        assert_eq!(not_after(b"nonsense"), None);
        let expiry = Expiry::default();
        expiry.note(Some(&[CertificateDer::from(whole)]));
        assert!(expiry.get().is_some());
        expiry.note(None);
        assert_eq!(expiry.get(), None);
    }
}
