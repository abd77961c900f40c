//! Certificates, and QUIC configurations that use them.

use towline::quic;

/// A certificate and its key, as PEM.
pub struct Cert {
    pub cert: String,
    pub key: String,
}

impl Cert {
    /// For `localhost`.
    pub fn new() -> Cert {
        Cert::of(["localhost".to_owned()], |_| {})
    }

    pub fn of(
        names: impl Into<Vec<String>>,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Cert {
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Cert { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn identity(&self) -> quic::Identity {
        quic::Identity::from_pem(self.cert.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub fn trust(&self) -> quic::ServerVerification {
        quic::ServerVerification::Roots(quic::certificates(self.cert.as_bytes()).unwrap())
    }

    pub fn server(&self, change: impl FnOnce(&mut quic::ServerSettings)) -> quic::ServerConfig {
        let mut settings = quic::ServerSettings::new(self.identity(), ["test".into()]);
        change(&mut settings);
        quic::ServerConfig::new(settings).unwrap()
    }

    pub fn client(&self, change: impl FnOnce(&mut quic::ClientSettings)) -> quic::ClientConfig {
        let mut settings = quic::ClientSettings::new(self.trust(), ["test".into()]);
        change(&mut settings);
        quic::ClientConfig::new(settings).unwrap()
    }
}
