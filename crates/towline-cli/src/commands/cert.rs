//! `towline cert`: a self-signed certificate, its key, and its pin.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::output::{Notes, Output, json::SCHEMA_VERSION};
use crate::tls::{LOCAL_NAMES, make_certificate};

/// Make a self-signed certificate and its key, and print its pin.
///
/// A client that is given the pin (`--pin`) knows the server without any certificate authority.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline cert\n  \
    towline cert --name mail.example.org --name 192.0.2.7\n  \
    towline cert --out-cert server.crt --out-key server.key --overwrite --json")]
pub(crate) struct Arguments {
    /// DNS name or IP address that the certificate is for; may be repeated [default: localhost, 127.0.0.1, ::1]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Where the certificate goes.
    #[arg(long, value_name = "FILE", default_value = "towline.crt")]
    out_cert: PathBuf,
    /// Where the private key goes, readable by its owner only.
    #[arg(long, value_name = "FILE", default_value = "towline.key")]
    out_key: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
    /// Print a JSON object in place of the pin alone.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes) -> Outcome {
    let (cert, key) = (&arguments.out_cert, &arguments.out_key);
    if cert == key {
        return Err(Failure::usage("--out-cert and --out-key must be two files"));
    }
    let names = match arguments.names.is_empty() {
        true => LOCAL_NAMES.map(str::to_owned).to_vec(),
        false => arguments.names.clone(),
    };
    let made = make_certificate(&names)?;
    write(key, made.key_pem.as_bytes(), 0o600, arguments.overwrite)?;
    let written = write(cert, made.certificate_pem.as_bytes(), 0o644, arguments.overwrite);
    if written.is_err() && !arguments.overwrite {
        // The key was new a moment ago, and belongs to no certificate.
        fs::remove_file(key).ok();
    }
    written?;
    notes.info(&format!("wrote {} and {} for {}", cert.display(), key.display(), names.join(", ")));
    let pin = made.pin.to_string();
    let line = match arguments.json {
        false => pin,
        true => json!({
            "schema_version": SCHEMA_VERSION,
            "pin": pin,
            "certificate": cert.display().to_string(),
            "key": key.display().to_string(),
            "names": names,
        })
        .to_string(),
    };
    Ok(Output::open()?.line(&line)?)
}

/// Writes a file of this mode whole or not at all.
fn write(path: &Path, data: &[u8], mode: u32, overwrite: bool) -> Outcome {
    let cannot = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; choose another name, or add --overwrite",
            _ => "",
        };
        Failure::Failed(format!("cannot write {}: {error}{hint}", path.display()))
    };
    let create = |path: &Path| -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(data).and_then(|()| file.sync_all()).inspect_err(|_| {
            fs::remove_file(path).ok();
        })
    };
    if !overwrite {
        return create(path).map_err(cannot);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    create(&beside).map_err(cannot)?;
    fs::rename(&beside, path).map_err(|error| {
        fs::remove_file(&beside).ok();
        cannot(error)
    })
}
