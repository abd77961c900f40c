//! How a command fails: its exit code, and one line that says what to do.

use std::fmt::Display;

use towline::{ConnectError, Ended, Error, WireError, tls};

use crate::interrupt::Signal;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for cannot be: exit code 2.
    Usage(String),
    /// It was tried and failed: exit code 1.
    Failed(String),
    /// A signal ended it: exit code 128 and the signal's number.
    Interrupted(Signal),
    /// Whoever read standard output has gone, which is no failure.
    OutputClosed,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with these words.
    pub(crate) fn failed(message: impl Display) -> Failure {
        Failure::Failed(message.to_string())
    }

    /// Wrong use, with these words.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure::Usage(message.to_string())
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) => 1,
            Failure::Interrupted(signal) => signal.exit_code(),
            Failure::OutputClosed => 0,
        }
    }

    /// What to print, on one line.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Failure::Usage(text) => Some(format!("{}; see `towline help`", one_line(text))),
            Failure::Failed(text) => Some(one_line(text)),
            Failure::Interrupted(_) | Failure::OutputClosed => None,
        }
    }
}

/// Peers choose some of the words in errors: nothing of theirs moves the cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<Signal> for Failure {
    fn from(signal: Signal) -> Failure {
        Failure::Interrupted(signal)
    }
}

impl From<std::io::Error> for Failure {
    /// Errors of standard input and output; others are worded where they happen.
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::Address(_)
            | Error::Config(_)
            | Error::Context(towline::ContextError::Config(_)) => Failure::usage(error),
            Error::Connect(inner) => connect(inner),
            Error::Listen(towline::ListenError::Address(inner)) => Failure::usage(inner),
            _ => Failure::Failed(format!("{error}{}", hint_of(&error))),
        }
    }
}

macro_rules! through_error {
    ($($error:ident)*) => { $(
        impl From<towline::$error> for Failure {
            fn from(error: towline::$error) -> Failure {
                Error::from(error).into()
            }
        }
    )* };
}

through_error!(AddressError ConfigError ContextError ConnectError ListenError SendError RecvError RequestError FlushError);

macro_rules! of_quic {
    ($($error:ident)*) => { $(
        impl From<towline::quic::$error> for Failure {
            fn from(error: towline::quic::$error) -> Failure {
                Failure::failed(error)
            }
        }
    )* };
}

of_quic!(IoError Ended);

impl From<towline::quic::ConfigError> for Failure {
    fn from(error: towline::quic::ConfigError) -> Failure {
        Failure::usage(error)
    }
}

impl From<towline::quic::ConnectError> for Failure {
    fn from(error: towline::quic::ConnectError) -> Failure {
        use towline::quic::ConnectError as Quic;
        match &error {
            Quic::Address(_) => Failure::usage(error),
            Quic::Resolve { .. } => {
                Failure::Failed(format!("{error}; check its spelling and this host's DNS"))
            }
            Quic::Failed { ended: towline::quic::Ended::Transport(reason), .. }
                if matches!(&**reason, towline::quic::CloseReason::CertificateRejected { .. }) =>
            {
                Failure::Failed(format!("{error} (--ca FILE or --pin PIN)"))
            }
            _ => Failure::failed(error),
        }
    }
}

impl From<towline::quic::ListenError> for Failure {
    fn from(error: towline::quic::ListenError) -> Failure {
        use towline::quic::ListenError as Quic;
        match &error {
            Quic::Address(_) | Quic::Config(_) => Failure::usage(error),
            Quic::Resolve { .. } => {
                Failure::Failed(format!("{error}; check its spelling and this host's DNS"))
            }
            Quic::Io { error: io, .. } if io.kind() == std::io::ErrorKind::AddrInUse => {
                Failure::Failed(format!("{error}; choose another port, or end the other program"))
            }
            _ => Failure::failed(error),
        }
    }
}

fn connect(error: &ConnectError) -> Failure {
    match error {
        ConnectError::Address(inner) => Failure::usage(inner),
        ConnectError::MixedWires => Failure::usage(error),
        ConnectError::Wire { error: wire, .. } => {
            Failure::Failed(format!("{error}{}", wire_hint(wire)))
        }
        _ => Failure::failed(error),
    }
}

fn hint_of(error: &Error) -> &'static str {
    let ended = match error {
        Error::Send(towline::SendError::Ended(ended))
        | Error::Recv(towline::RecvError::Ended(ended))
        | Error::Request(towline::RequestError::Ended(ended))
        | Error::Flush(towline::FlushError::Ended { ended, .. }) => ended,
        Error::Request(towline::RequestError::TimedOut { .. }) => {
            return "; does the peer answer requests (`towline listen --echo` does)? --timeout gives it longer";
        }
        Error::Listen(towline::ListenError::Resolve(error)) => return wire_hint(error),
        _ => return "",
    };
    match ended {
        Ended::Lost(error) => wire_hint(error),
        _ => "",
    }
}

/// What to do about a wire that could not be had.
fn wire_hint(error: &WireError) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error {
        WireError::Io(error) => match error.kind() {
            Kind::ConnectionRefused => {
                "; is `towline listen` or another server running there, and is it the right port?"
            }
            Kind::ConnectionReset | Kind::BrokenPipe => {
                "; does the server speak this wire? check the scheme of the URL"
            }
            Kind::NetworkUnreachable | Kind::HostUnreachable => {
                "; check the address and this host's network"
            }
            _ => "",
        },
        WireError::Resolve { .. } => "; check its spelling and this host's DNS",
        WireError::End => "; does the server speak this wire? check the scheme of the URL",
        WireError::Tls(error) => match &**error {
            tls::Error::NotTrusted { .. } => " (--ca FILE or --pin PIN)",
            tls::Error::PinMismatch { .. } => " (--pin PIN)",
            tls::Error::WrongName { .. } => " (--server-name NAME)",
            tls::Error::ClientCertificateRequired => " (--cert FILE --key FILE)",
            _ => "",
        },
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        let failure = Failure::failed("first\nsecond\u{1b}[2J");
        assert_eq!(failure.message().unwrap(), "first second [2J");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        assert_eq!(Failure::failed("").exit_code(), 1);
        assert_eq!(Failure::usage("").exit_code(), 2);
        assert_eq!(Failure::from(Signal::Interrupt).exit_code(), 130);
        assert_eq!(Failure::from(Signal::Terminate).exit_code(), 143);
        assert_eq!(
            Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).exit_code(),
            0
        );
    }

    #[test]
    fn wrong_addresses_are_wrong_use() {
        let error = towline::Address::parse("smtp://h:1").unwrap_err();
        assert_eq!(Failure::from(error.clone()).exit_code(), 2);
        assert_eq!(Failure::from(ConnectError::Address(error)).exit_code(), 2);
    }
}
