//! QUIC's files: keys with passwords, PKCS#12, key logs and traces.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::cert::Cert;
use towline::Context;
use towline::quic::{self, FileError, block_on};

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("towline-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn context() -> Context {
    Context::builder().threads(1).build().unwrap()
}

/// One byte there and back between a server with this identity and a client that trusts the certificate.
fn serves(cert: &Cert, identity: quic::Identity) {
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let settings = quic::ServerSettings::new(identity, ["test".into()]);
    let listener = endpoint.listen(&quic::ServerConfig::new(settings).unwrap(), "127.0.0.1:0");
    let listener = listener.unwrap();
    exchange(&endpoint, &cert.client(|_| {}), &listener);
}

fn exchange(endpoint: &quic::Endpoint, client: &quic::ClientConfig, listener: &quic::Listener) {
    let to = format!("localhost:{}", listener.local_address().port());
    let near = endpoint.connect(client, &to).wait().unwrap();
    let far = listener.accept_blocking().unwrap();
    block_on(async {
        let (mut send, mut recv) = near.open_bi().await.unwrap();
        send.write_last("?").await.unwrap();
        let (mut reply, mut asked) = far.accept_bi().await.unwrap();
        assert_eq!(asked.read_to_end(1).await.unwrap(), b"?");
        reply.write_last("!").await.unwrap();
        assert_eq!(recv.read_to_end(1).await.unwrap(), b"!");
    });
    near.close(0, "");
    block_on(near.closed());
    block_on(far.closed());
}

/// The key under a password, as OpenSSL writes it (PBES2, RFC 8018 section 6.2).
fn encrypted(key: &str, password: &str) -> String {
    let (_, plain) = pkcs8::SecretDocument::from_pem(key).unwrap();
    let info = pkcs8::PrivateKeyInfoRef::try_from(plain.as_bytes()).unwrap();
    let how =
        pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(2048, &[5; 16], [6; 16]);
    let sealed = info.encrypt_with_params(how.unwrap(), password).unwrap();
    let pem = sealed.to_pem("ENCRYPTED PRIVATE KEY", pkcs8::LineEnding::LF).unwrap();
    pem.to_string()
}

#[test]
fn an_encrypted_key_opens_with_its_password_only() {
    let folder = Folder::new("encrypted");
    let cert = Cert::new();
    let chain = folder.file("cert.pem", &cert.cert);
    let key = folder.file("key.pem", encrypted(&cert.key, "open sesame"));
    assert!(!std::fs::read_to_string(&key).unwrap().contains("BEGIN PRIVATE KEY"));

    let error = quic::identity_files(&chain, &key, None).unwrap_err();
    assert!(matches!(&error, FileError::PasswordNeeded { path } if *path == key), "{error:?}");
    assert!(error.to_string().contains("give its password"), "{error}");

    let error = quic::identity_files(&chain, &key, Some("open wheat")).unwrap_err();
    assert!(matches!(&error, FileError::WrongPassword { path } if *path == key), "{error:?}");

    serves(&cert, quic::identity_files(&chain, &key, Some("open sesame")).unwrap());
    // A key without a password takes none, whatever is given.
    let plain = folder.file("plain.pem", &cert.key);
    serves(&cert, quic::identity_files(&chain, &plain, Some("whatever")).unwrap());
}

#[test]
fn a_pkcs12_file_opens_with_its_password_only() {
    let folder = Folder::new("pkcs12");
    let cert = Cert::new();
    let der = quic::certificates(cert.cert.as_bytes()).unwrap();
    let leaf = p12_keystore::Certificate::from_der(&der[0]).unwrap();
    let (_, key) = pkcs8::SecretDocument::from_pem(&cert.key).unwrap();
    let key = p12_keystore::PrivateKey::from_der(key.as_bytes()).unwrap();
    let chain = p12_keystore::PrivateKeyChain::new("server", key, [leaf]);
    let mut store = p12_keystore::KeyStore::new();
    store.add_entry("server", p12_keystore::KeyStoreEntry::PrivateKeyChain(chain));
    let file = folder.file("server.p12", store.writer("open sesame").write().unwrap());

    let error = quic::identity_pkcs12(&file, "open wheat").unwrap_err();
    assert!(matches!(&error, FileError::WrongPassword { path } if *path == file), "{error:?}");
    let broken = folder.file("broken.p12", "not a PKCS#12 file");
    let error = quic::identity_pkcs12(&broken, "open sesame").unwrap_err();
    assert!(matches!(&error, FileError::Malformed { .. }), "{error:?}");
    let empty =
        folder.file("empty.p12", p12_keystore::KeyStore::new().writer("x").write().unwrap());
    let error = quic::identity_pkcs12(&empty, "x").unwrap_err();
    assert!(error.to_string().contains("no private key"), "{error}");

    serves(&cert, quic::identity_pkcs12(&file, "open sesame").unwrap());
}

#[test]
fn files_that_are_missing_or_something_else_are_named() {
    let folder = Folder::new("missing");
    let cert = Cert::new();
    let (chain, key) = (folder.file("cert.pem", &cert.cert), folder.file("key.pem", &cert.key));
    let none = folder.0.join("none.pem");
    for error in [
        quic::identity_files(&none, &key, None).unwrap_err(),
        quic::identity_files(&chain, &none, None).unwrap_err(),
        quic::certificates_file(&none).unwrap_err(),
        quic::identity_pkcs12(&none, "").unwrap_err(),
    ] {
        assert!(matches!(&error, FileError::Unreadable { path, .. } if *path == none), "{error:?}");
        assert!(error.to_string().contains("none.pem"), "{error}");
    }
    let swapped = quic::identity_files(&key, &chain, None).unwrap_err();
    assert!(swapped.to_string().contains("no CERTIFICATE section"), "{swapped}");
    let no_key = quic::identity_files(&chain, &chain, None).unwrap_err();
    assert!(no_key.to_string().contains("no private key"), "{no_key}");
}

/// Keeps the client's random number (RFC 8446 section 4.1.2: behind type, length and version).
#[derive(Default)]
struct Gate(Arc<Mutex<Vec<u8>>>);

impl quic::Acceptor for Gate {
    fn new_conn(&self, incoming: &quic::Incoming) -> quic::Decision {
        *self.0.lock().unwrap() = incoming.client_hello[6..38].to_vec();
        quic::Decision::Accept
    }

    fn handler(&self, _: &quic::Connection) -> Box<dyn quic::Handler> {
        Box::new(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a key log, in order, for the connection with this random number.
fn secrets(path: &Path, random: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut all = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [label, of, secret] = words[..] else { panic!("{line:?}") };
        assert_eq!(of, random, "{line:?}");
        assert!(secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line:?}");
        all.push((label.to_owned(), secret.to_owned()));
    }
    all.sort();
    all
}

#[test]
fn key_logs_have_the_secrets_of_the_clients_random_number() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("keylog");
    let (near_log, far_log) = (folder.0.join("client.log"), folder.0.join("server.log"));
    let cert = Cert::new();
    let context = context();
    let endpoint = quic::Endpoint::new(&context);
    let server = cert.server(|s| {
        s.key_log = Some(quic::KeyLogFile::open(&far_log).unwrap());
        // SHA-256, so that the secrets have 32 bytes.
        s.ciphers = vec![quic::Cipher::Aes128Gcm];
    });
    let gate = Gate::default();
    let random = Arc::clone(&gate.0);
    let listener = endpoint.listen_with(&server, "127.0.0.1:0", gate).unwrap();
    let client = cert.client(|c| c.key_log = Some(quic::KeyLogFile::open(&near_log).unwrap()));
    let to = format!("localhost:{}", listener.local_address().port());
    let near = endpoint.connect(&client, &to).wait().unwrap();
    // The server has its last secret when it can answer.
    let (mut send, _recv) = block_on(near.open_bi()).unwrap();
    block_on(send.write_last("?")).unwrap();
    block_on(send.acknowledged()).unwrap();

    let random = hex(&random.lock().unwrap());
    assert_eq!(random.len(), 64);
    let near_secrets = secrets(&near_log, &random);
    assert_eq!(near_secrets, secrets(&far_log, &random));
    let labels: Vec<&str> = near_secrets.iter().map(|(label, _)| label.as_str()).collect();
    for wanted in [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ] {
        assert_eq!(labels.iter().filter(|label| **label == wanted).count(), 1, "{labels:?}");
    }
    assert!(near_secrets.iter().all(|(_, secret)| secret.len() == 64), "{near_secrets:?}");
    // Whoever reads it can decrypt everything: only its owner may.
    assert_eq!(std::fs::metadata(&near_log).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The records of a JSON text sequence (RFC 7464 section 2.2): a record separator before each, a line feed behind.
#[cfg(feature = "qlog")]
fn records(text: &[u8]) -> Vec<serde_json::Value> {
    assert_eq!(text.first(), Some(&0x1e), "a record separator first");
    let record = |record: &[u8]| {
        assert_eq!(record.last(), Some(&b'\n'), "a whole record");
        serde_json::from_slice(record).unwrap()
    };
    text.split(|byte| *byte == 0x1e).skip(1).map(record).collect()
}

#[test]
#[cfg(feature = "qlog")]
fn traces_are_json_sequences_that_name_their_connection() {
    let folder = Folder::new("qlog");
    let cert = Cert::new();
    {
        let context = context();
        let endpoint = quic::Endpoint::new(&context);
        let sink = quic::QlogDirectory::open(folder.0.join("traces")).unwrap();
        let server = cert.server(|s| s.options.qlog = Some(sink.clone()));
        let listener = endpoint.listen(&server, "127.0.0.1:0").unwrap();
        let client = cert.client(|c| c.options.qlog = Some(sink));
        exchange(&endpoint, &client, &listener);
    }
    let mut names: Vec<String> = std::fs::read_dir(folder.0.join("traces"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let [near, far] = &names[..] else { panic!("{names:?}") };
    let id = near.strip_suffix("_client.sqlog").unwrap();
    assert_eq!(*far, format!("{id}_server.sqlog"));
    assert!(id.len() >= 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    for name in &names {
        let all = records(&std::fs::read(folder.0.join("traces").join(name)).unwrap());
        let header = all[0].to_string();
        assert!(header.contains("qlog_version") || header.contains("file_schema"), "{header}");
        assert!(header.contains(id), "{name} does not name its connection: {header}");
        let of = |what: &str| {
            all.iter().filter(|r| r["name"].as_str().is_some_and(|n| n.ends_with(what))).count()
        };
        assert!(of("packet_sent") > 2 && of("packet_received") > 2, "{name}: {all:?}");
    }
}
