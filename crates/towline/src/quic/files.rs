//! What is read from and written to files: certificates, keys, PKCS#12, key logs and traces.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Identity, KeyLog, QlogSink, Side};

/// Why a file gave no certificate or key.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// The contents are not what they should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is expected.
        reason: Box<str>,
    },
    /// The key is encrypted and no password was given.
    #[error("{path}: the key is encrypted: give its password")]
    PasswordNeeded {
        /// Which.
        path: PathBuf,
    },
    /// The password does not open it.
    #[error("{path}: wrong password")]
    WrongPassword {
        /// Which.
        path: PathBuf,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path)
        .map_err(|error| FileError::Unreadable { path: path.to_owned(), error: Arc::new(error) })
}

fn malformed(path: &Path, reason: impl Into<Box<str>>) -> FileError {
    FileError::Malformed { path: path.to_owned(), reason: reason.into() }
}

/// All certificates of PEM text.
///
/// # Errors
/// It is not PEM, or holds none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    parse_certificates(Path::new("certificates"), pem)
}

/// All certificates of a PEM file (`certfile`, `cacertfile`).
///
/// # Errors
/// It cannot be read, is not PEM, or holds none.
pub fn certificates_file(
    path: impl AsRef<Path>,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    parse_certificates(path.as_ref(), &read(path.as_ref())?)
}

fn parse_certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| malformed(path, error.to_string()))?;
    if found.is_empty() {
        return Err(malformed(path, "no CERTIFICATE section in it; PEM is expected"));
    }
    Ok(found)
}

/// A certificate chain and its key from PEM files (`certfile`, `keyfile`, `password`). The key may be PKCS#8, also encrypted, SEC1 or PKCS#1.
///
/// # Errors
/// See [`FileError`].
pub fn identity_files(
    certificates: impl AsRef<Path>,
    key: impl AsRef<Path>,
    password: Option<&str>,
) -> Result<Identity, FileError> {
    let chain = certificates_file(certificates)?;
    let path = key.as_ref();
    let pem = read(path)?;
    let key = match encrypted_key(&pem) {
        Some(der) => {
            let password =
                password.ok_or_else(|| FileError::PasswordNeeded { path: path.to_owned() })?;
            decrypt(path, &der, password)?
        }
        None => PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| malformed(path, format!("no private key: {error}")))?,
    };
    Ok(Identity::new(chain, key))
}

/// The DER of an ENCRYPTED PRIVATE KEY section (RFC 7468 section 11).
fn encrypted_key(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let begin = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    let (label, document) = pkcs8::Document::from_pem(section(text.get(begin..)?)).ok()?;
    (label == "ENCRYPTED PRIVATE KEY").then(|| document.as_bytes().to_vec())
}

/// The first PEM section of a text, without what follows.
fn section(text: &str) -> &str {
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    text.find(END).and_then(|at| text.get(..at + END.len())).unwrap_or(text)
}

fn decrypt(path: &Path, der: &[u8], password: &str) -> Result<PrivateKeyDer<'static>, FileError> {
    let info = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|error| malformed(path, format!("not an encrypted PKCS#8 key: {error}")))?;
    let plain = info.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(
            pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }
            | pkcs8::pkcs5::Error::AlgorithmParametersInvalid { .. },
        ) => malformed(path, format!("its encryption is not supported: {error}")),
        _ => FileError::WrongPassword { path: path.to_owned() },
    })?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}

/// A certificate chain and its key from a PKCS#12 file (`.p12`, `.pfx`; the owner's `certkeyasn1`).
///
/// # Errors
/// See [`FileError`].
pub fn identity_pkcs12(path: impl AsRef<Path>, password: &str) -> Result<Identity, FileError> {
    let path = path.as_ref();
    let store = p12_keystore::KeyStore::from_pkcs12(
        &read(path)?,
        password,
        p12_keystore::Pkcs12ImportPolicy::Strict,
    );
    let store = store.map_err(|error| match error {
        p12_keystore::error::Error::MacError(_) => {
            FileError::WrongPassword { path: path.to_owned() }
        }
        error => malformed(path, format!("not a PKCS#12 file that can be read: {error}")),
    })?;
    let (_, found) = store
        .private_key_chain()
        .ok_or_else(|| malformed(path, "no private key with a certificate in it"))?;
    let chain = found.certs().iter().map(|cert| CertificateDer::from(cert.as_der().to_vec()));
    let key = PrivatePkcs8KeyDer::from(found.key().as_der().to_vec());
    Ok(Identity::new(chain.collect(), key.into()))
}

/// A file that TLS secrets are appended to, in the NSS format (`sslkeylogfile`): whoever has it can decrypt the traffic.
pub struct KeyLogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Opens the file, or makes one that only its owner can read.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<KeyLogFile>, FileError> {
        let path = path.as_ref().to_owned();
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| FileError::Unreadable {
            path: path.clone(),
            error: Arc::new(error),
        })?;
        Ok(Arc::new(KeyLogFile { path, file: Mutex::new(file) }))
    }
}

impl KeyLog for KeyLogFile {
    fn line(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that several processes can share the file.
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the key log");
        }
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLogFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A directory that gets a qlog file for each connection: the original destination connection id in hexadecimal, side, `.sqlog`. Needs the Cargo feature `qlog`.
#[derive(Debug)]
pub struct QlogDirectory {
    path: PathBuf,
}

impl QlogDirectory {
    /// Uses, and makes if need be, a directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<QlogDirectory>, FileError> {
        let path = path.as_ref().to_owned();
        std::fs::create_dir_all(&path).map_err(|error| FileError::Unreadable {
            path: path.clone(),
            error: Arc::new(error),
        })?;
        Ok(Arc::new(QlogDirectory { path }))
    }
}

impl QlogSink for QlogDirectory {
    fn open(
        &self,
        side: Side,
        _: SocketAddr,
        original_dcid: &[u8],
    ) -> Option<Box<dyn Write + Send + Sync>> {
        let mut name = String::with_capacity(original_dcid.len() * 2 + 16);
        for byte in original_dcid {
            use fmt::Write as _;
            let _ = write!(name, "{byte:02x}");
        }
        name.push_str(match side {
            Side::Client => "_client.sqlog",
            Side::Server => "_server.sqlog",
        });
        match File::create(self.path.join(&name)) {
            Ok(file) => Some(Box::new(io::BufWriter::new(file))),
            Err(error) => {
                tracing::warn!(%name, %error, "cannot write a trace");
                None
            }
        }
    }
}
