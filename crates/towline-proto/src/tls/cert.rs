//! Self-signed certificates.
use super::{Error, Pin};
/// A self-signed certificate and its key.
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// The private key as PEM.
    pub key_pem: String,
    /// The pin of the certificate.
    pub pin: Pin,
}
/// Makes a self-signed certificate for `names` (DNS names and IP addresses).
///
/// # Errors
/// [`Error::BadServerName`]
pub fn self_signed(names: &[String]) -> Result<SelfSigned, Error> {
    let _ = names;
    unimplemented!()
}
