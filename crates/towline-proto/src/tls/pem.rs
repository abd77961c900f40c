//! Certificates and keys out of PEM, with errors that name the file.

use super::Error;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{fmt, path::PathBuf, sync::Arc};

/// Where PEM text comes from.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Memory(Arc<[u8]>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory(_) => f.write_str("memory"),
        }
    }
}

impl Source {
    fn read(&self) -> Result<Arc<[u8]>, Error> {
        match self {
            Self::File(path) => match std::fs::read(path) {
                Ok(text) => Ok(text.into()),
                Err(error) => Err(Error::Unreadable { path: path.clone(), error: Arc::new(error) }),
            },
            Self::Memory(text) => Ok(text.clone()),
        }
    }

    fn malformed(&self, what: &'static str, reason: impl Into<String>) -> Error {
        Error::MalformedPem { what, origin: self.to_string(), reason: reason.into() }
    }

    /// Every certificate in it, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = self.read()?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.malformed("certificate", broken(&error)))?;
        if certificates.is_empty() {
            return Err(
                self.malformed("certificate", "it has no `-----BEGIN CERTIFICATE-----` section")
            );
        }
        Ok(certificates)
    }

    /// The first private key in it.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let text = self.read()?;
        if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY")
            || contains(&text, b"Proc-Type: 4,ENCRYPTED")
        {
            return Err(Error::EncryptedKey { origin: self.to_string() });
        }
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => {
                let reason = if contains(&text, b"BEGIN CERTIFICATE") {
                    "it has a certificate instead: are certificate and key exchanged?"
                } else {
                    "it has no `-----BEGIN PRIVATE KEY-----` section (PKCS #8, PKCS #1 and SEC1 keys are read)"
                };
                self.malformed("private key", reason)
            }
            error => self.malformed("private key", broken(&error)),
        })
    }
}

fn broken(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a section has no end: the text may be cut off".to_owned()
        }
        pem::Error::IllegalSectionStart { .. } => "a section begins with a damaged line".to_owned(),
        pem::Error::Base64Decode(reason) => format!("its base64 is damaged: {reason}"),
        error => error.to_string(),
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}
