//! Sessions over `bats://`: direct and through relays, which may stop, refuse, and be others than expected.
#![cfg(feature = "bats")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use towline::bats::{
    Ended, FlowError, HopEnd, Pattern, RefusalKind, Relay, RelayBuilder, RelaySettings,
};
use towline::{
    Address, Config, ConfigBuilder, ConnectError, Connection, Context, Endpoint, Event, Handler,
    ListenError, Listener, Message, WireError,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate and its key, PEM.
#[derive(Clone)]
struct Identity(String, String);

impl Identity {
    fn new(names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        Identity(params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn local() -> Identity {
        Identity::new(&["localhost", "127.0.0.1"])
    }

    /// Shows it and trusts it.
    fn config(&self) -> ConfigBuilder {
        Config::builder()
            .certificate_pem(self.0.clone(), self.1.clone())
            .ca_pem(self.0.clone())
            // A busy machine is no lost wire: relays that stop say so.
            .silence_limit(Duration::from_secs(20))
    }

    fn relay(&self, at: &str, allow: &[Pattern]) -> Relay {
        let config = self.config().build().unwrap();
        let settings = RelaySettings { allow: allow.to_vec(), ..RelaySettings::default() };
        RelayBuilder::new(&config, &config, settings).start(at, |_| {}).unwrap()
    }
}

fn any() -> [Pattern; 1] {
    [Pattern::ANY]
}

fn endpoint(config: &Config) -> (Context, Endpoint) {
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = Endpoint::new(&context, config);
    (context, endpoint)
}

/// Answers each message with itself.
fn echo(endpoint: &Endpoint, on: &str) -> Listener {
    endpoint
        .listen_with(on, |_: &Connection| {
            |connection: &Connection, message: Message| {
                connection.try_send(Message::reply_to(&message, message.data.clone())).unwrap();
            }
        })
        .unwrap()
}

/// The listener's address by way of these relays.
fn through(listener: &Listener, relays: &[SocketAddr]) -> String {
    let relays: Vec<String> = relays.iter().map(ToString::to_string).collect();
    format!("{}?via={}", listener.url(), relays.join(","))
}

fn failure(result: Result<Connection, ConnectError>) -> WireError {
    match result {
        Err(ConnectError::Wire { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

fn refusal(error: &WireError) -> RefusalKind {
    match error {
        WireError::Bats(flow) => match &**flow {
            FlowError::Ended(Ended::Refused { kind, .. }) => *kind,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_echo_over_one_hop_of_coded_packets() {
    let (_context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    let listener = echo(&endpoint, "bats://127.0.0.1:0");
    assert!(listener.url().to_string().starts_with("bats://127.0.0.1:"));
    for host in ["127.0.0.1", "localhost"] {
        let to = format!("bats://{host}:{}", listener.local_address().port());
        let connection = endpoint.connect_blocking(&to).unwrap();
        for size in [0, 1, 1000, 300_000] {
            let reply = connection.request_blocking(vec![7; size], PATIENCE).unwrap();
            assert_eq!(reply.data, vec![7; size]);
        }
        let capabilities = connection.capabilities();
        assert!(capabilities.session && capabilities.encrypted && capabilities.requests);
        assert!(connection.tls().is_some(), "the far end has proven itself");
        let stats = connection.flow_stats().unwrap();
        assert!(stats.accepted_bytes > 300_000 && stats.packets_sent > 200, "{stats:?}");
        connection.close_blocking().unwrap();
    }
}

/// Sends numbered messages both ways, and checks that all arrive, in order, once.
fn transfer(to: &str, endpoint: &Endpoint, listener: &Listener, messages: u32, size: usize) {
    let client = endpoint.connect_blocking(to).unwrap();
    let server = listener.accept_blocking().unwrap();
    std::thread::scope(|scope| {
        for connection in [&client, &server] {
            scope.spawn(move || {
                for number in 0..messages {
                    let mut data = vec![number as u8; size];
                    data[..4].copy_from_slice(&number.to_be_bytes());
                    connection.send_blocking(data).unwrap();
                }
                connection.flush_blocking().unwrap();
            });
            scope.spawn(move || {
                for number in 0..messages {
                    let message = connection.recv_blocking().unwrap();
                    assert_eq!(message.data.len(), size);
                    assert_eq!(message.data[..4], number.to_be_bytes(), "in order, once");
                    assert!(message.data[4..].iter().all(|&byte| byte == number as u8));
                }
            });
        }
    });
    client.close_blocking().unwrap();
}

#[test]
fn megabytes_pass_both_ways_at_once() {
    let (_context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    for mode in ["brtp", "brctp"] {
        let listener = endpoint.listen(format!("bats://127.0.0.1:0?mode={mode}")).unwrap();
        transfer(&listener.url().to_string(), &endpoint, &listener, 50, 100_000);
    }
}

#[test]
fn a_rateless_flow_carries_messages_of_every_size_through_a_relay() {
    let identity = Identity::local();
    let relay = identity.relay("127.0.0.1:0", &any());
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    let listener = endpoint.listen("bats://127.0.0.1:0?mode=brctp").unwrap();
    let to = format!("{}&via={}", listener.url(), relay.local_address());
    let client = endpoint.connect_blocking(&to).unwrap();
    let server = listener.accept_blocking().unwrap();
    assert_eq!(client.wire().to_string(), "brctp");
    let capabilities = client.capabilities();
    assert!(!capabilities.session && capabilities.encrypted && !capabilities.requests);
    for size in [0, 1, 1_400, 3_000_000] {
        client.send_blocking(vec![9; size]).unwrap();
        // What is flushed is what the receiver has said that it has.
        client.flush_blocking().unwrap();
        assert_eq!(client.stats().unacknowledged, 0);
        assert_eq!(server.recv_blocking().unwrap().data, vec![9; size]);
    }
    assert!(relay.totals().unwrap().packets[0].forwarded > 2_000);
    relay.stop(Duration::ZERO).unwrap();
    let error = loop {
        if let Err(error) = client.send_blocking(vec![8; 100]) {
            break error;
        }
    };
    assert!(error.to_string().contains("relay"), "{error}");
}

#[test]
fn two_relays_carry_what_they_cannot_read_and_the_far_end_proves_itself_through_them() {
    let (far, near) = (Identity::local(), Identity::local());
    // The relays trust the server's certificate; the client trusts both.
    let relay = |own: &Identity| {
        let server = own.config().build().unwrap();
        let client = Config::builder().ca_pem(format!("{}{}", far.0, near.0)).build().unwrap();
        let settings = RelaySettings { allow: any().to_vec(), ..RelaySettings::default() };
        RelayBuilder::new(&server, &client, settings).start("127.0.0.1:0", |_| {}).unwrap()
    };
    let relays = [relay(&near), relay(&near)];
    let via = relays.each_ref().map(Relay::local_address);
    let (_context, server) = endpoint(&far.config().build().unwrap());
    let listener = server.listen("bats://127.0.0.1:0").unwrap();
    let trusts = near.config().ca_pem(far.0.clone()).build().unwrap();
    let (_context, client) = endpoint(&trusts);
    transfer(&through(&listener, &via), &client, &listener, 20, 50_000);
    for relay in &relays {
        let totals = relay.totals().unwrap();
        assert_eq!(totals.opened, 1);
        assert!(totals.packets[0].forwarded > 700 && totals.packets[1].forwarded > 700);
    }
    // One that trusts the relays only is not deceived by them.
    let (_context, careful) = endpoint(&near.config().build().unwrap());
    let error = failure(careful.connect_blocking(through(&listener, &via)));
    assert!(!error.can_retry(), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// Tells of disconnections and returns.
struct Watch(mpsc::Sender<&'static str>);

impl Handler for Watch {
    fn event(&mut self, _: &Connection, event: Event) {
        match event {
            Event::Disconnected(_) => drop(self.0.send("lost")),
            Event::Connected(connected) if connected.resumed => drop(self.0.send("resumed")),
            _ => {}
        }
    }
}

#[test]
fn a_relay_that_stops_and_comes_back_loses_and_repeats_nothing() {
    let identity = Identity::local();
    let relay = identity.relay("127.0.0.1:0", &any());
    let at = relay.local_address();
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    let listener = endpoint.listen("bats://127.0.0.1:0").unwrap();
    let (tell, told) = mpsc::channel();
    let to = through(&listener, &[at]);
    let client = futures_executor::block_on(endpoint.connect_with(to, Watch(tell))).unwrap();
    let server = listener.accept_blocking().unwrap();
    let messages = 200u32;
    let mut restarted = None;
    std::thread::scope(|scope| {
        let client = &client;
        scope.spawn(move || {
            for number in 0..messages {
                let mut data = vec![0; 10_000];
                data[..4].copy_from_slice(&number.to_be_bytes());
                client.send_blocking(data).unwrap();
            }
            client.flush_blocking().unwrap();
        });
        let mut relay = Some(relay);
        for number in 0..messages {
            let message = server.recv_blocking().unwrap();
            assert_eq!(message.data[..4], number.to_be_bytes(), "in order, once");
            if number == 20 {
                relay.take().unwrap().stop(Duration::ZERO).unwrap();
                assert_eq!(told.recv_timeout(PATIENCE), Ok("lost"));
                restarted = Some(identity.relay(&at.to_string(), &any()));
            }
        }
    });
    assert_eq!(restarted.as_ref().unwrap().totals().unwrap().opened, 1);
    assert_eq!(told.recv_timeout(PATIENCE), Ok("resumed"));
    client.close_blocking().unwrap();
}

#[test]
fn relays_that_refuse_are_named_with_what_to_do() {
    let identity = Identity::local();
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    let listener = echo(&endpoint, "bats://127.0.0.1:0");
    let strict = identity.relay("127.0.0.1:0", &["10.0.0.0/8:*".parse().unwrap()]);
    let error = failure(endpoint.connect_blocking(through(&listener, &[strict.local_address()])));
    assert_eq!(refusal(&error), RefusalKind::NotAllowed);
    assert!(error.to_string().contains("--allow") && !error.can_retry(), "{error}");
    // A server in the place of a relay.
    let error = failure(endpoint.connect_blocking(through(&listener, &[listener.local_address()])));
    assert_eq!(refusal(&error), RefusalKind::NotARelay);
    assert!(error.to_string().contains("via"), "{error}");
    // A relay in the place of a server, which knows no way from there.
    let open = identity.relay("127.0.0.1:0", &any());
    let error = failure(endpoint.connect_blocking(format!("bats://{}", open.local_address())));
    assert_eq!(refusal(&error), RefusalKind::BadRoute);
    let missing = format!("bats://nowhere.invalid:1?via={}", open.local_address());
    let error = failure(endpoint.connect_blocking(missing));
    assert_eq!(refusal(&error), RefusalKind::Unreachable);
    assert!(error.to_string().contains("nowhere.invalid") && error.can_retry(), "{error}");
}

#[test]
fn what_is_wrong_with_the_peer_is_said() {
    let identity = Identity::local();
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    let listener = echo(&endpoint, "bats://127.0.0.1:0");
    // A certificate that nobody vouches for, and the wrong name.
    let (_other, stranger) = self::endpoint(&Identity::local().config().build().unwrap());
    let error = failure(stranger.connect_blocking(listener.url()));
    assert!(error.to_string().contains("ca_file"), "{error}");
    let named = identity.config().server_name("example.org").build().unwrap();
    let (_other, named) = self::endpoint(&named);
    let error = failure(named.connect_blocking(listener.url()));
    assert!(error.to_string().contains("server_name"), "{error}");
    // Another protocol over QUIC.
    let quic = echo(&endpoint, "quic://127.0.0.1:0");
    let to = format!("bats://{}", quic.local_address());
    let error = failure(endpoint.connect_blocking(to));
    assert!(error.to_string().contains("towline-bats/1"), "{error}");
    // A name that stands for nothing.
    let error = failure(endpoint.connect_blocking("bats://nowhere.invalid:1"));
    assert!(matches!(error, WireError::Resolve { .. }), "{error}");
}

#[test]
fn a_peer_that_is_not_there_is_given_up_in_time() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = Identity::local().config().connect_timeout(Duration::from_millis(300));
    let (_context, endpoint) = endpoint(&config.build().unwrap());
    let to = format!("bats://{}", socket.local_addr().unwrap());
    let error = failure(endpoint.connect_blocking(to));
    let silent = match &error {
        WireError::TimedOut(_) => true,
        WireError::Bats(flow) => matches!(
            &**flow,
            FlowError::Ended(Ended::ConnectTimeout | Ended::Hop(HopEnd::Transport(_)))
        ),
        _ => false,
    };
    assert!(silent && error.can_retry(), "{error:?}");
}

#[test]
fn listeners_need_a_certificate_and_say_only_what_is_theirs() {
    let (_context, bare) = endpoint(&Config::default());
    let error = bare.listen("bats://127.0.0.1:0").unwrap_err();
    assert!(matches!(error, ListenError::NoCertificate { .. }), "{error:?}");
    let (_context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    let error = endpoint.listen("bats://127.0.0.1:0?via=127.0.0.1:1").unwrap_err();
    assert!(error.to_string().contains("via"), "{error}");
    let taken = endpoint.listen("bats://127.0.0.1:0").unwrap();
    let error = endpoint.listen(taken.url()).unwrap_err();
    assert!(matches!(error, ListenError::Io { .. }), "{error:?}");
    let address: Address = taken.url();
    drop(taken);
    drop(address);
}

#[test]
fn messages_over_the_limit_are_refused_before_they_are_sent() {
    let config = Identity::local().config().max_message(64 << 10).build().unwrap();
    let (_context, endpoint) = endpoint(&config);
    let listener = echo(&endpoint, "bats://127.0.0.1:0");
    let connection = endpoint.connect_blocking(listener.url()).unwrap();
    let error = connection.send_blocking(vec![0; 70_000]).unwrap_err();
    assert!(error.to_string().contains("65536"), "{error}");
    assert!(connection.request_blocking("still there", PATIENCE).is_ok());
}

/// Two ends of a wire of messages.
fn datagrams(on: &str) -> (Context, Listener, Connection, Connection) {
    let (context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    let listener = endpoint.listen(on).unwrap();
    let client = endpoint.connect_blocking(listener.url()).unwrap();
    if on.starts_with("udp") {
        // A peer shows by its first datagram.
        client.send_blocking("hello").unwrap();
    }
    let server = listener.accept_blocking().unwrap();
    if on.starts_with("udp") {
        assert_eq!(server.recv_blocking().unwrap().data, "hello");
    }
    (context, listener, client, server)
}

#[test]
fn datagrams_are_messages_with_the_wire_s_own_limits() {
    for (on, limit) in [("udp://127.0.0.1:0", 65_507), ("bats://127.0.0.1:0?mode=btp", 300_000)] {
        let (_context, listener, client, server) = datagrams(on);
        for size in [0, 1, 1400, 20_000, 65_000] {
            client.send_blocking(vec![size as u8; size]).unwrap();
            client.flush_blocking().unwrap();
            let message = server.recv_blocking().unwrap();
            assert_eq!(message.data, vec![size as u8; size], "{on}");
            server.send_blocking(message.data).unwrap();
            assert_eq!(client.recv_blocking().unwrap().data.len(), size);
        }
        let capabilities = client.capabilities();
        assert!(!capabilities.session && !capabilities.requests);
        let most = capabilities.max_message;
        assert!(most == limit || on.starts_with("bats") && most > limit, "{on}: {most}");
        let error = client.send_blocking(vec![0; most + 1]).unwrap_err();
        assert!(error.to_string().contains(&most.to_string()), "{error}");
        let (local, peer) = (client.local_address().unwrap(), client.peer_address().unwrap());
        assert_eq!((peer, local.ip()), (listener.local_address(), peer.ip()));
        assert_eq!(server.peer_address(), Some(local));
        let stats = client.flow_stats().unwrap();
        assert!(stats.messages_sent >= 5 && stats.delivered_bytes > 80_000, "{on}: {stats:?}");
        client.close_blocking().unwrap();
    }
}

#[test]
fn the_end_of_a_coded_flow_of_messages_is_told() {
    let (_context, _listener, client, server) = datagrams("bats://127.0.0.1:0?mode=btp");
    client.close_blocking().unwrap();
    let ended = server.recv_blocking().unwrap_err();
    assert!(ended.to_string().contains("closed the connection"), "{ended}");
}

#[test]
fn each_source_address_is_a_connection_until_it_is_silent() {
    let silence = Duration::from_millis(400);
    let config = Config::builder().keep_alive(silence / 4).silence_limit(silence);
    let (_context, endpoint) = endpoint(&config.build().unwrap());
    let listener = endpoint.listen("udp://127.0.0.1:0").unwrap();
    let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    plain.send_to(b"from a stranger", listener.local_address()).unwrap();
    let stranger = listener.accept_blocking().unwrap();
    assert_eq!(stranger.recv_blocking().unwrap().data, "from a stranger");
    stranger.send_blocking("as it is").unwrap();
    let mut buffer = [0; 100];
    let (length, from) = plain.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"as it is"[..], listener.local_address()));
    let client = endpoint.connect_blocking(listener.url()).unwrap();
    client.send_blocking("another").unwrap();
    let other = listener.accept_blocking().unwrap();
    assert_eq!(other.recv_blocking().unwrap().data, "another");
    let ended = stranger.recv_blocking().unwrap_err();
    assert!(ended.to_string().contains("too long"), "{ended}");
}

#[test]
fn every_congestion_control_carries_messages() {
    let (_context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    for control in ["coded", "bbr3", "cubic", "fixed:50M"] {
        let listener = endpoint.listen(format!("bats://127.0.0.1:0?control={control}")).unwrap();
        let to = format!("bats://{}?control={control}", listener.local_address());
        transfer(&to, &endpoint, &listener, 5, 50_000);
    }
}

#[test]
fn what_is_to_be_compressed_is_and_passes_relays_sealed() {
    let identity = Identity::local();
    let relay = identity.relay("127.0.0.1:0", &any());
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    for mode in ["brtp", "brctp", "btp"] {
        let on = format!("bats://127.0.0.1:0?mode={mode}&compress=on");
        let listener = endpoint.listen(&on).unwrap();
        let to = format!("{}&via={}", listener.url(), relay.local_address());
        let client = endpoint.connect_blocking(&to).unwrap();
        let server = listener.accept_blocking().unwrap();
        for connection in [(&client, &server), (&server, &client)] {
            connection.0.send_blocking(vec![5; 9_000]).unwrap();
            assert_eq!(connection.1.recv_blocking().unwrap().data, vec![5; 9_000]);
            let stats = connection.0.flow_stats().unwrap();
            assert!(stats.saved_bytes > 8_500, "{mode}: {stats:?}");
        }
        client.close_blocking().unwrap();
    }
}

#[test]
fn a_listener_says_which_mode_it_serves() {
    let (_context, endpoint) = endpoint(&Identity::local().config().build().unwrap());
    for (mode, other) in [("btp", "brtp"), ("brctp", "btp"), ("brtp", "brctp")] {
        let listener = endpoint.listen(format!("bats://127.0.0.1:0?mode={mode}")).unwrap();
        let to = format!("bats://{}?mode={other}", listener.local_address());
        let error = failure(endpoint.connect_blocking(to));
        assert_eq!(refusal(&error), RefusalKind::OtherMode);
        assert!(error.to_string().contains(&format!("mode {mode}")), "{error}");
        assert!(!error.can_retry(), "{error}");
    }
}

#[test]
fn messages_pass_relays_coded_and_sealed() {
    let identity = Identity::local();
    let relay = identity.relay("127.0.0.1:0", &any());
    let (_context, endpoint) = endpoint(&identity.config().build().unwrap());
    let listener = endpoint.listen("bats://127.0.0.1:0?mode=btp").unwrap();
    let to = format!("{}&via={}", listener.url(), relay.local_address());
    let client = endpoint.connect_blocking(&to).unwrap();
    let server = listener.accept_blocking().unwrap();
    for number in 0..50u8 {
        client.send_blocking(vec![number; 2000]).unwrap();
        assert_eq!(server.recv_blocking().unwrap().data, vec![number; 2000]);
    }
    assert!(client.tls().is_none(), "what is known is the relay's certificate");
    client.close_blocking().unwrap();
}
