//! The certificate, and rustls' configurations for those who take them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::work::ALPN;

/// A folder with a certificate for `localhost` and its key.
pub fn make() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("towline-bench-quic-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let key = rcgen::KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    std::fs::write(certificate(&folder), cert.pem()).expect("a file");
    std::fs::write(self::key(&folder), key.serialize_pem()).expect("a file");
    folder
}

pub fn certificate(folder: &Path) -> PathBuf {
    folder.join("cert.pem")
}

pub fn key(folder: &Path) -> PathBuf {
    folder.join("key.pem")
}

/// A library's ciphers, but only the one that all contenders have. Initial packets have the same (RFC 9001 section 5.2).
pub fn with_one_cipher(mut provider: CryptoProvider) -> Arc<CryptoProvider> {
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

pub fn server(folder: &Path, provider: CryptoProvider) -> rustls::ServerConfig {
    let chain = vec![CertificateDer::from_pem_file(certificate(folder)).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(key(folder)).expect("a key");
    let mut config = rustls::ServerConfig::builder_with_provider(with_one_cipher(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits");
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

pub fn client(folder: &Path, provider: CryptoProvider, resumes: bool) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate(folder)).expect("a certificate"))
        .expect("a root");
    let mut config = rustls::ClientConfig::builder_with_provider(with_one_cipher(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    config
}
