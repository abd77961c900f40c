//! Self-signed certificates, for the command and for tests.

use super::{Error, Pin};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType,
};
use std::net::IpAddr;

/// A self-signed certificate and its key.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// The private key as PEM (PKCS #8, ECDSA P-256). Whoever has it can pose as this server.
    pub key_pem: String,
    /// The pin of the certificate, by which a client trusts it.
    pub pin: Pin,
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// Makes a self-signed certificate for `names`: DNS names and IP addresses, at least one. It serves as server and as client certificate,
/// and can be trusted by its pin or as a CA file. It has no practical end of validity; pin it, and replace it when the key is no longer secret.
///
/// # Errors
/// [`Error::BadServerName`] for a name that is neither, or for none; [`Error::Failed`] when the provider cannot make a key.
pub fn self_signed(names: &[impl AsRef<str>]) -> Result<SelfSigned, Error> {
    let failed = |error: rcgen::Error| Error::Failed { reason: error.to_string() };
    let mut params = CertificateParams::default();
    for name in names {
        let name = name.as_ref();
        let bad = || Error::BadServerName { name: name.to_owned() };
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                rustls_pki_types::DnsName::try_from(name.trim_start_matches("*."))
                    .map_err(|_| bad())?;
                SanType::DnsName(name.try_into().map_err(|_| bad())?)
            }
        });
    }
    let first = names.first().ok_or_else(|| Error::BadServerName { name: String::new() })?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, first.as_ref());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        pin: Pin::of_certificate(certificate.der()),
    })
}
