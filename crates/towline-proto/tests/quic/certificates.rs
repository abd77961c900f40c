//! Certificates: what our own verification does, and the application's verdict.

use std::time::Duration;

use towline_proto::quic::*;

use crate::pair::*;

fn reason(pair: &Pair, events: &[(ConnectionId, Event)], id: ConnectionId) -> CloseReason {
    let _ = pair;
    of(events, id)
        .find_map(|event| match event {
            Event::TransportShutdown(reason) => Some(reason.clone()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no end: {:?}", of(events, id).collect::<Vec<_>>()))
}

#[test]
fn an_untrusted_server_is_rejected_with_the_alert() {
    let other = certificate(&[NAME]);
    let mut pair = Setup::new().server(|s| s.identity = identity_of(&other)).build();
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    let reason = reason(&pair, &pair.client_events, client);
    assert!(matches!(&reason, CloseReason::CertificateRejected { alert: 48, .. }), "{reason:?}");
    assert_eq!((reason.code(), reason.status()), (0x130, "bad_certificate"));
    // The server hears the alert.
    assert!(pair.server_events.iter().any(|(_, e)| matches!(
        e,
        Event::TransportShutdown(CloseReason::PeerTransportError { code: 0x130, .. })
    )));
}

#[test]
fn a_server_of_another_name_is_rejected() {
    let other = certificate(&["elsewhere.example"]);
    let root = other.cert.der().clone();
    let mut pair = Setup::new()
        .server(|s| s.identity = identity_of(&other))
        .client(|c| c.verification = ServerVerification::Roots(vec![root]))
        .build();
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    assert!(matches!(
        reason(&pair, &pair.client_events, client),
        CloseReason::CertificateRejected { .. }
    ));
}

#[test]
fn a_pinned_certificate_needs_no_authority() {
    let other = certificate(&["elsewhere.example"]);
    let digest = ring_digest(other.cert.der());
    for (pin, ok) in [(digest, true), ([0; 32], false)] {
        let mut pair = Setup::new()
            .server(|s| s.identity = identity_of(&other))
            .client(|c| c.verification = ServerVerification::PinnedSha256(vec![pin]))
            .build();
        let client = pair.connect();
        pair.drive(Duration::from_secs(2));
        assert_eq!(
            of(&pair.client_events, client).any(|e| matches!(e, Event::Connected { .. })),
            ok
        );
    }
}

fn ring_digest(der: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, der).as_ref().try_into().unwrap()
}

fn judging() -> Pair {
    Setup::new().client(|c| c.options.custom_verify = true).build()
}

#[test]
fn the_handshake_stands_still_until_the_verdict() {
    for loss in [0.0, 0.3] {
        let mut pair = judging();
        pair.links(|l| l.loss = loss);
        let client = pair.connect();
        let asked = pair.drive_until(Duration::from_secs(4), |pair| !pair.client_events.is_empty());
        assert!(asked);
        let [(id, Event::PeerCertificate { chain, verified })] = &pair.client_events[..] else {
            panic!("{:?}", pair.client_events)
        };
        assert_eq!((*id, &chain[..]), (client, &[root()][..]));
        assert!(matches!(verified, Some(Ok(()))));
        pair.drive(Duration::from_secs(2));
        assert_eq!(pair.client_events.len(), 1, "nothing happens without a verdict");
        assert!(!pair.server_events.iter().any(|(_, e)| matches!(e, Event::Connected { .. })));
        pair.client_conn(client).certificate_verdict(Verdict::Accept).unwrap();
        assert_eq!(pair.client_conn(client).certificate_verdict(Verdict::Accept), Err(TooLate));
        let decided = pair.now;
        pair.establish(client);
        if loss == 0.0 {
            assert!(
                pair.now - decided <= Duration::from_millis(20),
                "one round trip to the confirmation"
            );
        }
    }
}

#[test]
fn a_verdict_against_the_server_fails_the_handshake() {
    let mut pair = judging();
    let client = pair.connect();
    pair.drive(Duration::from_millis(100));
    pair.client_conn(client).certificate_verdict(Verdict::Reject(42)).unwrap();
    pair.drive(Duration::from_secs(2));
    let reason = reason(&pair, &pair.client_events, client);
    assert!(matches!(reason, CloseReason::CertificateRejected { alert: 42, .. }), "{reason:?}");
    assert!(!of(&pair.client_events, client).any(|e| matches!(e, Event::Connected { .. })));
    assert!(pair.server_events.iter().any(|(_, e)| matches!(
        e,
        Event::TransportShutdown(CloseReason::PeerTransportError { code: 0x12a, .. })
    )));
}

#[test]
fn no_verdict_in_time_is_one_against() {
    let mut pair = judging();
    let client = pair.connect();
    pair.drive(Duration::from_secs(8));
    let reason = reason(&pair, &pair.client_events, client);
    assert!(matches!(reason, CloseReason::CertificateRejected { alert: 46, .. }), "{reason:?}");
}

#[test]
fn a_verdict_for_does_not_overrule_our_own_verification() {
    let other = certificate(&[NAME]);
    let mut pair = Setup::new()
        .server(|s| s.identity = identity_of(&other))
        .client(|c| c.options.custom_verify = true)
        .build();
    let client = pair.connect();
    pair.drive(Duration::from_millis(100));
    assert!(matches!(
        &pair.client_events[..],
        [(_, Event::PeerCertificate { verified: Some(Err(_)), .. })]
    ));
    pair.client_conn(client).certificate_verdict(Verdict::Accept).unwrap();
    pair.drive(Duration::from_secs(2));
    assert!(matches!(
        reason(&pair, &pair.client_events, client),
        CloseReason::CertificateRejected { .. }
    ));
}

#[test]
fn without_anchors_the_application_alone_decides() {
    let mut pair = Setup::new()
        .client(|c| {
            c.options.custom_verify = true;
            c.verification = ServerVerification::DangerousNone;
        })
        .build();
    let client = pair.connect();
    pair.drive(Duration::from_millis(100));
    assert!(matches!(
        &pair.client_events[..],
        [(_, Event::PeerCertificate { verified: None, .. })]
    ));
    pair.client_conn(client).certificate_verdict(Verdict::Accept).unwrap();
    pair.establish(client);
}

#[test]
fn a_server_judges_its_clients() {
    for accept in [true, false] {
        let mut pair = Setup::new()
            .server(|s| s.options.custom_verify = true)
            .client(|c| c.identity = Some(identity_of(&certificate(&["client"]))))
            .build();
        let client = pair.connect();
        pair.drive(Duration::from_millis(200));
        let Some((server, Event::PeerCertificate { chain, .. })) = pair.server_events.first()
        else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!(chain.len(), 1);
        let server = *server;
        pair.drive(Duration::from_secs(1));
        assert_eq!(pair.server_events.len(), 1);
        let verdict = if accept { Verdict::Accept } else { Verdict::Reject(44) };
        pair.server_conn(server).certificate_verdict(verdict).unwrap();
        if accept {
            pair.establish(client);
            continue;
        }
        pair.drive(Duration::from_secs(2));
        assert!(matches!(
            reason(&pair, &pair.server_events, server),
            CloseReason::CertificateRejected { alert: 44, .. }
        ));
        let end = reason(&pair, &pair.client_events, client);
        assert!(matches!(end, CloseReason::PeerTransportError { code: 0x12c, .. }), "{end:?}");
    }
}

#[test]
fn a_client_without_a_certificate_is_not_judged() {
    let mut pair = Setup::new().server(|s| s.options.custom_verify = true).build();
    let (_, server) = pair.established();
    assert!(!of(&pair.server_events, server).any(|e| matches!(e, Event::PeerCertificate { .. })));
}

#[test]
fn a_required_client_certificate_is_required() {
    let good = certificate(&["client"]);
    let anchor = good.cert.der().clone();
    for (identity, ok) in [
        (Some(identity_of(&good)), true),
        (Some(identity_of(&certificate(&["other"]))), false),
        (None, false),
    ] {
        let anchor = anchor.clone();
        let mut pair = Setup::new()
            .server(|s| s.client_verification = ClientVerification::Required(vec![anchor]))
            .client(|c| c.identity = identity)
            .build();
        let client = pair.connect();
        pair.drive(Duration::from_secs(3));
        let confirmed =
            of(&pair.client_events, client).any(|e| matches!(e, Event::HandshakeConfirmed));
        assert_eq!(confirmed, ok);
        assert_eq!(
            pair.server_events.iter().any(|(_, e)| matches!(e, Event::Connected { .. })),
            ok
        );
    }
}

#[test]
fn broken_pem_is_refused() {
    assert!(Identity::from_pem(b"nothing", b"nothing").is_err());
    assert!(matches!(
        ClientConfig::new(ClientSettings::new(
            ServerVerification::Roots(vec![rustls_pki_types::CertificateDer::from(vec![1, 2, 3])]),
            [bytes::Bytes::from_static(ALPN)]
        )),
        Err(ConfigError::Tls(_))
    ));
}
