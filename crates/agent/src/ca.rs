//! Who may speak to whom over TCP: one authority for a cluster, a certificate for each agent and each controller.
//!
//! An agent's certificate is good for being called (under its node's name), a controller's for calling; neither does for the
//! other, so a node that was broken into cannot order the others about. Keys are made where they are used or carried there
//! in a directory that only its owner may enter.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate could not be made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It could not be made.
    #[error("a certificate for {name} cannot be made")]
    Make {
        /// For whom.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file of it.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One side's certificate with its key, and the authority that it trusts; PEM.
#[derive(Clone)]
pub struct Files {
    /// The authority's certificate.
    pub authority: String,
    /// One's own certificate.
    pub certificate: String,
    /// And its key.
    pub key: String,
}

/// For whom a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May be called.
    Agent,
    /// May call.
    Controller,
}

/// The authority of a testbed or a cluster.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, in memory.
    pub fn new(name: &str) -> Result<Self, CaError> {
        let failed = |source| CaError::Make { name: name.into(), source };
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(failed)
    }

    /// A certificate for a node's agent, or for a controller, by its name.
    pub fn issue(&self, name: &str, role: Role) -> Result<Files, CaError> {
        let failed = |source| CaError::Make { name: name.into(), source };
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Agent => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Controller => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        Ok(Files { authority: self.0.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Files {
    /// Keeps them in a directory of their own.
    pub fn write(&self, dir: &Path) -> Result<(), CaError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        for (name, text) in [("ca.pem", &self.authority), ("node.pem", &self.certificate), ("node.key", &self.key)] {
            let path = dir.join(name);
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// What [`Files::write`] has kept.
    pub fn read(dir: &Path) -> Result<Self, CaError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| CaError::File { path, source })
        };
        Ok(Self { authority: read("ca.pem")?, certificate: read("node.pem")?, key: read("node.key")? })
    }
}
