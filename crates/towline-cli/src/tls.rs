//! TLS options of the command line, and what the library's configuration makes of them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use towline::tls::{ClientAuth, Pin, SelfSigned, self_signed};
use towline::{Address, ConfigBuilder};

use crate::failure::{Failure, Outcome};
use crate::output::Notes;

/// The names that a certificate has when none are asked for.
pub(crate) const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes a self-signed certificate.
pub(crate) fn make_certificate<S: AsRef<str>>(names: &[S]) -> Outcome<SelfSigned> {
    let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
    self_signed(&names).map_err(Failure::usage)
}

/// Which client certificates a server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientAuthChoice {
    /// None.
    None,
    /// Verified when there is one.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// TLS on the listening side.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS (tls://, ftcps://, wss://, quic://, bats://)")]
pub(crate) struct ServerTls {
    /// Certificate chain, a PEM file. Without it a temporary certificate is made and its pin printed to standard error.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Trust client certificates signed by the CAs in this PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Accept only client certificates with this pin.
    #[arg(long, value_name = "PIN", value_parser = parse_pin)]
    pin: Vec<Pin>,
    /// Ask clients for certificates; needs --ca or --pin.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "none")]
    client_auth: ClientAuthChoice,
}

/// TLS on the connecting side.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS (tls://, ftcps://, wss://, quic://, bats://)")]
pub(crate) struct ClientTls {
    /// Accept only a server with this pin, as `towline cert` and `towline listen` print it; may be repeated.
    #[arg(long, value_name = "PIN", value_parser = parse_pin)]
    pin: Vec<Pin>,
    /// Trust servers signed by the CAs in this PEM file, and no longer the system's; may be repeated.
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Accept any certificate. Gives up all protection against whoever sits on the path: they can read and change everything.
    #[arg(long, conflicts_with_all = ["pin", "ca", "server_name"])]
    insecure: bool,
    /// The name that the server's certificate must have, where it is not the URL's host.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// This side's certificate chain, a PEM file, for servers that ask for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    text.parse().map_err(|error: towline::tls::Error| error.to_string())
}

/// Refuses TLS options where they would mean nothing.
fn refuse_on_plain(encrypted: bool, given: &[(&str, bool)]) -> Outcome {
    match given.iter().find(|(_, given)| *given && !encrypted) {
        Some((option, _)) => Err(Failure::Usage(format!(
            "{option} means nothing on a wire without TLS; use tls://, ftcps://, wss://, quic:// or bats://"
        ))),
        None => Ok(()),
    }
}

impl ServerTls {
    /// Adds these options; makes a temporary certificate where one is needed and none is given.
    pub(crate) fn apply(
        &self,
        mut builder: ConfigBuilder,
        address: &Address,
        notes: &Notes,
    ) -> Outcome<ConfigBuilder> {
        let encrypted = address.wire().is_encrypted();
        let auth = self.client_auth != ClientAuthChoice::None;
        refuse_on_plain(
            encrypted,
            &[
                ("--cert", self.cert.is_some()),
                ("--ca", !self.ca.is_empty()),
                ("--pin", !self.pin.is_empty()),
                ("--client-auth", auth),
            ],
        )?;
        if !encrypted {
            return Ok(builder);
        }
        let trust = !self.ca.is_empty() || !self.pin.is_empty();
        if trust != auth {
            return Err(Failure::usage(match auth {
                true => "--client-auth needs --ca FILE or --pin PIN to know whom to accept",
                false => {
                    "--ca and --pin are about client certificates: add --client-auth required or optional"
                }
            }));
        }
        builder = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => builder.certificate_files(cert, key),
            _ => {
                let mut names: Vec<&str> = LOCAL_NAMES.to_vec();
                if !names.contains(&address.host()) {
                    names.push(address.host());
                }
                let made = make_certificate(&names)?;
                notes.always(&format!("temporary certificate, pin {}", made.pin));
                builder.certificate_pem(made.certificate_pem, made.key_pem)
            }
        };
        for file in &self.ca {
            builder = builder.ca_file(file);
        }
        for pin in &self.pin {
            builder = builder.pin(*pin);
        }
        Ok(match self.client_auth {
            ClientAuthChoice::None => builder,
            ClientAuthChoice::Optional => builder.client_auth(ClientAuth::Optional),
            ClientAuthChoice::Required => builder.client_auth(ClientAuth::Required),
        })
    }
}

impl ClientTls {
    /// Trusts a server of this process, or a wire that needs no trust.
    pub(crate) fn trust(&mut self, pin: Option<Pin>) {
        self.pin = pin.into_iter().collect();
    }

    /// The name that the server must have, where it was given.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Adds these options.
    pub(crate) fn apply(
        &self,
        mut builder: ConfigBuilder,
        addresses: &[Address],
        notes: &Notes,
    ) -> Outcome<ConfigBuilder> {
        let encrypted = addresses.iter().any(|address| address.wire().is_encrypted());
        refuse_on_plain(
            encrypted,
            &[
                ("--pin", !self.pin.is_empty()),
                ("--ca", !self.ca.is_empty()),
                ("--insecure", self.insecure),
                ("--server-name", self.server_name.is_some()),
                ("--cert", self.cert.is_some()),
            ],
        )?;
        for pin in &self.pin {
            builder = builder.pin(*pin);
        }
        for file in &self.ca {
            builder = builder.ca_file(file);
        }
        if self.insecure {
            notes.warn("--insecure: the server's certificate is not checked, anyone on the path can read and change everything");
            builder = builder.dangerous_accept_any_certificate();
        }
        if let Some(name) = &self.server_name {
            builder = builder.server_name(name);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            builder = builder.certificate_files(cert, key);
        }
        Ok(builder)
    }
}
