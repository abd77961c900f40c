//! Flush, close, abort and the end of a context always return, in every state.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

mod common;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use common::proxy::{BlackHole, Cut, Proxy};
use common::{
    PATIENCE, Recorder, Side, block_on, each_driver, eventually, everywhere, in_time, ms, quick,
};
use towline::{
    Config, ConnectError, Connection, Context, Ended, Event, FlushError, Handler, ListenError,
    Message, RecvError, SendError, TrySendError,
};

fn config() -> Config {
    quick().close_timeout(ms(700)).build().unwrap()
}

/// Above the close timeout, whatever else the machine does.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

#[test]
fn a_close_delivers_everything_and_tells_the_peer_why() {
    everywhere(|side| {
        let pair = side.pair(&quick().close_timeout(PATIENCE).build().unwrap());
        for i in 0..1000u32 {
            pair.client.send_blocking(i.to_le_bytes().to_vec()).unwrap();
            pair.server.send_blocking(i.to_le_bytes().to_vec()).unwrap();
        }
        let client = pair.client.clone();
        in_time("close", SOON, move || block_on(client.close_with(4242, "enough")).unwrap());
        for connection in [&pair.server, &pair.client] {
            for i in 0..1000u32 {
                assert_eq!(connection.recv_blocking().unwrap().data, i.to_le_bytes()[..]);
            }
        }
        match pair.server.recv_blocking() {
            Err(RecvError::Ended(Ended::ByPeer { code: 4242, reason })) => {
                assert_eq!(&*reason, "enough");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(pair.client.ended(), Some(Ended::Closed)));
        assert!(matches!(pair.server.try_send("x"), Err(TrySendError::Failed { .. })));
        assert!(matches!(
            pair.server.send_blocking("x"),
            Err(SendError::Ended(Ended::ByPeer { code: 4242, .. }))
        ));
        assert_eq!(pair.server.close_blocking().ok(), Some(()), "nothing was lost");
        pair.client.flush_blocking().unwrap();
    });
}

#[test]
fn closing_again_from_many_threads_and_from_both_sides_is_one_close() {
    everywhere(|side| {
        let pair = side.pair(&config());
        let threads: Vec<_> = (0..8)
            .flat_map(|i| {
                [&pair.client, &pair.server].map(|connection| {
                    let connection = connection.clone();
                    std::thread::spawn(move || match i % 4 {
                        0 => connection.flush_blocking().is_ok(),
                        _ => connection.close_blocking().is_ok(),
                    })
                })
            })
            .collect();
        for thread in threads {
            in_time("close", SOON, move || thread.join().unwrap());
        }
        eventually("both ends", || pair.client.ended().is_some() && pair.server.ended().is_some());
        assert!(pair.client.close_blocking().is_ok());
        pair.client.abort();
    });
}

#[test]
fn closing_without_a_wire_ends_in_time_and_says_what_is_left() {
    each_driver(|side| {
        let (_client_context, client_endpoint) = side.endpoint(&config());
        let (_server_context, server_endpoint) = side.endpoint(&config());
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let mut proxy = Proxy::new(&listener.url());
        let connect = |proxy: &Proxy| {
            let seen = Recorder::default();
            let url = proxy.url("tcp");
            (block_on(client_endpoint.connect_with(url, seen.clone())).unwrap(), seen)
        };
        let ((closing, closed), (aborting, aborted), (flushing, flushed)) =
            (connect(&proxy), connect(&proxy), connect(&proxy));
        let (swallowed, _) = connect(&proxy);
        let late = swallowed.clone();
        proxy.cut(Cut::Swallow);
        late.send_blocking("never").unwrap();
        let begun = Instant::now();
        let error =
            in_time("close half-open", SOON, move || swallowed.close_blocking()).unwrap_err();
        assert!(
            matches!(error, FlushError::TimedOut { unacknowledged: 1, after } if after == ms(700)),
            "{error:?}"
        );
        assert!(begun.elapsed() >= ms(690));

        proxy.outage();
        proxy.cut(Cut::Reset);
        for seen in [&closed, &aborted, &flushed] {
            seen.wait_for("the loss", 1, |event| matches!(event, Event::Disconnected(_)));
        }
        for connection in [&closing, &aborting, &flushing] {
            connection.send_blocking("left").unwrap();
        }
        let flush = {
            let connection = flushing.clone();
            std::thread::spawn(move || connection.flush_blocking())
        };
        let result = in_time("close", SOON, move || closing.close_blocking());
        assert!(
            matches!(result, Err(FlushError::TimedOut { unacknowledged: 1, .. })),
            "{result:?}"
        );
        assert_eq!(closed.closed().unacknowledged.len(), 1);
        aborting.abort();
        let end = aborted.closed();
        assert!(matches!(end.ended, Ended::Closed));
        assert_eq!(end.unacknowledged[0].data, "left");
        assert!(matches!(
            aborting.flush_blocking(),
            Err(FlushError::Ended { unacknowledged: 1, .. })
        ));
        flushing.abort();
        let result = in_time("flush", SOON, move || flush.join().unwrap());
        assert!(matches!(result, Err(FlushError::Ended { unacknowledged: 1, .. })), "{result:?}");
        for seen in [closed, aborted, flushed] {
            let names = seen.names();
            assert_eq!(names.iter().filter(|name| **name == "closed").count(), 1);
            assert_eq!(names.last(), Some(&"closed"));
        }
    });
}

#[test]
fn an_abort_is_seen_by_the_peer_at_once() {
    each_driver(|side| {
        let pair = side.pair(&config());
        pair.client.abort();
        eventually("the peer's end", || pair.server.ended().is_some());
        assert!(matches!(pair.server.ended(), Some(Ended::ByPeer { code: 11, .. })));
        eventually("the connection's place is free", || {
            pair.listener.as_ref().unwrap().connections() == 0
        });
    });
}

/// Does one thing to its connection when a message comes.
struct Acts {
    how: &'static str,
    closed: Arc<(Mutex<Option<Ended>>, Condvar)>,
    context: Option<Arc<Mutex<Option<Context>>>>,
}

impl Handler for Acts {
    fn message(&mut self, connection: &Connection, message: Message) {
        match self.how {
            "close" => {
                connection.try_send(message.data).unwrap();
                drop(connection.close_with(7777, "from inside"));
                drop(connection.close());
                assert!(connection.try_send("too late").is_err());
            }
            "abort" => {
                connection.abort();
                connection.abort();
            }
            "drop the context" => drop(self.context.take().unwrap().lock().unwrap().take()),
            _ => panic!("as the test wants"),
        }
    }

    fn flushed(&mut self, connection: &Connection) {
        if self.how == "panic when flushed" {
            let _ = connection;
            panic!("as the test wants");
        }
    }

    fn closed(&mut self, _: &Connection, closed: towline::Closed) {
        *self.closed.0.lock().unwrap() = Some(closed.ended);
        self.closed.1.notify_all();
    }
}

#[test]
fn a_handler_may_close_and_abort_its_own_connection() {
    everywhere(|side| {
        for how in ["close", "abort"] {
            let (_client_context, client_endpoint) = side.endpoint(&config());
            let (_server_context, server_endpoint) = side.endpoint(&config());
            let closed = Arc::new((Mutex::new(None), Condvar::new()));
            let shared = Arc::clone(&closed);
            let listener = server_endpoint
                .listen_with("tcp://127.0.0.1:0", move |_: &Connection| Acts {
                    how,
                    closed: Arc::clone(&shared),
                    context: None,
                })
                .unwrap();
            let client = client_endpoint.connect_blocking(listener.url()).unwrap();
            client.send_blocking("do it").unwrap();
            let ended = common::wait(&closed, "the handler's end", Option::take);
            assert!(matches!(ended, Ended::Closed), "{how}: {ended:?}");
            if how == "close" {
                assert_eq!(client.recv_blocking().unwrap().data, "do it");
            }
            let error = client.recv_blocking().unwrap_err();
            match (how, error) {
                ("close", RecvError::Ended(Ended::ByPeer { code: 7777, reason })) => {
                    assert_eq!(&*reason, "from inside");
                }
                ("abort", RecvError::Ended(Ended::ByPeer { code: 11, .. })) => {}
                (_, other) => panic!("{how}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_handler_that_panics_ends_its_own_connection_only() {
    each_driver(|mut side| {
        side.threads = 1;
        let (_context, endpoint) = side.endpoint(&config());
        let closed = Arc::new((Mutex::new(None), Condvar::new()));
        let shared = Arc::clone(&closed);
        let bad = endpoint
            .listen_with("tcp://127.0.0.1:0", move |_: &Connection| Acts {
                how: "panic",
                closed: Arc::clone(&shared),
                context: None,
            })
            .unwrap();
        let unborn = endpoint
            .listen_with("tcp://127.0.0.1:0", |_: &Connection| -> common::Recorder {
                panic!("as the test wants")
            })
            .unwrap();
        let good = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let bystander = endpoint.connect_blocking(good.url()).unwrap();
        let accepted = good.accept_blocking().unwrap();
        for _ in 0..3 {
            let client = endpoint.connect_blocking(bad.url()).unwrap();
            for _ in 0..10 {
                client.send_blocking("x").ok();
            }
            let error = client.recv_blocking().unwrap_err();
            assert!(matches!(error, RecvError::Ended(Ended::ByPeer { code: 11, .. })), "{error:?}");
            let error = endpoint.connect_blocking(unborn.url()).unwrap_err();
            assert!(matches!(error, ConnectError::Rejected { code: 11, .. }), "{error:?}");
        }
        // Its own side, when the dialing end panics.
        let handler =
            Acts { how: "panic when flushed", closed: Arc::clone(&closed), context: None };
        let client = block_on(endpoint.connect_with(good.url(), handler)).unwrap();
        client.send_blocking("x").unwrap();
        eventually("its end", || client.ended().is_some());
        assert!(matches!(client.ended(), Some(Ended::Panicked)), "{:?}", client.ended());
        assert!(closed.0.lock().unwrap().is_none(), "it was called no more");
        bystander.send_blocking("fine").unwrap();
        assert_eq!(accepted.recv_blocking().unwrap().data, "fine");
        eventually("places are free", || bad.connections() + unborn.connections() == 0);
    });
}

#[test]
fn dropping_the_context_inside_a_handler_ends_everything() {
    each_driver(|side| {
        let (context, endpoint) = side.endpoint(&config());
        let (_client_context, client_endpoint) = side.endpoint(&config());
        let closed = Arc::new((Mutex::new(None), Condvar::new()));
        let (shared, held) = (Arc::clone(&closed), Arc::new(Mutex::new(Some(context))));
        let listener = endpoint
            .listen_with("tcp://127.0.0.1:0", move |_: &Connection| Acts {
                how: "drop the context",
                closed: Arc::clone(&shared),
                context: Some(Arc::clone(&held)),
            })
            .unwrap();
        let client = client_endpoint.connect_blocking(listener.url()).unwrap();
        client.send_blocking("drop it").unwrap();
        common::wait(&closed, "the handler's end", Option::take);
        let error = client.recv_blocking().unwrap_err();
        assert!(matches!(error, RecvError::Ended(Ended::ByPeer { code: 10, .. })), "{error:?}");
        assert!(matches!(listener.accept_blocking(), Err(ListenError::Closed)));
    });
}

#[test]
fn dropping_the_context_delivers_what_was_accepted_and_the_last_events() {
    everywhere(|side| {
        let mut pair = side.pair(&quick().close_timeout(PATIENCE).build().unwrap());
        let mut events = pair.client.events();
        for i in 0..2000u32 {
            pair.client.send_blocking(i.to_le_bytes().to_vec()).unwrap();
        }
        let context = pair.client_context.take();
        in_time("drop", PATIENCE, move || drop(context));
        for i in 0..2000u32 {
            assert_eq!(pair.server.recv_blocking().unwrap().data, i.to_le_bytes()[..]);
        }
        let mut last = None;
        while let Some(event) = events.next_blocking() {
            last = Some(event);
        }
        match last {
            Some(Event::Closed(closed)) => assert!(closed.unacknowledged.is_empty()),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            pair.server.recv_blocking(),
            Err(RecvError::Ended(Ended::ByPeer { code: 10, .. }))
        ));
    });
}

#[test]
fn handles_that_outlive_their_context_answer_with_errors() {
    each_driver(|side| {
        let mut pair = side.pair(&config());
        let reader = pair.client.reader();
        let waiting = {
            let client = pair.client.clone();
            std::thread::spawn(move || client.request_blocking("?", PATIENCE))
        };
        eventually("the request to be sent", || pair.client.stats().messages_sent == 1);
        let accepting = pair.server_context.take();
        let context = pair.client_context.take();
        in_time("drop", SOON, move || drop(context));
        assert!(waiting.join().unwrap().is_err());
        let client = &pair.client;
        assert!(client.ended().is_some());
        assert!(client.try_send("x").is_err());
        assert!(client.send_blocking("x").is_err());
        assert!(client.request_blocking("x", PATIENCE).is_err());
        assert!(client.recv_blocking().is_err() && reader.recv_blocking().is_err());
        assert!(client.reader().recv_blocking().is_err());
        assert!(block_on(client.writable()).is_err());
        client.flush_blocking().ok();
        client.close_blocking().ok();
        client.abort();
        assert!(client.events().next_blocking().is_none());
        client.set_deadline(Some(Instant::now()));
        let error = pair.client_endpoint.connect_blocking("tcp://127.0.0.1:1").unwrap_err();
        assert!(matches!(error, ConnectError::Stopped), "{error:?}");
        let error = pair.client_endpoint.listen("tcp://127.0.0.1:0").unwrap_err();
        assert!(matches!(error, ListenError::Stopped), "{error:?}");
        let listener = pair.listener.take().unwrap();
        let accept = std::thread::spawn(move || listener.accept_blocking());
        in_time("drop", SOON, move || drop(accepting));
        assert!(accept.join().unwrap().is_err());
    });
}

#[test]
fn dropping_the_context_returns_in_every_state() {
    each_driver(|side| {
        // Connecting to nowhere.
        let (context, endpoint) = side.endpoint(&config());
        let hole = BlackHole::new();
        let connecting = endpoint.connect(hole.url("tcp"));
        let waiting = std::thread::spawn(move || block_on(connecting));
        in_time("drop while connecting", SOON, move || drop(context));
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, ConnectError::Stopped | ConnectError::Closed), "{error:?}");

        // Connected half-open, down, and redialing, with messages that nobody will take.
        for cut in [Cut::Swallow, Cut::Fin, Cut::Reset] {
            let (context, endpoint) = side.endpoint(&config());
            let (server_context, server_endpoint) = side.endpoint(&config());
            let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
            let mut proxy = Proxy::new(&listener.url());
            let seen = Recorder::default();
            let connecting = endpoint.connect_with(proxy.url("tcp"), seen.clone());
            let client = block_on(connecting).unwrap();
            proxy.outage();
            proxy.cut(cut);
            if cut != Cut::Swallow {
                seen.wait_for("the loss", 1, |event| matches!(event, Event::Disconnected(_)));
            }
            client.send_blocking(vec![1; 300_000]).unwrap();
            in_time("drop", SOON, move || drop(context));
            let closed = seen.closed();
            assert_eq!(closed.unacknowledged.len(), 1, "{:?}", closed.ended);
            assert_eq!(closed.unacknowledged[0].data.len(), 300_000);
            in_time("drop of the server", SOON, move || drop(server_context));
        }

        // With a peer in its handshake, a listener and an unaccepted connection.
        let (context, endpoint) = side.endpoint(&config());
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let silent = std::net::TcpStream::connect(listener.local_address()).unwrap();
        let (client_context, client_endpoint) = side.endpoint(&config());
        let client = client_endpoint.connect_blocking(listener.url()).unwrap();
        in_time("drop of a listener's", SOON, move || drop(context));
        eventually("its end", || client.ended().is_some());
        drop((silent, listener, client_context));
    });
}

#[test]
fn a_connection_given_up_while_connecting_leaves_nothing() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&config());
        let hole = BlackHole::new();
        for _ in 0..20 {
            drop(endpoint.connect(hole.url("tcp")));
        }
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        for _ in 0..20 {
            drop(endpoint.connect(listener.url()));
        }
        eventually("none is left", || {
            while let Ok(Some(connection)) = listener.try_accept() {
                drop(connection);
            }
            listener.connections() == 0
        });
        let seen = Recorder::default();
        let connecting = endpoint.connect_with(hole.url("tcp"), seen.clone());
        drop(connecting);
        assert!(matches!(seen.closed().ended, Ended::Closed));
        assert_eq!(seen.names(), ["closed"]);
    });
}

#[test]
fn a_dropped_listener_lets_its_connections_live_and_turns_the_unaccepted_away() {
    each_driver(|side| {
        let mut pair = side.pair(&config());
        let url = pair.listener.as_ref().unwrap().url();
        let unaccepted = pair.client_endpoint.connect_blocking(&url).unwrap();
        drop(pair.listener.take());
        eventually("its end", || unaccepted.ended().is_some());
        pair.client.send_blocking("still").unwrap();
        assert_eq!(pair.server.recv_blocking().unwrap().data, "still");
        let seconds = quick().connect_timeout(ms(500)).build().unwrap();
        let (_context, endpoint) = Side::endpoint(side, &seconds);
        assert!(endpoint.connect_blocking(&url).is_err());
        // The port is free again.
        let again = pair.server_endpoint.listen(&url).unwrap();
        endpoint.connect_blocking(&url).unwrap();
        assert_eq!(again.local_address().port(), url.port());
    });
}

/// Says when it has been told of the end, and takes its time over that.
struct Slow(Arc<std::sync::atomic::AtomicBool>);

impl Handler for Slow {
    fn closed(&mut self, _: &Connection, _: towline::Closed) {
        (0..1000).for_each(|_| std::thread::yield_now());
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn close_returns_when_the_last_event_has_been_told() {
    each_driver(|side| {
        let pair = side.pair(&config());
        let url = pair.listener.as_ref().unwrap().url();
        for _ in 0..20 {
            let told = Arc::default();
            let connecting =
                pair.client_endpoint.connect_with(url.clone(), Slow(Arc::clone(&told)));
            let connection = block_on(connecting).unwrap();
            connection.close_blocking().unwrap();
            assert!(told.load(std::sync::atomic::Ordering::SeqCst));
        }
    });
}

#[test]
fn a_context_does_not_wait_for_sessions_that_are_down_with_nothing_to_say() {
    each_driver(|side| {
        // Longer than the test may take.
        let config = quick().close_timeout(ms(600_000)).redial_window(ms(600_000)).build().unwrap();
        let (server_context, server_endpoint) = side.endpoint(&config);
        let (client_context, client_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let mut proxy = Proxy::new(&listener.url());
        let client = client_endpoint.connect_blocking(proxy.url("tcp")).unwrap();
        let server = listener.accept_blocking().unwrap();
        // One of them has something for a peer that cannot come back any more.
        server.send_blocking("for nobody").unwrap();
        proxy.outage();
        proxy.cut(Cut::Reset);
        eventually("down", || !client.is_connected() && !server.is_connected());
        in_time("the server's end", PATIENCE, move || drop(server_context));
        in_time("the client's end", PATIENCE, move || drop(client_context));
        assert!(matches!(client.ended(), Some(Ended::Stopped)), "{:?}", client.ended());
        assert!(matches!(server.ended(), Some(Ended::Stopped)), "{:?}", server.ended());
    });
}
