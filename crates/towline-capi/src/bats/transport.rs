//! What the SDK is made of: which URL a mode is, with which options, and whom a client trusts.

use std::ffi::c_int;
use std::sync::Once;
use std::time::Duration;

use towline_core::tls::Pin;
use towline_core::{Config, ConfigBuilder};

use super::config::Settings;
use crate::entry::{Failure, code};

/// `bats_transport_mode_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Btp,
    Brtp,
    Brctp,
    Transparent,
}

impl Mode {
    pub(super) fn from_number(number: c_int) -> Option<Mode> {
        Some(match number {
            0 => Mode::Btp,
            1 => Mode::Brtp,
            2 => Mode::Brctp,
            3 => Mode::Transparent,
            _ => return None,
        })
    }

    /// Whether what is sent arrives, as a file has to.
    pub(super) fn is_reliable(self) -> bool {
        matches!(self, Mode::Brtp | Mode::Brctp)
    }

    /// How large messages are best: many coded packets at once; datagrams below every usual MTU.
    pub(super) fn ideal_buffer_length(self) -> usize {
        match self {
            Mode::Transparent => 1200,
            _ => 30_000,
        }
    }

    /// Where a client of this mode connects to, and a server listens.
    pub(super) fn url(self, host: &str, port: u16, compress: bool) -> String {
        let (scheme, authority) = (self.scheme(), authority(host, port));
        match self.query() {
            "" => format!("{scheme}://{authority}"),
            query if compress => format!("{scheme}://{authority}{query}&compress=on"),
            query => format!("{scheme}://{authority}{query}"),
        }
    }

    /// The scheme. The environment variable `TOWLINE_BATS_WIRE` puts another one in its place, for tests over wires without coding.
    fn scheme(self) -> String {
        let usual = match self {
            Mode::Transparent => "udp",
            _ => "bats",
        };
        instead().unwrap_or_else(|| usual.to_owned())
    }

    fn query(self) -> &'static str {
        match self {
            _ if instead().is_some() => "",
            Mode::Transparent => "",
            Mode::Brtp => "?mode=brtp",
            Mode::Brctp => "?mode=brctp",
            Mode::Btp => "?mode=btp",
        }
    }
}

fn instead() -> Option<String> {
    std::env::var("TOWLINE_BATS_WIRE").ok().filter(|scheme| !scheme.is_empty())
}

fn authority(host: &str, port: u16) -> String {
    // An IPv6 address is written in brackets.
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// How long a peer that was lost is waited for. The SDK's programs connect anew themselves.
const REDIAL_WINDOW: Duration = Duration::from_secs(1);

/// How long a client may take for its handshakes, at least.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// After how much silence a peer is asked, and after how much it counts as gone: nobody says so of a program that was killed.
const SILENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));

fn builder() -> ConfigBuilder {
    let builder = Config::builder().redial(false).redial_window(REDIAL_WINDOW);
    builder.keep_alive(SILENCE.0).silence_limit(SILENCE.1)
}

/// The configuration of a client.
pub(super) fn client(settings: &Settings) -> Result<Config, Failure> {
    let mut builder = trust(builder())?;
    if let Some(ms) = settings.timeout_ms {
        builder = builder.connect_timeout(Duration::from_millis(ms));
    }
    Ok(builder.build()?)
}

/// The configuration of a server.
pub(super) fn server(settings: &Settings) -> Result<Config, Failure> {
    // A program's time for connecting is its clients': a shorter one than usual does not cut off the handshakes of others.
    let patience = Duration::from_millis(settings.timeout_ms.unwrap_or_default()).max(HANDSHAKE);
    let builder = builder().connect_timeout(patience);
    let builder = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => builder.certificate_files(cert, key),
        (None, None) => builder,
        _ => {
            let text = "a server needs both, the certificate file and the key file";
            return Err(Failure::new(code::TOWLINE_ERROR_CONFIG, text));
        }
    };
    Ok(builder.build()?)
}

/// Whom a client trusts: what the environment says, else everybody, and that is said once.
fn trust(builder: ConfigBuilder) -> Result<ConfigBuilder, Failure> {
    if let Some(path) = std::env::var_os("TOWLINE_CA_FILE") {
        return Ok(builder.ca_file(path));
    }
    if let Ok(pin) = std::env::var("TOWLINE_PIN") {
        let refused =
            |error| Failure::new(code::TOWLINE_ERROR_CONFIG, format!("TOWLINE_PIN: {error}"));
        return Ok(builder.pin(pin.parse::<Pin>().map_err(refused)?));
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "the server's certificate is not verified: connections are encrypted, and anybody on the way may be the server; name a CA \
             file in TOWLINE_CA_FILE or a pin in TOWLINE_PIN"
        );
    });
    Ok(builder.dangerous_accept_any_certificate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_urls() {
        assert_eq!(Mode::Btp.url("10.0.0.1", 7, false), "bats://10.0.0.1:7?mode=btp");
        assert_eq!(Mode::Brtp.url("::1", 7, true), "bats://[::1]:7?mode=brtp&compress=on");
        assert_eq!(Mode::Brctp.url("host", 7, false), "bats://host:7?mode=brctp");
        assert_eq!(Mode::Transparent.url("host", 7, false), "udp://host:7");
        assert!(Mode::from_number(4).is_none());
    }
}
