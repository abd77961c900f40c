//! The key log: what Wireshark needs to read a connection.

use super::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, io};

/// Where the secrets of each connection are written, in the NSS key log format.
#[derive(Clone)]
pub enum KeyLog {
    /// Appended to a file, which is made readable for its owner only if it is not there.
    File(PathBuf),
    /// Given to a function, a line at a time without its newline, on the thread that does the handshake.
    Callback(Arc<dyn Fn(&str) + Send + Sync>),
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Callback(_) => f.write_str("Callback"),
        }
    }
}

pub(super) fn open(log: &KeyLog) -> Result<Arc<dyn rustls::KeyLog>, Error> {
    let sink = match log {
        KeyLog::File(path) => {
            let mut options = OpenOptions::new();
            options.append(true).create(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let opened = options.open(path);
            Sink::File(opened.map_err(|error: io::Error| Error::KeyLog {
                path: path.clone(),
                error: Arc::new(error),
            })?)
        }
        KeyLog::Callback(callback) => Sink::Callback(callback.clone()),
    };
    Ok(Arc::new(sink))
}

enum Sink {
    File(File),
    Callback(Arc<dyn Fn(&str) + Send + Sync>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLog")
    }
}

impl rustls::KeyLog for Sink {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line =
            String::with_capacity(label.len() + 2 * (client_random.len() + secret.len()) + 3);
        line.push_str(label);
        for part in [client_random, secret] {
            line.push(' ');
            for byte in part {
                line.extend(
                    [byte >> 4, byte & 15]
                        .iter()
                        .filter_map(|digit| char::from_digit(u32::from(*digit), 16)),
                );
            }
        }
        match self {
            Self::Callback(callback) => callback(&line),
            Self::File(file) => {
                line.push('\n');
                // One write, so that lines of several connections do not mix; a full disk must not end a connection.
                if let Err(error) = (&*file).write_all(line.as_bytes()) {
                    tracing::warn!(%error, "the TLS key log cannot be written");
                }
            }
        }
    }
}
