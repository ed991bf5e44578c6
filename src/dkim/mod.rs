//! DKIM keys (RFC 6376, RFC 8463): the private key that signs, made or read from its file, and the public key's DNS record,
//! written or read.
//!
//! In: PEM text, TXT records. Out: a [`SigningKey`] ready for the signer, records ready for a zone file, or exactly what is
//! wrong. Knows nothing of messages or connectors, and opens nothing but the key's own file.

mod consistency;
pub(crate) mod der;
mod key;
mod new_file;
mod pem;
mod record;

pub use key::{Algorithm, KeyError, NewKey, PublicKey, SigningKey};
pub use new_file::write_new;
pub use pem::KeyFlaw;
pub use record::{KeyRecord, RecordError, Selector, record_name, zone_entry};
