//! The opening handshake, redirects, authentication, proxies and a server's answers (sections A and E of the cases).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::super::handshake::*;
use super::super::*;
use super::support::*;

/// RFC 6455 section 1.3.
#[test]
fn accept_keys() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

fn begin(url: &str, options: ClientOptions) -> (Navigation, ClientHandshake, Instant) {
    let now = Instant::now();
    let way = Navigation::new(url, options).expect("an address");
    let handshake =
        way.handshake(&mut ChaChaEntropy::from_seed([1; 32]), now).expect("valid options");
    (way, handshake, now)
}

fn request_of(handshake: &mut ClientHandshake) -> String {
    let mut out = Vec::new();
    assert!(handshake.poll_transmit(&mut out) > 0);
    assert_eq!(handshake.poll_transmit(&mut out), 0);
    String::from_utf8(out.concat()).expect("ascii")
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}: ");
    head.split("\r\n").find_map(|line| line.strip_prefix(prefix.as_str()))
}

/// The outcome of a handshake when the server answers with these lines; `{accept}` stands for the right key.
fn answered(options: ClientOptions, answer: &str) -> ClientOutcome {
    let (_, mut handshake, now) = begin("ws://example.com/chat?x=1", options);
    let request = request_of(&mut handshake);
    let key = header(&request, "Sec-WebSocket-Key").expect("a key");
    let answer = answer.replace('\n', "\r\n").replace("{accept}", &accept_key(key));
    handshake.handle_input(now, BytesMut::from(answer.as_bytes()));
    if let Some(outcome) = handshake.poll_outcome() {
        return outcome;
    }
    handshake.handle_eof(now);
    handshake.poll_outcome().expect("an outcome")
}

fn failure(options: ClientOptions, answer: &str) -> HandshakeError {
    match answered(options, answer) {
        ClientOutcome::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

const GOOD: &str = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: {accept}\n";

fn good(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

fn protocols(names: &[&str]) -> ClientOptions {
    ClientOptions {
        subprotocols: names.iter().map(|&name| name.to_owned()).collect(),
        ..ClientOptions::default()
    }
}

#[test]
fn the_request_says_what_it_must() {
    let mut headers = Headers::new();
    headers.push("Cookie", "a=b").expect("valid");
    headers.push("Origin", "https://example.org").expect("valid");
    let options = ClientOptions {
        headers,
        deflate: Some(DeflateConfig::default()),
        ..protocols(&["towline.1", "other"])
    };
    let (_, mut handshake, _) =
        begin("wss://user:p%40ss@[2001:DB8::1]:8443/chat?room=1&x", options);
    let request = request_of(&mut handshake);
    assert!(
        request.starts_with("GET /chat?room=1&x HTTP/1.1\r\n") && request.ends_with("\r\n\r\n")
    );
    for (name, value) in [
        ("Host", "[2001:db8::1]:8443"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "towline.1, other"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Authorization", "Basic dXNlcjpwQHNz"),
        ("Cookie", "a=b"),
        ("Origin", "https://example.org"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert!(header(&request, "User-Agent").is_some_and(|agent| agent.starts_with("towline/")));
    assert_eq!(header(&request, "Sec-WebSocket-Key").map(str::len), Some(24));
}

#[test]
fn every_request_has_its_own_key() {
    let now = Instant::now();
    let way = Navigation::new("ws://h/", ClientOptions::default()).expect("an address");
    let mut entropy = ChaChaEntropy::from_seed([1; 32]);
    let keys: Vec<String> = (0..2)
        .map(|_| {
            let mut handshake = way.handshake(&mut entropy, now).expect("valid");
            header(&request_of(&mut handshake), "Sec-WebSocket-Key").expect("a key").to_owned()
        })
        .collect();
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn case_8_addresses() {
    let target = |url: &str| {
        Target::parse(url).map(|(target, _)| (target.secure, target.host, target.port, target.path))
    };
    let ok =
        |secure, host: &str, port, path: &str| Ok((secure, host.to_owned(), port, path.to_owned()));
    assert_eq!(target("ws://Example.COM"), ok(false, "example.com", 80, "/"));
    assert_eq!(target("WSS://h?q"), ok(true, "h", 443, "/?q"));
    assert_eq!(target("ws://[::1]:9/a//b"), ok(false, "::1", 9, "/a//b"));
    assert_eq!(target("ws://h:/"), ok(false, "h", 80, "/"));
    for (url, error) in [
        ("http://h/", TargetError::Scheme),
        ("h/path", TargetError::Scheme),
        ("ws:/h", TargetError::Scheme),
        ("ws://", TargetError::Host),
        ("ws:///path", TargetError::Host),
        ("ws://a b/", TargetError::Character),
        ("ws://h/\r\nX: y", TargetError::Character),
        ("ws://h/ü", TargetError::Character),
        ("ws://h/#part", TargetError::Character),
        ("ws://h:0/", TargetError::Port),
        ("ws://h:65536/", TargetError::Port),
        ("ws://h:+1/", TargetError::Port),
        ("ws://h:x/", TargetError::Port),
        ("ws://[::1/", TargetError::Host),
        ("ws://[zz]/", TargetError::Host),
        ("ws://[::1]x/", TargetError::Port),
        ("ws://a:b:c/", TargetError::Port),
        ("ws://%zz@h/", TargetError::Character),
    ] {
        assert_eq!(target(url), Err(error), "{url}");
    }
}

#[test]
fn case_90_tokens_are_lists_and_know_no_case() {
    for (upgrade, connection) in [
        ("websocket", "Upgrade"),
        ("WebSocket", "keep-alive, Upgrade"),
        ("h2c, WEBSOCKET", "upgrade"),
        ("websocket", "x,UPGRADE ,y"),
    ] {
        let answer = format!(
            "HTTP/1.1 101 OK\nUpgrade: {upgrade}\nConnection: {connection}\nsec-websocket-accept: {{accept}}\n\n"
        );
        assert!(
            matches!(answered(ClientOptions::default(), &answer), ClientOutcome::Open(_)),
            "{upgrade} {connection}"
        );
    }
    for answer in [
        "HTTP/1.0 101 OK\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: {accept}\n\n",
        "HTTP/1.1 101 OK\nConnection: Upgrade\nSec-WebSocket-Accept: {accept}\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websockets\nConnection: Upgrade\nSec-WebSocket-Accept: {accept}\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websocket\nSec-WebSocket-Accept: {accept}\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websocket\nConnection: close\nSec-WebSocket-Accept: {accept}\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websocket\nConnection: Upgrade\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\n",
        "HTTP/1.1 101 OK\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: {accept}\nSec-WebSocket-Accept: {accept}\n\n",
    ] {
        assert!(
            matches!(failure(ClientOptions::default(), answer), HandshakeError::Upgrade(_)),
            "{answer}"
        );
    }
}

#[test]
fn case_91_subprotocols_match_exactly() {
    let chosen = |options: ClientOptions, name: &str| match answered(
        options,
        &good(&format!("Sec-WebSocket-Protocol: {name}\n")),
    ) {
        ClientOutcome::Open(opened) => Ok(opened.subprotocol),
        ClientOutcome::Failed(error) => Err(error),
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen(protocols(&["foo", "bar"]), "bar"), Ok(Some("bar".into())));
    for wrong in ["foobar", "fo", "FOO", "foo, bar", "foo\nSec-WebSocket-Protocol: foo"] {
        assert_eq!(
            chosen(protocols(&["foo", "bar"]), wrong),
            Err(HandshakeError::Subprotocol),
            "{wrong}"
        );
    }
    assert_eq!(
        chosen(ClientOptions::default(), "foo"),
        Err(HandshakeError::Subprotocol),
        "not offered"
    );
    assert_eq!(failure(protocols(&["foo"]), &good("")), HandshakeError::Subprotocol, "none chosen");
    let lenient = ClientOptions { require_subprotocol: false, ..protocols(&["foo"]) };
    let ClientOutcome::Open(opened) = answered(lenient.clone(), &good("")) else {
        panic!("none is fine when none is required")
    };
    assert_eq!(opened.subprotocol, None);
    assert_eq!(chosen(lenient, "bar"), Err(HandshakeError::Subprotocol), "not asked for");
}

#[test]
fn case_92_frames_behind_the_response_are_kept() {
    let (_, mut handshake, now) = begin("ws://h/", ClientOptions::default());
    let request = request_of(&mut handshake);
    let answer = good("")
        .replace('\n', "\r\n")
        .replace("{accept}", &accept_key(header(&request, "Sec-WebSocket-Key").expect("key")));
    let bytes =
        [answer.as_bytes(), &frame_to(Role::Client, true, frame::OpCode::Text, b"glued")].concat();
    // Byte by byte up to the head's end, which comes together with the frame.
    let (slow, fast) = bytes.split_at(answer.len() - 1);
    for byte in slow {
        handshake.handle_input(now, BytesMut::from(&[*byte][..]));
        assert!(handshake.poll_outcome().is_none());
    }
    handshake.handle_input(now, BytesMut::from(fast));
    let Some(ClientOutcome::Open(opened)) = handshake.poll_outcome() else { panic!("not open") };
    assert_eq!(opened.response.status, 101);
    let mut connection = opened.into_connection(Arc::new(quiet()), entropy(1), now);
    assert_eq!(messages(&events(&mut connection)), [(Kind::Text, b"glued".to_vec())]);
}

#[test]
fn case_98_the_response_can_be_seen_on_success_and_failure() {
    for (answer, status) in [
        (GOOD.replace("{accept}", "wrong"), 101),
        ("HTTP/1.1 100 Go on\n\nHTTP/1.1 302 There\nLocation: /x\n".to_owned(), 302),
        ("HTTP/1.1 503 No\nRetry-After: 7\n".to_owned(), 503),
    ] {
        let (_, mut handshake, now) = begin("ws://h/", ClientOptions::default());
        assert!(handshake.response().is_none());
        let answer = format!("{answer}Set-Cookie: a=b\nSet-Cookie: c=d\n\n").replace('\n', "\r\n");
        handshake.handle_input(now, BytesMut::from(answer.as_bytes()));
        let response = handshake.response().expect("read");
        assert_eq!(response.status, status);
        assert_eq!(response.headers.all("set-cookie").collect::<Vec<_>>(), ["a=b", "c=d"]);
    }
}

#[test]
fn an_interim_response_is_passed_over() {
    let answer = format!("HTTP/1.1 103 Early Hints\nLink: x\n\n{}", good(""));
    assert!(matches!(answered(ClientOptions::default(), &answer), ClientOutcome::Open(_)));
}

fn redirected(status: u16, location: &str) -> ClientOutcome {
    answered(
        ClientOptions::default(),
        &format!("HTTP/1.1 {status} Moved\nLocation: {location}\n\n"),
    )
}

#[test]
fn case_93_redirects() {
    for status in [301, 302, 303, 307, 308] {
        let ClientOutcome::Redirect { target, response } =
            redirected(status, "wss://other.example:99/x?y")
        else {
            panic!("no redirect for {status}")
        };
        assert_eq!(
            (target.secure, target.host.as_str(), target.port, target.path.as_str()),
            (true, "other.example", 99, "/x?y")
        );
        assert_eq!(response.status, status);
    }
    for status in [300, 304, 305, 306] {
        assert!(matches!(
            redirected(status, "ws://h/"),
            ClientOutcome::Failed(HandshakeError::Status(_))
        ));
    }
    assert!(matches!(
        redirected(302, ""),
        ClientOutcome::Failed(HandshakeError::Redirect(TargetError::Missing))
    ));
    assert!(matches!(
        redirected(302, "ftp://h/"),
        ClientOutcome::Failed(HandshakeError::Redirect(TargetError::Scheme))
    ));
}

#[test]
fn case_93_locations_are_resolved() {
    let (base, _) = Target::parse("ws://example.com:81/a/b?c").expect("an address");
    for (location, host, port, path) in [
        ("/new", "example.com", 81, "/new"),
        ("new?z", "example.com", 81, "/a/new?z"),
        ("?z", "example.com", 81, "/a/b?z"),
        ("../up/./x", "example.com", 81, "/up/x"),
        ("../../..", "example.com", 81, "/"),
        ("//h:5/x", "h", 5, "/x"),
        ("http://h/x#fragment", "h", 80, "/x"),
        ("https://h", "h", 443, "/"),
        ("ws://user:secret@h/", "h", 80, "/"),
    ] {
        let target = base.resolve(location).expect(location);
        assert_eq!(
            (target.host.as_str(), target.port, target.path.as_str()),
            (host, port, path),
            "{location}"
        );
    }
    assert!(base.resolve("javascript:alert(1)").is_err());
    assert!(base.resolve("http://h/\u{7f}").is_err());
}

#[test]
fn case_93_the_way_over_redirects() {
    let secret = |url: &str, to: &str| {
        let mut headers = Headers::new();
        headers.push("Cookie", "session=1").expect("valid");
        headers.push("X-Other", "kept").expect("valid");
        let credentials = Some(Credentials::Bearer("token".into()));
        let mut way = Navigation::new(
            url,
            ClientOptions { headers, credentials, ..ClientOptions::default() },
        )
        .expect("an address");
        let target = way.target().resolve(to).expect("a location");
        way.follow(target).expect("followed");
        let mut handshake =
            way.handshake(&mut ChaChaEntropy::from_seed([1; 32]), Instant::now()).expect("valid");
        let request = request_of(&mut handshake);
        assert_eq!(header(&request, "X-Other"), Some("kept"));
        (header(&request, "Authorization").is_some(), header(&request, "Cookie").is_some())
    };
    assert_eq!(secret("wss://h/", "/other"), (true, true));
    assert_eq!(secret("wss://h/", "https://h:443/x"), (true, true));
    for to in ["wss://other/", "wss://h:444/", "wss://sub.h/"] {
        assert_eq!(secret("wss://h/", to), (false, false), "{to}");
    }
    assert_eq!(secret("ws://h/", "wss://h/"), (false, false), "another origin");

    let mut way = Navigation::new("wss://h/", ClientOptions::default()).expect("an address");
    let (insecure, _) = Target::parse("ws://h/").expect("an address");
    assert_eq!(way.follow(insecure), Err(HandshakeError::InsecureRedirect));
    for _ in 0..10 {
        way.follow(way.target().clone()).expect("up to ten");
    }
    assert_eq!(way.follow(way.target().clone()), Err(HandshakeError::TooManyRedirects));
    assert_eq!(way.redirects(), 10);

    // Once dropped, credentials do not come back with the way.
    let mut way =
        Navigation::new("wss://user:pass@h/", ClientOptions::default()).expect("an address");
    assert!(way.credentials().is_some());
    for to in ["wss://other/", "wss://h/"] {
        way.follow(way.target().resolve(to).expect("a location")).expect("followed");
        assert!(way.credentials().is_none());
    }
}

#[test]
fn case_94_authentication_and_other_refusals() {
    let held = ClientOptions {
        credentials: Some(Credentials::Basic {
            user: "Aladdin".into(),
            password: "open sesame".into(),
        }),
        wait_for_challenge: true,
        ..ClientOptions::default()
    };
    let (mut way, mut handshake, now) = begin("ws://h/", held);
    assert_eq!(header(&request_of(&mut handshake), "Authorization"), None);
    handshake.handle_input(
        now,
        BytesMut::from("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n"),
    );
    assert!(matches!(handshake.poll_outcome(), Some(ClientOutcome::Challenge(_))));
    way.authenticate();
    let mut handshake = way.handshake(&mut ChaChaEntropy::from_seed([2; 32]), now).expect("valid");
    // RFC 7617 section 2.
    assert_eq!(
        header(&request_of(&mut handshake), "Authorization"),
        Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    );
    handshake.handle_input(now, BytesMut::from("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"));
    assert!(matches!(
        handshake.poll_outcome(),
        Some(ClientOutcome::Failed(HandshakeError::Unauthorized(_)))
    ));

    for (status, body) in [(403, "no entry"), (404, "not here"), (503, "later")] {
        let answer = format!(
            "HTTP/1.1 {status} X\nRetry-After: 7\nContent-Length: {}\n\n{body}",
            body.len()
        );
        let HandshakeError::Status(response) = failure(ClientOptions::default(), &answer) else {
            panic!("{status}")
        };
        assert_eq!((response.status, &response.body[..]), (status, body.as_bytes()));
        assert_eq!(response.headers.first("retry-after"), Some("7"));
    }
    // 200 is a refusal too, and a body without length ends with the transport or the limit.
    let HandshakeError::Status(response) =
        failure(ClientOptions::default(), "HTTP/1.1 200 OK\n\nhello")
    else {
        panic!()
    };
    assert_eq!(&response.body[..], b"hello");
    let long = format!("HTTP/1.1 500 X\nContent-Length: 1000000\n\n{}", "x".repeat(9000));
    let HandshakeError::Status(response) = failure(ClientOptions::default(), &long) else {
        panic!()
    };
    assert_eq!(response.body.len(), 4096);
}

#[test]
fn a_refusal_with_a_slow_body_is_reported_in_time() {
    let (_, mut handshake, now) = begin("ws://h/", ClientOptions::default());
    handshake.handle_input(now, BytesMut::from("HTTP/1.1 503 X\r\n\r\npart"));
    assert!(handshake.poll_outcome().is_none());
    handshake.handle_timeout(handshake.poll_timeout().expect("a deadline"));
    let Some(ClientOutcome::Failed(HandshakeError::Status(response))) = handshake.poll_outcome()
    else {
        panic!()
    };
    assert_eq!(&response.body[..], b"part");
}

#[test]
fn credentials_are_checked_and_not_shown() {
    let basic = Credentials::Basic { user: "a:b".into(), password: "c".into() };
    assert!(basic.header_value().is_err());
    assert!(Credentials::Bearer("a b".into()).header_value().is_err());
    assert!(Credentials::Bearer(String::new()).header_value().is_err());
    assert_eq!(
        Credentials::Bearer("abc.DEF-1_~+/=".into()).header_value().as_deref(),
        Ok("Bearer abc.DEF-1_~+/=")
    );
    assert!(!format!("{:?}", Credentials::Bearer("secret".into())).contains("secret"));
}

#[test]
fn case_95_through_a_proxy() {
    let now = Instant::now();
    let (target, _) = Target::parse("wss://[::1]/x").expect("an address");
    let credentials = Some(Credentials::Basic { user: "u".into(), password: "p".into() });
    let options = ProxyOptions { credentials, ..ProxyOptions::default() };
    let ask = |answer: &str| {
        let mut tunnel = ProxyTunnel::new(&options, &target, now).expect("valid");
        let mut out = Vec::new();
        tunnel.poll_transmit(&mut out);
        let request = String::from_utf8(out.concat()).expect("ascii");
        assert_eq!(
            request,
            "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
        for byte in answer.bytes() {
            tunnel.handle_input(now, BytesMut::from(&[byte][..]));
        }
        tunnel.handle_eof(now);
        assert!(tunnel.poll_timeout().is_none());
        tunnel.poll_outcome().expect("an outcome")
    };
    assert!(matches!(ask("HTTP/1.1 200 Connection established\r\n\r\n"), ProxyOutcome::Open(_)));
    assert!(matches!(
        ask("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nVia: x\r\n\r\n"),
        ProxyOutcome::Open(_)
    ));
    assert!(matches!(ask("HTTP/1.1 407 No\r\n\r\n"), ProxyOutcome::Unauthorized(_)));
    assert!(
        matches!(ask("HTTP/1.1 502 No\r\n\r\n"), ProxyOutcome::Failed(HandshakeError::Status(response)) if response.status == 502)
    );
    assert!(matches!(ask("HTTP/1.1 2"), ProxyOutcome::Failed(HandshakeError::Ended)));
    assert!(matches!(ask("nonsense\r\n\r\n"), ProxyOutcome::Failed(HandshakeError::Malformed)));
    // The tunnel's first bytes are kept.
    let mut tunnel = ProxyTunnel::new(&options, &target, now).expect("valid");
    tunnel.handle_input(now, BytesMut::from("HTTP/1.1 200 OK\r\n\r\n\x16\x03"));
    assert!(
        matches!(tunnel.poll_outcome(), Some(ProxyOutcome::Open(rest)) if &rest[..] == b"\x16\x03")
    );
    let mut tunnel = ProxyTunnel::new(&options, &target, now).expect("valid");
    tunnel.handle_timeout(tunnel.poll_timeout().expect("a deadline"));
    assert!(matches!(tunnel.poll_outcome(), Some(ProxyOutcome::Failed(HandshakeError::Timeout))));
}

#[test]
fn case_95_through_a_socks_proxy() {
    let now = Instant::now();
    let login = Credentials::Basic { user: "u".into(), password: "pw".into() };
    // What each side says in turn, octet by octet as RFC 1928 and RFC 1929 have it.
    let talk = |url: &str, credentials: Option<&Credentials>, said: &[(&[u8], &[u8])]| {
        let (target, _) = Target::parse(url).expect("an address");
        let options = ProxyOptions {
            kind: ProxyKind::Socks5,
            credentials: credentials.cloned(),
            ..ProxyOptions::default()
        };
        let mut tunnel = ProxyTunnel::new(&options, &target, now).expect("valid");
        for (ours, theirs) in said {
            let mut out = Vec::new();
            tunnel.poll_transmit(&mut out);
            assert_eq!(out.concat(), *ours);
            for byte in *theirs {
                assert!(tunnel.poll_outcome().is_none());
                tunnel.handle_input(now, BytesMut::from(&[*byte][..]));
            }
        }
        let outcome = tunnel.poll_outcome();
        tunnel.handle_eof(now);
        outcome.or_else(|| tunnel.poll_outcome()).expect("an outcome")
    };
    let name = b"\x05\x01\0\x03\x01h\x01\xbb";
    let open = b"\x05\0\0\x01\x7f\0\0\x01\x12\x34";
    let hello: (&[u8], &[u8]) = (b"\x05\x01\0", b"\x05\0");
    assert!(matches!(talk("wss://h/", None, &[hello, (name, open)]), ProxyOutcome::Open(_)));
    let four = b"\x05\x01\0\x01\x0a\0\0\x01\0\x50";
    let named = b"\x05\0\0\x03\x02ab\0\0";
    assert!(matches!(talk("ws://10.0.0.1/", None, &[hello, (four, named)]), ProxyOutcome::Open(_)));
    let six = b"\x05\x01\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x07";
    let long = b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x07";
    assert!(matches!(talk("ws://[::1]:7/", None, &[hello, (six, long)]), ProxyOutcome::Open(_)));
    // A user and a password, asked for or not.
    let offer: &[u8] = b"\x05\x02\0\x02";
    let words: &[u8] = b"\x01\x01u\x02pw";
    let said: [(&[u8], &[u8]); 3] = [(offer, b"\x05\x02"), (words, b"\x01\0"), (name, open)];
    assert!(matches!(talk("wss://h/", Some(&login), &said), ProxyOutcome::Open(_)));
    let said: [(&[u8], &[u8]); 2] = [(offer, b"\x05\0"), (name, open)];
    assert!(matches!(talk("wss://h/", Some(&login), &said), ProxyOutcome::Open(_)));
    // Refusals.
    let refused = |outcome| match outcome {
        ProxyOutcome::Failed(error) => error.to_string(),
        outcome => panic!("{outcome:?}"),
    };
    let said: [(&[u8], &[u8]); 2] = [(offer, b"\x05\x02"), (words, b"\x01\x01")];
    assert!(refused(talk("wss://h/", Some(&login), &said)).contains("user or the password"));
    let said: [(&[u8], &[u8]); 1] = [(b"\x05\x01\0", b"\x05\xff")];
    assert!(refused(talk("wss://h/", None, &said)).contains("another way to log in"));
    let said: [(&[u8], &[u8]); 1] = [(b"\x05\x01\0", b"HT")];
    assert!(refused(talk("wss://h/", None, &said)).contains("no SOCKS 5"));
    let failed = |reply: &[u8]| refused(talk("wss://h/", None, &[hello, (name, reply)]));
    assert!(failed(b"\x05\x05\0\x01\0").contains("refused its connection"));
    assert!(failed(b"\x05\0\0\x09\0").contains("malformed"));
    assert!(failed(b"\x05\0\0").contains("ended"));
    // What came through the tunnel already is kept; a token is no login; a name has its limit.
    let (target, _) = Target::parse("wss://h/").expect("an address");
    let options = ProxyOptions { kind: ProxyKind::Socks5, ..ProxyOptions::default() };
    let mut tunnel = ProxyTunnel::new(&options, &target, now).expect("valid");
    tunnel.handle_input(now, BytesMut::from(&b"\x05\0"[..]));
    tunnel.handle_input(now, BytesMut::from(&[&open[..], b"\x16\x03"].concat()[..]));
    assert!(
        matches!(tunnel.poll_outcome(), Some(ProxyOutcome::Open(rest)) if &rest[..] == b"\x16\x03")
    );
    let token = ProxyOptions { credentials: Some(Credentials::Bearer("t".into())), ..options };
    assert!(ProxyTunnel::new(&token, &target, now).is_err());
}

#[test]
fn case_2_an_answer_that_never_comes() {
    let (_, mut handshake, now) = begin("ws://h/", ClientOptions::default());
    assert_eq!(handshake.poll_timeout(), Some(now + Duration::from_secs(15)));
    handshake.handle_timeout(now + Duration::from_secs(14));
    assert!(handshake.poll_outcome().is_none());
    handshake.handle_timeout(now + Duration::from_secs(15));
    assert!(matches!(
        handshake.poll_outcome(),
        Some(ClientOutcome::Failed(HandshakeError::Timeout))
    ));
    // An answer after that is ignored.
    handshake.handle_input(now, BytesMut::from("HTTP/1.1 101 OK\r\n\r\n"));
    assert!(handshake.poll_outcome().is_none() && handshake.poll_timeout().is_none());
}

#[test]
fn case_96_heads_of_a_server_within_limits() {
    let options = ClientOptions { max_head: 1000, max_headers: 5, ..ClientOptions::default() };
    assert_eq!(
        failure(options.clone(), &good(&format!("X: {}\n", "y".repeat(1000)))),
        HandshakeError::HeadTooLarge
    );
    assert_eq!(
        failure(options.clone(), &"x".repeat(1000)),
        HandshakeError::HeadTooLarge,
        "without an end"
    );
    assert_eq!(
        failure(options.clone(), &good("A: 1\nB: 1\nC: 1\n")),
        HandshakeError::HeadTooLarge,
        "too many headers"
    );
    assert_eq!(failure(options.clone(), "HTTP/1.1 abc\n\n"), HandshakeError::Malformed);
    assert_eq!(failure(options.clone(), "HTTP/2 200\n\n"), HandshakeError::Malformed);
    assert_eq!(failure(options, "HTTP/1.1 101 OK\n"), HandshakeError::Ended);
}

#[test]
fn case_96_nothing_can_be_injected_through_options() {
    let mut headers = Headers::new();
    for (name, value) in [
        ("X\r\nY", "z"),
        ("X", "a\r\nInjected: b"),
        ("X", "a\nb"),
        ("X", "a\0b"),
        ("", "x"),
        ("X Y", "z"),
        ("X:", "y"),
        ("X", " leading"),
    ] {
        assert!(headers.push(name, value).is_err(), "{name:?}: {value:?}");
    }
    assert_eq!(headers, Headers::new());
    for own in ["Host", "sec-websocket-key", "Connection", "Transfer-Encoding"] {
        let mut headers = Headers::new();
        headers.push(own, "x").expect("a valid line");
        let options = ClientOptions { headers, ..ClientOptions::default() };
        assert_eq!(options.validate().map_err(|error| error.name), Err(own.to_owned()));
    }
    for names in [&["a b"][..], &["a,b"], &["a", "a"], &[""]] {
        assert!(protocols(names).validate().is_err(), "{names:?}");
    }
    let agent = ClientOptions { user_agent: "x\r\nY: z".into(), ..ClientOptions::default() };
    assert!(agent.validate().is_err());
}

// ---- server ----

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request(lines: &[&str]) -> String {
    let mut out = lines.join("\r\n");
    out.push_str("\r\n\r\n");
    out
}

fn upgrade() -> Vec<&'static str> {
    vec![
        "GET /chat?room=1 HTTP/1.1",
        "Host: server.example.com",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
}

fn server(options: ServerOptions) -> (ServerHandshake, Instant) {
    let now = Instant::now();
    (ServerHandshake::new(Arc::new(options), now), now)
}

fn answer_of(handshake: &mut ServerHandshake) -> String {
    let mut out = Vec::new();
    handshake.poll_transmit(&mut out);
    String::from_utf8(out.concat()).expect("ascii")
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The answer to a request that must be refused.
fn refused(options: ServerOptions, bytes: &str) -> String {
    let (mut handshake, now) = server(options);
    handshake.handle_input(now, BytesMut::from(bytes.as_bytes()));
    let Some(ServerEvent::Failed(error)) = handshake.poll_event() else {
        panic!("not refused: {bytes}")
    };
    let answer = answer_of(&mut handshake);
    assert_eq!(error, HandshakeError::Refused(status_of(&answer)));
    assert!(answer.contains("\r\nConnection: close\r\n"));
    answer
}

fn with(position: usize, line: &'static str) -> String {
    let mut lines = upgrade();
    lines[position] = line;
    request(&lines)
}

fn accepted(options: ServerOptions, bytes: &str) -> (Request, Opened, String) {
    let (mut handshake, now) = server(options);
    handshake.handle_input(now, BytesMut::from(bytes.as_bytes()));
    let Some(ServerEvent::Request(request)) = handshake.poll_event() else {
        panic!("not a request: {bytes}")
    };
    let opened = handshake.accept(Acceptance::default()).expect("valid").expect("a request");
    let answer = answer_of(&mut handshake);
    (request, opened, answer)
}

#[test]
fn a_server_accepts_as_the_standard_says() {
    let (request, opened, answer) = accepted(ServerOptions::default(), &request(&upgrade()));
    assert_eq!((request.path.as_str(), request.query.as_deref()), ("/chat", Some("room=1")));
    assert_eq!(request.host, "server.example.com");
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && answer.ends_with("\r\n\r\n")
    );
    assert_eq!(header(&answer, "Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(opened.subprotocol.is_none() && opened.compression.is_none());
}

#[test]
fn case_99_other_requests_get_a_proper_answer() {
    let options = ServerOptions::default;
    let version = refused(options(), &with(5, "Sec-WebSocket-Version: 8"));
    assert_eq!((status_of(&version), header(&version, "Sec-WebSocket-Version")), (426, Some("13")));
    let plain = refused(options(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((status_of(&plain), header(&plain, "Upgrade")), (426, Some("websocket")));
    let post = refused(options(), &with(0, "POST / HTTP/1.1"));
    assert_eq!((status_of(&post), header(&post, "Allow")), (405, Some("GET")));
    let head = refused(options(), "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(
        status_of(&head) == 405 && head.ends_with("\r\n\r\n"),
        "no body behind an answer to HEAD"
    );
    for (bytes, status) in [
        (with(4, "Sec-WebSocket-Key: c2hvcnQ="), 400),
        (with(4, "Sec-WebSocket-Key: not base64 at all!!!!!!"), 400),
        (with(4, "X: y"), 400),
        (with(1, "X: y"), 400),
        (with(1, "Host: a\r\nHost: b"), 400),
        (with(2, "Upgrade: h2c"), 426),
        (with(3, "Connection: close"), 426),
        (with(0, "GET / HTTP/1.0"), 505),
        (with(0, "GET ftp://h/ HTTP/1.1"), 400),
        (with(0, "GET /# HTTP/1.1"), 400),
        (with(0, "GET * HTTP/1.1"), 400),
        (with(1, "Host: h\r\nContent-Length: 5"), 400),
        (with(1, "Host: h\r\nTransfer-Encoding: chunked"), 400),
        (with(1, "Host: h\r\nBad Name: x"), 400),
        (with(1, "Host: h\r\n folded: x"), 400),
        (request(&upgrade()).replacen("\r\n", "\n", 1), 400),
        ("\x16\x03\x01\x02\0\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(status_of(&refused(options(), &bytes)), status, "{bytes}");
    }
    let absolute = accepted(options(), &with(0, "GET http://server.example.com/chat HTTP/1.1"));
    assert_eq!(absolute.0.path, "/chat");
}

#[test]
fn case_99_a_route_that_does_not_exist_is_404_and_the_application_decides() {
    let (mut handshake, now) = server(ServerOptions::default());
    handshake.handle_input(now, BytesMut::from(request(&upgrade()).as_bytes()));
    assert!(matches!(handshake.poll_event(), Some(ServerEvent::Request(_))));
    assert_eq!(handshake.poll_timeout(), None, "the decision may take its time");
    handshake.refuse(Refusal::new(404, "no such room\n"));
    let answer = answer_of(&mut handshake);
    assert_eq!((status_of(&answer), header(&answer, "Content-Length")), (404, Some("13")));
    assert!(matches!(
        handshake.poll_event(),
        Some(ServerEvent::Failed(HandshakeError::Refused(404)))
    ));
    assert!(
        handshake.accept(Acceptance::default()).is_ok_and(|opened| opened.is_none()),
        "too late"
    );
}

#[test]
fn case_96_heads_of_a_client_within_limits() {
    let options = || ServerOptions { max_head: 2000, max_headers: 10, ..ServerOptions::default() };
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "y".repeat(2000));
    assert_eq!(status_of(&refused(options(), &long)), 431);
    assert_eq!(
        status_of(&refused(options(), &"GET / HTTP/1.1\r\nX: y\r\n".repeat(100))),
        431,
        "without an end"
    );
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(11));
    assert_eq!(status_of(&refused(options(), &many)), 431);
}

#[test]
fn case_96_a_slow_head_is_408_whatever_trickles_in() {
    let (mut handshake, start) = server(ServerOptions::default());
    let bytes = request(&upgrade());
    for (second, byte) in bytes.bytes().take(9).enumerate() {
        let now = start + Duration::from_secs(second as u64);
        handshake.handle_input(now, BytesMut::from(&[byte][..]));
        handshake.handle_timeout(now);
        assert_eq!(handshake.poll_timeout(), Some(start + Duration::from_secs(10)));
    }
    handshake.handle_timeout(start + Duration::from_secs(10));
    assert!(matches!(handshake.poll_event(), Some(ServerEvent::Failed(HandshakeError::Timeout))));
    assert_eq!(status_of(&answer_of(&mut handshake)), 408);
    // Whoever says nothing at all gets nothing.
    let (mut handshake, start) = server(ServerOptions::default());
    handshake.handle_timeout(start + Duration::from_secs(10));
    assert!(answer_of(&mut handshake).is_empty());
    let (mut handshake, now) = server(ServerOptions::default());
    handshake.handle_input(now, BytesMut::from("GET / HT"));
    handshake.handle_eof(now);
    assert!(matches!(handshake.poll_event(), Some(ServerEvent::Failed(HandshakeError::Ended))));
}

#[test]
fn origins_are_checked() {
    let options = || ServerOptions {
        origins: Some(vec!["https://good.example".into()]),
        ..ServerOptions::default()
    };
    let from = |origin: &'static str| with(1, origin);
    assert_eq!(
        status_of(&refused(options(), &from("Host: h\r\nOrigin: https://evil.example"))),
        403
    );
    assert_eq!(status_of(&refused(options(), &from("Host: h\r\nOrigin: null"))), 403);
    assert_eq!(
        status_of(&refused(options(), &from("Host: h\r\nOrigin: https://good.example.evil"))),
        403
    );
    let (request, ..) = accepted(options(), &from("Host: h\r\nOrigin: https://good.example"));
    assert_eq!(request.origin.as_deref(), Some("https://good.example"));
    accepted(options(), &from("Host: h"));
}

#[test]
fn case_91_a_server_chooses_among_what_the_client_asks_for() {
    let options = |ours: &[&str], require_subprotocol| ServerOptions {
        subprotocols: ours.iter().map(|&name| name.to_owned()).collect(),
        require_subprotocol,
        ..ServerOptions::default()
    };
    let ask =
        || with(1, "Host: h\r\nSec-WebSocket-Protocol: foobar, b\r\nSec-WebSocket-Protocol: a");
    assert_eq!(
        accepted(options(&["a", "b", "foo"], true), &ask()).1.subprotocol.as_deref(),
        Some("b")
    );
    let (_, opened, answer) = accepted(options(&["foo", "B"], false), &ask());
    assert!(opened.subprotocol.is_none() && header(&answer, "Sec-WebSocket-Protocol").is_none());
    assert_eq!(status_of(&refused(options(&["foo"], true), &ask())), 400);
    let (mut handshake, now) = server(options(&["a"], false));
    handshake.handle_input(now, BytesMut::from(ask().as_bytes()));
    assert!(matches!(handshake.poll_event(), Some(ServerEvent::Request(_))));
    let choose =
        |name: &str| Acceptance { subprotocol: Some(name.into()), headers: Headers::new() };
    assert!(handshake.accept(choose("other")).is_err());
    let mut headers = Headers::new();
    headers.push("Sec-WebSocket-Accept", "mine").expect("a valid line");
    assert!(handshake.accept(Acceptance { subprotocol: None, headers }).is_err());
    let opened =
        handshake.accept(choose("foobar")).expect("one of the client's").expect("still a request");
    assert_eq!(opened.subprotocol.as_deref(), Some("foobar"));
}

#[test]
fn a_client_and_a_server_of_ours_find_each_other() {
    for deflate in [None, Some(DeflateConfig::default())] {
        let now = Instant::now();
        let client_options =
            ClientOptions { deflate: deflate.clone(), ..protocols(&["towline.1"]) };
        let (_, mut client, _) = begin("ws://h/path", client_options);
        let (mut server, _) = server(ServerOptions {
            subprotocols: vec!["towline.1".into()],
            deflate: deflate.clone(),
            ..ServerOptions::default()
        });
        let mut out = Vec::new();
        client.poll_transmit(&mut out);
        server.handle_input(now, BytesMut::from(out.remove(0)));
        assert!(
            matches!(server.poll_event(), Some(ServerEvent::Request(request)) if request.path == "/path")
        );
        let server_end = server.accept(Acceptance::default()).expect("valid").expect("a request");
        server.poll_transmit(&mut out);
        client.handle_input(now, BytesMut::from(out.remove(0)));
        let Some(ClientOutcome::Open(client_end)) = client.poll_outcome() else {
            panic!("not open")
        };
        for opened in [&client_end, &server_end] {
            assert_eq!(opened.subprotocol.as_deref(), Some("towline.1"));
            assert_eq!(opened.compression.is_some(), deflate.is_some());
        }
        assert_eq!(client_end.compression, server_end.compression);
        let config = Arc::new(quiet());
        let mut client = client_end.into_connection(config.clone(), entropy(1), now);
        let mut server = server_end.into_connection(config, entropy(2), now);
        client.send_text(&"hello ".repeat(100)).expect("sent");
        let bytes = written(&mut client, now);
        assert_eq!(bytes.len() < 100, deflate.is_some());
        feed(&mut server, now, &bytes);
        assert_eq!(
            messages(&events(&mut server)),
            [(Kind::Text, "hello ".repeat(100).into_bytes())]
        );
    }
    assert_eq!(accept_key(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn data_before_the_answer_is_kept_within_the_limit() {
    let (mut handshake, now) = server(ServerOptions { max_head: 1000, ..ServerOptions::default() });
    handshake.handle_input(now, BytesMut::from(request(&upgrade()).as_bytes()));
    assert!(matches!(handshake.poll_event(), Some(ServerEvent::Request(_))));
    handshake.handle_input(
        now,
        BytesMut::from(&frame_to(Role::Server, true, frame::OpCode::Text, b"early")[..]),
    );
    handshake.handle_input(now, BytesMut::from(&[0; 2000][..]));
    assert!(matches!(
        handshake.poll_event(),
        Some(ServerEvent::Failed(HandshakeError::Refused(400)))
    ));
}
