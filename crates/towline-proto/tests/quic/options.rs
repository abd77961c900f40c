//! The table of options against the code and against `docs/quic.md`.

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

const NAMES: &str = "alpn conn_callback custom_verify handle nst handshake_idle_timeout_ms quic_event_mask \
    disable_1rtt_encryption local_address local_bidi_stream_count local_peer_unidi_stream_count cert certfile key \
    keyfile password verify cacertfile sslkeylogfile max_bytes_per_key idle_timeout_ms tls_client_max_send_buffer \
    tls_server_max_send_buffer stream_recv_window_default stream_recv_buffer_default conn_flow_control_window \
    max_stateless_operations initial_window_packets send_idle_timeout_ms initial_rtt_ms max_ack_delay_ms \
    disconnect_timeout_ms keep_alive_interval_ms congestion_control_algorithm peer_bidi_stream_count \
    peer_unidi_stream_count retry_memory_limit load_balancing_mode max_operations_per_drain send_buffering_enabled \
    pacing_enabled migration_enabled datagram_receive_enabled server_resumption_level minimum_mtu maximum_mtu \
    mtu_discovery_search_complete_timeout_us mtu_discovery_missing_probe_count max_binding_stateless_operations \
    stateless_operation_expiration_ms";
const STREAM_NAMES: &str = "active open_flag start_flag event_mask disable_fpbuffer stream_id priority ideal_send_buffer_size 0rtt_length";

fn builds(options: Options) -> Result<(), ConfigError> {
    let mut client = client_settings();
    client.options = options.clone();
    let mut server = server_settings();
    server.options = options;
    ClientConfig::new(client)?;
    ServerConfig::new(server)?;
    Ok(())
}

#[test]
fn every_option_of_the_owners_contract_is_in_the_table_once() {
    for (table, names) in [(OPTIONS, NAMES), (STREAM_OPTIONS, STREAM_NAMES)] {
        let listed: Vec<_> = table.iter().map(|spec| spec.name).collect();
        for name in names.split_whitespace() {
            assert_eq!(listed.iter().filter(|listed| **listed == name).count(), 1, "{name}");
        }
        assert_eq!(listed.len(), names.split_whitespace().count());
    }
}

#[test]
fn numbers_are_honoured_within_their_range_and_refused_outside() {
    for spec in OPTIONS.iter().chain(STREAM_OPTIONS) {
        let mut options = Options::default();
        match spec.kind {
            OptionKind::Number { min, max, default, .. } => {
                options.set(spec.name, default).unwrap();
                let (set, untouched) =
                    (format!("{options:?}"), format!("{:?}", Options::default()));
                assert_eq!(
                    set, untouched,
                    "{}: the default is what is there without it",
                    spec.name
                );
                for value in [min, max, default] {
                    // So that the other ends of the ranges do not contradict it.
                    let mut options = Options {
                        risk_gap_overflow: true,
                        idle_timeout: None,
                        maximum_mtu: u16::MAX,
                        ..Options::default()
                    };
                    if spec.name == "maximum_mtu" {
                        options.minimum_mtu = 1_248;
                    }
                    options.set(spec.name, value).unwrap();
                    builds(options)
                        .unwrap_or_else(|error| panic!("{} = {value}: {error}", spec.name));
                }
                for value in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
                    let error = options.set(spec.name, value).unwrap_err();
                    assert!(
                        matches!(&error, ConfigError::OutOfRange { option, .. } if *option == spec.name),
                        "{} = {value}: {error}",
                        spec.name
                    );
                }
            }
            OptionKind::Typed { .. } => {
                let error = options.set(spec.name, 1).unwrap_err();
                assert!(
                    matches!(error, ConfigError::Refused { option, reason } if option == spec.name && !reason.is_empty())
                );
            }
            OptionKind::Refused { reason } => {
                let error = options.set(spec.name, 1).unwrap_err().to_string();
                assert!(
                    error.contains(spec.name) && error.contains(reason) && reason.len() > 20,
                    "{error}"
                );
            }
        }
    }
    assert!(matches!(Options::default().set("no such", 1), Err(ConfigError::UnknownOption(_))));
}

/// Each numeric option changes what is built: none is accepted and ignored.
#[test]
fn every_number_with_a_range_changes_the_options() {
    for spec in OPTIONS {
        let OptionKind::Number { min, max, default, .. } = spec.kind else { continue };
        if min == max {
            continue;
        }
        let other = if default == min { max } else { min };
        let mut options = Options::default();
        options.set(spec.name, other).unwrap();
        assert_ne!(format!("{options:?}"), format!("{:?}", Options::default()), "{}", spec.name);
    }
}

#[test]
fn contradictions_are_named() {
    let refused = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        builds(options).unwrap_err().to_string()
    };
    for (error, names) in [
        (
            refused(|o| o.stream_recv_window = 3 << 20),
            ["stream_recv_window_default", "risk_gap_overflow"],
        ),
        (refused(|o| o.maximum_mtu = 1_000), ["maximum_mtu", "minimum_mtu"]),
        (refused(|o| o.minimum_mtu = 1_200), ["minimum_mtu", "1248"]),
        (
            refused(|o| {
                o.pacing = false;
                o.max_send_rate = Some(1);
            }),
            ["max_send_rate", "pacing_enabled"],
        ),
        (
            refused(|o| o.keep_alive_interval = Some(std::time::Duration::from_secs(40))),
            ["keep_alive_interval_ms", "idle_timeout_ms"],
        ),
        (
            refused(|o| o.disconnect_timeout = std::time::Duration::ZERO),
            ["disconnect_timeout_ms", "1 ms"],
        ),
    ] {
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
    }
    // A larger window is there for who knows the path.
    builds(Options { stream_recv_window: 6 << 20, risk_gap_overflow: true, ..Options::default() })
        .unwrap();
}

#[test]
fn protocols_are_required_and_bounded() {
    let build = |alpn: Vec<Bytes>| {
        let mut settings = client_settings();
        settings.alpn = alpn;
        ClientConfig::new(settings).unwrap_err()
    };
    assert!(matches!(build(vec![]), ConfigError::Missing { option: "alpn", .. }));
    assert!(matches!(build(vec![Bytes::new()]), ConfigError::OutOfRange { option: "alpn", .. }));
    assert!(matches!(
        build(vec![Bytes::from(vec![b'x'; 256])]),
        ConfigError::OutOfRange { option: "alpn", .. }
    ));
}

#[test]
fn one_connections_memory_is_bounded_by_the_endpoint() {
    let now = std::time::Instant::now();
    let mut settings = server_settings();
    settings.options.send_window = 100 << 20;
    let server = ServerConfig::new(settings).unwrap();
    let error =
        Endpoint::new(EndpointConfig::default(), Some(server.clone()), [0; 32], now, wall())
            .err()
            .unwrap();
    assert!(
        matches!(error, ConfigError::OutOfRange { option: "max_memory_per_connection", .. }),
        "{error}"
    );
    let config =
        EndpointConfig { max_memory_per_connection: 200 << 20, ..EndpointConfig::default() };
    assert!(Endpoint::new(config, Some(server), [0; 32], now, wall()).is_ok());
}

/// The table as `docs/quic.md` shows it.
fn table(options: &[OptionSpec]) -> String {
    let mut text = String::from(
        "| option | unit | range | default | | how, or why not |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for spec in options {
        let (range, default, verdict, how) = match spec.kind {
            OptionKind::Number { min, max, default, .. } if min == max => {
                (min.to_string(), default.to_string(), "honoured", spec.how)
            }
            OptionKind::Number { min, max, default, .. } => {
                (format!("{min} to {max}"), default.to_string(), "honoured", spec.how)
            }
            OptionKind::Typed { range, default } => {
                (range.to_owned(), default.to_owned(), "honoured", spec.how)
            }
            OptionKind::Refused { reason } => (String::new(), String::new(), "refused", reason),
        };
        text += &format!(
            "| `{}` | {} | {range} | {default} | {verdict} | {how} |\n",
            spec.name, spec.unit
        );
    }
    text
}

/// `UPDATE_DOCS=1 cargo test -p towline-proto --test quic options` writes the tables anew.
#[test]
fn the_documents_tables_are_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/quic.md");
    let mut text = std::fs::read_to_string(path).expect("docs/quic.md");
    let before = text.clone();
    for (marker, options) in [("connection options", OPTIONS), ("stream options", STREAM_OPTIONS)] {
        let (begin, end) = (format!("<!-- {marker} -->\n"), format!("<!-- end of {marker} -->"));
        let from = text.find(&begin).expect(&begin) + begin.len();
        let to = text.find(&end).expect(&end);
        text.replace_range(from..to, &table(options));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    } else {
        assert!(
            before == text,
            "docs/quic.md is not the table in the code; write it with UPDATE_DOCS=1"
        );
    }
}
