//! A certificate for a server of the test's own, and the authority that vouches for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A server's key and certificate, and its authority. Made anew for each value.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    name: String,
    key: String,
    certificate: String,
    authority: String,
}

impl TlsIdentity {
    /// An identity for the host `name`.
    ///
    /// # Panics
    /// When `name` is no host name.
    pub fn new(name: &str) -> Self {
        Self::for_names(&[name])
    }

    /// An identity for a host of several names or addresses; the first is [`Self::name`].
    ///
    /// # Panics
    /// When there is none, or one is no host name and no address.
    pub fn for_names(names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let leaf =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("host names");
        let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
        let name = names.first().expect("a name");
        Self { name: (*name).to_owned(), key: key.serialize_pem(), certificate: leaf.pem(), authority: authority.pem() }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The authority's certificate as PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Writes key and certificate into one file, as `smtpd_tls_chain_files` wants it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_chain(&self, path: &Path) {
        fs::write(path, format!("{}{}", self.key, self.certificate)).expect("a chain file");
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
    }

    /// What a client needs that trusts this authority and no other.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        client_trusting(&self.authority)
    }
}

/// What a client needs that trusts the authority in this PEM text and no other.
pub(crate) fn client_trusting(authority: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate in PEM");
    roots.add(authority).expect("an authority's certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth())
}
