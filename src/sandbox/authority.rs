//! The sandbox's own certification authority and its server's certificate.
//!
//! The authority's key is thrown away once it has signed: nobody can ever make a second certificate that clients of this
//! sandbox would trust.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::SandboxError;
use crate::mail::Domain;

/// For how long a certificate is valid.
const VALIDITY: Duration = Duration::days(397);
/// A certificate this close to its end is replaced at the next start.
const RENEWAL: Duration = Duration::days(30);
/// Clocks of clients may lag this much.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// What the certificate at hand is good for. Written last: where it is, the others are whole.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    names: Vec<String>,
    not_after: i64,
}

/// Where the authority's certificate is.
pub(super) fn ca_file(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

/// The TLS configuration, with certificates made when there are none that fit.
pub(super) fn server_config(directory: &Path, hostname: &Domain) -> Result<Arc<ServerConfig>, SandboxError> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if hostname.as_str() != "localhost" {
        names.push(hostname.to_string());
    }
    if !usable(directory, &names) {
        make(directory, &names)?;
    }
    let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        SandboxError(format!("{}: {error}; remove it to have a new one made", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| failed(&key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| failed(&certificate, &error))?;
    Ok(Arc::new(config))
}

fn usable(directory: &Path, names: &[String]) -> bool {
    let facts = fs::read(directory.join("certificate.json")).ok();
    let facts = facts.and_then(|json| serde_json::from_slice::<Facts>(&json).ok());
    let all = ["ca.pem", "server.pem", "server.key"].iter().all(|name| directory.join(name).is_file());
    let fresh = (OffsetDateTime::now_utc() + RENEWAL).unix_timestamp();
    all && facts.is_some_and(|facts| facts.names == names && facts.not_after > fresh)
}

fn make(directory: &Path, names: &[String]) -> Result<(), SandboxError> {
    let failed = |error: rcgen::Error| SandboxError(format!("cannot make a certificate: {error}"));
    let now = OffsetDateTime::now_utc();
    let (not_before, not_after) = (now - CLOCK_SKEW, now + VALIDITY);

    let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "deskmilter sandbox CA");
    (authority.not_before, authority.not_after) = (not_before, not_after);
    let authority_key = KeyPair::generate().map_err(failed)?;
    let authority_certificate = authority.self_signed(&authority_key).map_err(failed)?;
    let issuer = Issuer::from_params(&authority, &authority_key);

    let mut server = CertificateParams::new(names.to_vec()).map_err(failed)?;
    server.distinguished_name.push(DnType::CommonName, "deskmilter sandbox");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    (server.not_before, server.not_after) = (not_before, not_after);
    let server_key = KeyPair::generate().map_err(failed)?;
    let server_certificate = server.signed_by(&server_key, &issuer).map_err(failed)?;

    let facts = Facts { names: names.to_vec(), not_after: not_after.unix_timestamp() };
    let facts = serde_json::to_vec(&facts).map_err(|error| SandboxError(error.to_string()))?;
    for (name, content, mode) in [
        ("server.key", server_key.serialize_pem().as_bytes(), 0o600),
        ("server.pem", server_certificate.pem().as_bytes(), 0o644),
        ("ca.pem", authority_certificate.pem().as_bytes(), 0o644),
        ("certificate.json", facts.as_slice(), 0o644),
    ] {
        let path = directory.join(name);
        replace(&path, content, mode).map_err(|error| SandboxError::at(&path, error))?;
    }
    Ok(())
}

/// Writes a file whole or not at all, with its mode from the first octet on.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let new = path.with_extension("new");
    // A leftover may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // A bare file name has an empty parent.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_kept_while_it_fits_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let name = |text| Domain::parse(text).unwrap();
        let ca = || fs::read(ca_file(directory.path())).unwrap();
        server_config(directory.path(), &name("desk.example")).unwrap();
        let first = ca();
        server_config(directory.path(), &name("desk.example")).unwrap();
        assert_eq!(ca(), first);
        server_config(directory.path(), &name("other.example")).unwrap();
        assert_ne!(ca(), first);
        let mode = fs::metadata(directory.path().join("server.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
