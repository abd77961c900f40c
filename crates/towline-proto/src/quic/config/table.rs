//! The one list of options by the owner's names: what each is, and whether it is honoured. `docs/quic.md` shows it and a test keeps both equal.

use std::time::Duration;

use super::options::{CongestionControl, Options, Resumption};
use crate::quic::error::ConfigError;

/// What becomes of an option.
#[derive(Clone, Copy)]
pub enum OptionKind {
    /// A number that [`Options::set`] takes; honoured.
    Number {
        /// The least value allowed.
        min: u64,
        /// The greatest value allowed.
        max: u64,
        /// The value when nothing is set.
        default: u64,
        /// Puts the value in its place.
        #[doc(hidden)]
        set: fn(&mut Options, u64),
    },
    /// A value of another type, given in the field or argument that the last column names; honoured.
    Typed {
        /// What is allowed.
        range: &'static str,
        /// What it is when nothing is given.
        default: &'static str,
    },
    /// Refused, with the reason. Giving it is an error.
    Refused {
        /// Why.
        reason: &'static str,
    },
}

/// One option.
pub struct OptionSpec {
    /// Its name in the owner's contract.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whether it is honoured, and its range and default.
    pub kind: OptionKind,
    /// How, or where to give it.
    pub how: &'static str,
}

const fn number(
    name: &'static str,
    unit: &'static str,
    (min, max, default): (u64, u64, u64),
    set: fn(&mut Options, u64),
    how: &'static str,
) -> OptionSpec {
    OptionSpec { name, unit, kind: OptionKind::Number { min, max, default, set }, how }
}

const fn typed(
    name: &'static str,
    unit: &'static str,
    range: &'static str,
    default: &'static str,
    how: &'static str,
) -> OptionSpec {
    OptionSpec { name, unit, kind: OptionKind::Typed { range, default }, how }
}

const fn refused(name: &'static str, unit: &'static str, reason: &'static str) -> OptionSpec {
    OptionSpec { name, unit, kind: OptionKind::Refused { reason }, how: "" }
}

const U62: u64 = (1 << 62) - 1;
const MAX_STREAMS: u64 = 1 << 60;
const DAY_MS: u64 = 86_400_000;

fn milliseconds(value: u64) -> Option<Duration> {
    (value != 0).then(|| Duration::from_millis(value))
}

/// The options of a connection, in the order of the owner's contract.
pub const OPTIONS: &[OptionSpec] = &[
    typed(
        "alpn",
        "list of strings",
        "1 or more, each 1 to 255 bytes",
        "required",
        "`ClientSettings::alpn`, `ServerSettings::alpn`",
    ),
    refused(
        "conn_callback",
        "module",
        "a module of the Erlang runtime; events come out of `Endpoint::poll_event`, and `towline::Handler` has a method for each",
    ),
    number(
        "custom_verify",
        "boolean",
        (0, 1, 0),
        |o, v| o.custom_verify = v == 1,
        "the handshake stands still at the certificate until `Connection::certificate_verdict`",
    ),
    refused(
        "handle",
        "handle",
        "a connection can send 0-RTT data as soon as `Endpoint::connect` has returned, so no handle is opened before",
    ),
    typed(
        "nst",
        "`Ticket`",
        "a ticket of this process",
        "none",
        "`ConnectParams::nst`; a ticket has no byte form, since the TLS library gives none out",
    ),
    number(
        "handshake_idle_timeout_ms",
        "ms",
        (1, 600_000, 10_000),
        |o, v| o.handshake_idle_timeout = Duration::from_millis(v),
        "a deadline for the whole handshake",
    ),
    number(
        "quic_event_mask",
        "bits",
        (0, 3, 0),
        |o, v| {
            o.nst_events = v & 1 != 0;
            o.streams_available_events = v & 2 == 0;
        },
        "1: `NewSessionTicket` events; 2: no `StreamsAvailable` events",
    ),
    number(
        "disable_1rtt_encryption",
        "boolean",
        (0, 1, 0),
        |o, v| o.disable_1rtt_encryption = v == 1,
        "transport parameter 0xBAAD at both ends, then 1-RTT packets without AEAD and header protection",
    ),
    typed(
        "local_address",
        "address and port",
        "a socket of the driver's",
        "the driver's choice",
        "`ConnectParams::local_address`; afterwards `Connection::migrate`",
    ),
    refused(
        "local_bidi_stream_count",
        "streams",
        "the peer sets it: read `Connection::streams_available`",
    ),
    refused(
        "local_peer_unidi_stream_count",
        "streams",
        "the peer sets it: read `Connection::streams_available`",
    ),
    typed(
        "cert",
        "PEM or DER",
        "a chain, the own certificate first",
        "none",
        "`Identity`; the driver reads files",
    ),
    typed(
        "certfile",
        "PEM or DER",
        "a chain, the own certificate first",
        "none",
        "`Identity`; the driver reads files",
    ),
    typed(
        "key",
        "PEM or DER",
        "PKCS#8, SEC1 or PKCS#1",
        "none",
        "`Identity`; the driver reads files",
    ),
    typed(
        "keyfile",
        "PEM or DER",
        "PKCS#8, SEC1 or PKCS#1",
        "none",
        "`Identity`; the driver reads files",
    ),
    refused(
        "password",
        "string",
        "keys are decrypted where files are read, in the driver; `Identity` takes the plain key",
    ),
    typed(
        "verify",
        "enum",
        "none, peer",
        "peer",
        "`ServerVerification`, `ClientVerification`; none is `DangerousNone`",
    ),
    typed(
        "cacertfile",
        "PEM or DER",
        "trust anchors",
        "none",
        "`ServerVerification::Roots`, `ClientVerification::Required`",
    ),
    typed(
        "sslkeylogfile",
        "`KeyLog`",
        "a sink for lines",
        "none",
        "`ClientSettings::key_log`, `ServerSettings::key_log`; the driver writes the file",
    ),
    number(
        "max_bytes_per_key",
        "bytes",
        (65_536, 1 << 50, 274_877_906_944),
        |o, v| o.max_bytes_per_key = v,
        "a key update when this many bytes were sent under one key",
    ),
    number(
        "idle_timeout_ms",
        "ms",
        (0, DAY_MS, 30_000),
        |o, v| o.idle_timeout = milliseconds(v),
        "transport parameter max_idle_timeout; 0 is for ever",
    ),
    refused(
        "tls_client_max_send_buffer",
        "bytes",
        "the TLS library writes handshake messages whole and has no buffer to size",
    ),
    refused(
        "tls_server_max_send_buffer",
        "bytes",
        "the TLS library writes handshake messages whole and has no buffer to size",
    ),
    number(
        "stream_recv_window_default",
        "bytes",
        (4_096, 64 << 20, 768_000),
        |o, v| o.stream_recv_window = v,
        "flow control of each stream; above 785,066 (more with larger packets) only with `risk_gap_overflow`. The engine does not grow windows, hence the default",
    ),
    refused(
        "stream_recv_buffer_default",
        "bytes",
        "received packets are kept as they are until they are read, so no buffer is allocated for a stream",
    ),
    number(
        "conn_flow_control_window",
        "bytes",
        (4_096, 1 << 40, 16 << 20),
        |o, v| o.conn_flow_control_window = v,
        "flow control of all streams together",
    ),
    typed(
        "max_stateless_operations",
        "answers",
        "1 or more",
        "100",
        "`EndpointConfig::max_stateless_operations`",
    ),
    number(
        "initial_window_packets",
        "packets",
        (2, 1_000, 10),
        |o, v| o.initial_window_packets = v as u32,
        "the congestion controller's first window",
    ),
    number(
        "send_idle_timeout_ms",
        "ms",
        (0, DAY_MS, 1_000),
        |o, v| o.send_idle_timeout = Duration::from_millis(v),
        "the congestion controller starts afresh after it; 0 never",
    ),
    number(
        "initial_rtt_ms",
        "ms",
        (1, 60_000, 333),
        |o, v| o.initial_rtt = Duration::from_millis(v),
        "assumed before the first sample",
    ),
    refused(
        "max_ack_delay_ms",
        "ms",
        "the engine acknowledges within 25 ms and says so, always; what the peer does can be asked for with `Options::ack_frequency`",
    ),
    number(
        "disconnect_timeout_ms",
        "ms",
        (1, 600_000, 16_000),
        |o, v| o.disconnect_timeout = Duration::from_millis(v),
        "ends the connection when nothing that was sent is acknowledged for so long",
    ),
    number(
        "keep_alive_interval_ms",
        "ms",
        (0, DAY_MS, 0),
        |o, v| o.keep_alive_interval = milliseconds(v),
        "a PING after so long without traffic; 0 never",
    ),
    number(
        "congestion_control_algorithm",
        "enum",
        (0, 2, 0),
        set_congestion,
        "0 CUBIC, 1 BBRv3, 2 NewReno; `CongestionControl::Custom` for one's own",
    ),
    number(
        "peer_bidi_stream_count",
        "streams",
        (0, MAX_STREAMS, 100),
        |o, v| o.peer_bidi_stream_count = v,
        "also live: `Connection::set_peer_streams`",
    ),
    number(
        "peer_unidi_stream_count",
        "streams",
        (0, MAX_STREAMS, 100),
        |o, v| o.peer_unidi_stream_count = v,
        "also live: `Connection::set_peer_streams`",
    ),
    typed(
        "retry_memory_limit",
        "65,535ths",
        "0 to 65,535",
        "65",
        "`EndpointConfig::retry_memory_limit`, a share of `EndpointConfig::memory`",
    ),
    typed(
        "load_balancing_mode",
        "enum",
        "none, server address, fixed id",
        "none",
        "`EndpointConfig::cid`: `CidConfig::server_id`",
    ),
    number(
        "max_operations_per_drain",
        "trains",
        (1, 255, 16),
        |o, v| o.max_operations_per_drain = v as u8,
        "trains sent for one connection before the next has its turn",
    ),
    OptionSpec {
        name: "send_buffering_enabled",
        unit: "boolean",
        kind: OptionKind::Number { min: 1, max: 1, default: 1, set: |_, _| {} },
        how: "1 only: `SendComplete` means taken over. The engine does not tell which bytes of an open stream were acknowledged, so 0 is out of range",
    },
    number(
        "pacing_enabled",
        "boolean",
        (0, 1, 1),
        |o, v| o.pacing = v == 1,
        "0 gives the engine's pacer a rate that never holds back",
    ),
    number(
        "migration_enabled",
        "boolean",
        (0, 1, 1),
        |o, v| o.migration = v == 1,
        "transport parameter disable_active_migration",
    ),
    number(
        "datagram_receive_enabled",
        "boolean",
        (0, 1, 0),
        |o, v| o.datagram_receive = v == 1,
        "transport parameter max_datagram_frame_size",
    ),
    number(
        "server_resumption_level",
        "enum",
        (0, 2, 0),
        set_resumption,
        "0 none, 1 tickets, 2 tickets that allow 0-RTT data",
    ),
    number(
        "minimum_mtu",
        "bytes of an IP packet",
        (1_248, 65_535, 1_248),
        |o, v| o.minimum_mtu = v as u16,
        "the first packets' size; IP and UDP headers are taken off by the peer's address family",
    ),
    number(
        "maximum_mtu",
        "bytes of an IP packet",
        (1_248, 65_535, 1_500),
        |o, v| o.maximum_mtu = v as u16,
        "where path MTU discovery stops",
    ),
    number(
        "mtu_discovery_search_complete_timeout_us",
        "us",
        (1_000_000, 86_400_000_000, 600_000_000),
        |o, v| o.mtu_discovery_interval = Duration::from_micros(v),
        "the search is repeated after it",
    ),
    OptionSpec {
        name: "mtu_discovery_missing_probe_count",
        unit: "probes",
        kind: OptionKind::Number { min: 3, max: 3, default: 3, set: |_, _| {} },
        how: "3 only: a constant of the engine",
    },
    typed(
        "max_binding_stateless_operations",
        "answers",
        "1 or more",
        "100",
        "`EndpointConfig::max_stateless_operations`: an endpoint is one binding on one thread",
    ),
    typed(
        "stateless_operation_expiration_ms",
        "duration",
        "any",
        "100 ms",
        "`EndpointConfig::stateless_operation_expiration`",
    ),
];

/// The options of a stream.
pub const STREAM_OPTIONS: &[OptionSpec] = &[
    typed(
        "active",
        "`ReadMode`",
        "true, false, once, -32,768 to 32,767",
        "passive",
        "`Options::active`, `Connection::set_active`",
    ),
    typed("open_flag", "bits", "0, 1", "0", "`Direction`; 2 is reported as `NewStream::early`"),
    typed("start_flag", "bits", "0, 1, 2, 4, 8 and their sums", "4", "`StartFlags`"),
    refused(
        "event_mask",
        "bits",
        "never read by its owner; `quic_event_mask` 1 is `StartFlags::START_EVENT`",
    ),
    typed(
        "disable_fpbuffer",
        "boolean",
        "true, false",
        "false",
        "`Connection::set_ordered`: bytes come as they arrive, with their offsets",
    ),
    refused("stream_id", "number", "assigned in order (RFC 9000 section 2.1): read it from `open`"),
    typed(
        "priority",
        "number",
        "0 to 65,535, the greatest first",
        "32,767",
        "`Connection::set_priority`",
    ),
    refused(
        "ideal_send_buffer_size",
        "bytes",
        "read only at its owner; `Options::stream_send_queue` bounds what waits",
    ),
    refused("0rtt_length", "bytes", "read only: `Connection::early_length`"),
];

fn set_congestion(options: &mut Options, value: u64) {
    options.congestion_control = match value {
        1 => CongestionControl::Bbr3,
        2 => CongestionControl::NewReno,
        _ => CongestionControl::Cubic,
    };
}

fn set_resumption(options: &mut Options, value: u64) {
    options.server_resumption_level = match value {
        1 => Resumption::Resume,
        2 => Resumption::ResumeAndEarlyData,
        _ => Resumption::None,
    };
}

impl Options {
    /// Sets a number by the option's name, in the option's unit.
    ///
    /// # Errors
    /// `UnknownOption`, `OutOfRange`, or `Refused` with the reason: also for options that are honoured but are not numbers, whose reason says where to give them.
    pub fn set(&mut self, name: &str, value: u64) -> Result<&mut Self, ConfigError> {
        let spec = OPTIONS
            .iter()
            .chain(STREAM_OPTIONS)
            .find(|spec| spec.name == name)
            .ok_or_else(|| ConfigError::UnknownOption(name.to_owned()))?;
        match spec.kind {
            OptionKind::Number { min, max, set, .. } if (min..=max).contains(&value) => {
                set(self, value)
            }
            OptionKind::Number { min, max, .. } => {
                return Err(ConfigError::OutOfRange {
                    option: spec.name,
                    value: value.to_string(),
                    range: format!("{min} to {max}"),
                    why: spec.how,
                });
            }
            OptionKind::Typed { .. } => {
                return Err(ConfigError::Refused { option: spec.name, reason: spec.how });
            }
            OptionKind::Refused { reason } => {
                return Err(ConfigError::Refused { option: spec.name, reason });
            }
        }
        Ok(self)
    }
}

pub(super) const VARINT_MAX: u64 = U62;
