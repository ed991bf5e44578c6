//! Keys and their records.

use super::input::{sure, text};
use crate::config::Secret;
use crate::dkim::{Algorithm, KeyRecord, PublicKey, SigningKey, zone_entry};

pub(super) fn record(octets: &[u8]) {
    let Ok(record) = KeyRecord::parse(octets) else { return };
    assert!(record.key.len() <= octets.len() && !record.key_type.contains(';'));
    for algorithm in [Algorithm::Ed25519, Algorithm::Rsa] {
        if let Some(key) = PublicKey::read(algorithm, &record.key) {
            let again = sure(KeyRecord::parse(key.record().as_bytes()));
            assert_eq!(again.key_type, algorithm.key_type());
            assert_eq!(PublicKey::read(algorithm, &again.key), Some(key));
        }
    }
    // A zone file's strings, taken together, are the record.
    let text = text(octets);
    if text.is_ascii() {
        let entry = zone_entry("a.example", &text);
        let strings: String = entry.split('"').skip(1).step_by(2).collect();
        assert_eq!(strings, text);
    }
}

pub(super) fn key(octets: &[u8]) {
    match SigningKey::parse(&Secret::new(octets.to_vec())) {
        Ok(key) => {
            let record = sure(KeyRecord::parse(key.public().record().as_bytes()));
            assert_eq!(PublicKey::read(key.algorithm(), &record.key).as_ref(), Some(key.public()));
            assert!(key.signer().is_ok(), "taken, and found damaged when it was to sign");
            assert!(matches!(key.algorithm(), Algorithm::Ed25519) || (2048..=4096).contains(&key.public().bits()));
        }
        Err(flaw) => {
            // A label is all that may be shown of what may be a key.
            let shown = flaw.to_string();
            assert!(shown.len() < 600 && !shown.contains('\n'), "{shown}");
        }
    }
}
