//! Who a node is: an authority, and what it vouches for.
//!
//! ```text
//!   Authority ──issue(node)──► Credentials ──┬─ client(peer): "I am node, and talk to peer only"
//!   (one a testbed or cluster)               └─ server():     "I am node; who comes needs the authority's word"
//! ```
//! One [`Authority`] makes the [`Credentials`] of every node and of the controller. Two of its making know each other by
//! name; anybody else is refused. TLS 1.3 only, ECDSA P-256 keys. Names stand in certificates as DNS names below
//! `.godwit`, so that no node name can be taken for an address.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Clocks of two nodes may be this far apart.
const CLOCKS: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why an identity cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key cannot be made.
    #[error("make {what}")]
    Make {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// What was read is not what it should be; says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file of it.
    #[error("{what}")]
    File {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

type Result<T> = std::result::Result<T, IdentityError>;

fn making<E: Into<rcgen::Error>>(what: &str) -> impl FnOnce(E) -> IdentityError {
    let what = what.to_owned();
    move |e| IdentityError::Make { what, source: e.into() }
}

fn unusable(what: &str, why: impl fmt::Display) -> IdentityError {
    IdentityError::Unusable(format!("{what} cannot be used: {why}"))
}

/// The name of a node as it stands in its certificate.
pub fn server_name(node: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(format!("{node}.godwit")).map_err(|_| {
        IdentityError::Unusable(format!(
            "{node:?} cannot stand in a certificate: no part between dots may be empty or end with '-'"
        ))
    })
}

/// Vouches for nodes.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "godwit authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_until(&mut params, SystemTime::now() + 10 * YEAR);
    params
}

fn valid_until(params: &mut CertificateParams, end: SystemTime) {
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(SystemTime::now()).saturating_sub(CLOCKS);
    params.not_after = epoch + since_epoch(end);
}

impl Authority {
    /// A new one, with a key that nobody else has.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().map_err(making("the authority's key"))?;
        let params = authority_params();
        let certificate = params.self_signed(&key).map_err(making("the authority's certificate"))?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// One that was written down: PEM of its certificate and of its key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key).map_err(|e| unusable("the authority's key", e))?;
        let made = Self { certificate: certificate.to_owned(), issuer: Issuer::new(authority_params(), key) };
        // A certificate and a key of different authorities would be found out by every peer, and explained by none.
        made.issue("check")?.verified()?;
        Ok(made)
    }

    /// Its certificate, for who has to know whom it vouches for.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// Its key. Who has it can be any node.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Credentials for a node, good for a year.
    pub fn issue(&self, node: &str) -> Result<Credentials> {
        self.issue_until(node, SystemTime::now() + YEAR)
    }

    /// Credentials for a node, good until then.
    pub fn issue_until(&self, node: &str, end: SystemTime) -> Result<Credentials> {
        let what = format!("the certificate of {node}");
        let name = server_name(node)?;
        let mut params = CertificateParams::new([name.to_str().into_owned()]).map_err(making(&what))?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        valid_until(&mut params, end);
        let key = KeyPair::generate().map_err(making(&format!("the key of {node}")))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(making(&what))?;
        Credentials::from_pem(node, &certificate.pem(), &key.serialize_pem(), &self.certificate)
    }
}

/// What a node shows of itself, and whom it believes.
#[derive(Clone)]
pub struct Credentials {
    node: String,
    certificate: String,
    key: String,
    authority: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("node", &self.node).finish_non_exhaustive()
    }
}

const FILES: [&str; 3] = ["node.crt", "node.key", "authority.crt"];

impl Credentials {
    /// From PEM: the node's certificate and key, the authority's certificate. Checks that they belong together.
    pub fn from_pem(node: &str, certificate: &str, key: &str, authority: &str) -> Result<Self> {
        let (node, certificate, key, authority) =
            (node.to_owned(), certificate.to_owned(), key.to_owned(), authority.to_owned());
        let made = Self { node, certificate, key, authority };
        made.server()?;
        made.verified()?;
        Ok(made)
    }

    /// From a directory that [`write_to`](Self::write_to) has written.
    pub fn read_from(dir: &Path, node: &str) -> Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(dir.join(file))
                .map_err(|source| IdentityError::File { what: format!("read {}", dir.join(file).display()), source })
        };
        Self::from_pem(node, &read(FILES[0])?, &read(FILES[1])?, &read(FILES[2])?)
    }

    /// Into a directory that only this user can read; makes it.
    pub fn write_to(&self, dir: &Path) -> Result<()> {
        let failed = |source| IdentityError::File { what: format!("write credentials into {}", dir.display()), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        for (file, text) in FILES.iter().zip([&self.certificate, &self.key, &self.authority]) {
            let mut open = fs::OpenOptions::new();
            let mut file =
                open.write(true).create(true).truncate(true).mode(0o600).open(dir.join(file)).map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// Whose they are.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The node's key.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The authority's certificate.
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    /// How this node calls another one. Whom it calls is checked against the name that it asks for: [`server_name`].
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable("TLS 1.3", e))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.key()?)
            .map_err(|e| unusable("the node's key", e))?;
        Ok(Arc::new(config))
    }

    /// How this node is called. Who calls needs the authority's word; its name is for the caller to check:
    /// [`is_named`].
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?.into(), provider())
            .build()
            .map_err(|e| unusable("the authority's certificate", e))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unusable("TLS 1.3", e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.key()?)
            .map_err(|e| unusable("the node's key", e))?;
        // Every connection is authenticated afresh.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let chain: std::result::Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Ok(chain),
            Ok(_) => Err(unusable("the node's certificate", "there is none in the PEM")),
            Err(e) => Err(unusable("the node's certificate", e)),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| unusable("the node's key", e))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let what = "the authority's certificate";
        let certificate = CertificateDer::from_pem_slice(self.authority.as_bytes()).map_err(|e| unusable(what, e))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| unusable(what, e))?;
        Ok(roots)
    }

    /// The authority has vouched for this node, under this name, and the time is right.
    fn verified(&self) -> Result<()> {
        let chain = self.chain()?;
        let what = format!("the certificate of {}", self.node);
        let parsed = ParsedCertificate::try_from(&chain[0]).map_err(|e| unusable(&what, e))?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots()?, &chain[1..], UnixTime::now(), algorithms)
            .map_err(|e| unusable(&what, format!("the authority given does not vouch for it ({e})")))?;
        verify_server_name(&parsed, &server_name(&self.node)?).map_err(|_| unusable(&what, "it is somebody else's"))
    }
}

/// Whether a certificate that the authority vouches for is a node's.
pub fn is_named(certificate: &CertificateDer<'_>, node: &str) -> bool {
    let name = server_name(node).ok();
    let parsed = ParsedCertificate::try_from(certificate).ok();
    parsed.zip(name).is_some_and(|(parsed, name)| verify_server_name(&parsed, &name).is_ok())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_a_directory_and_its_key_is_private() {
        let authority = Authority::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("identity");
        authority.issue("node0").unwrap().write_to(&at).unwrap();
        let read = Credentials::read_from(&at, "node0").unwrap();
        assert_eq!(read.authority_pem(), authority.certificate_pem());
        assert_eq!(fs::metadata(at.join("node.key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Credentials::read_from(&at, "node1").unwrap_err().to_string();
        assert!(error.contains("somebody else's"), "{error}");
    }

    #[test]
    fn an_authority_survives_and_vouches_for_the_same_nodes() {
        let first = Authority::new().unwrap();
        let again = Authority::from_pem(first.certificate_pem(), &first.key_pem()).unwrap();
        assert_eq!(again.issue("a").unwrap().authority_pem(), first.issue("b").unwrap().authority_pem());
    }

    #[test]
    fn what_does_not_belong_together_is_told_at_once() {
        let (one, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        let error = Authority::from_pem(one.certificate_pem(), &other.key_pem()).unwrap_err().to_string();
        assert!(error.contains("does not vouch"), "{error}");
        let (a, b) = (one.issue("a").unwrap(), one.issue("a").unwrap());
        let error = Credentials::from_pem("a", a.certificate_pem(), b.key_pem(), one.certificate_pem()).unwrap_err();
        assert!(error.to_string().contains("the node's key"), "{error}");
        let error = Credentials::from_pem("a", "no PEM", a.key_pem(), one.certificate_pem()).unwrap_err();
        assert!(error.to_string().contains("the node's certificate"), "{error}");
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused() {
        let authority = Authority::new().unwrap();
        for name in ["a..b", "", "a b"] {
            let error = authority.issue(name).unwrap_err().to_string();
            assert!(error.contains("cannot stand in a certificate"), "{name:?}: {error}");
        }
        // Looks like an address, is none.
        authority.issue("10.0.0.1").unwrap();
    }

    #[test]
    fn nothing_secret_is_printed() {
        let credentials = Authority::new().unwrap().issue("a").unwrap();
        assert!(!format!("{credentials:?}").contains("PRIVATE"));
    }
}
