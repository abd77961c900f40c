//! Back-pressure in bytes and messages, and the deadlines of waiting calls.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use common::{PATIENCE, Pair, Side, block_on, each_driver, eventually, everywhere, ms, quick};
use towline::{Connection, Handler, Lane, Message, RecvError, SendError, TrySendError};

/// A pair whose server reads nothing, with small bounds.
fn stalled(side: Side, messages: usize) -> Pair {
    let config = quick()
        .receive_window(512 << 10)
        .send_queue_bytes(256 << 10)
        .send_queue_messages(messages)
        .build()
        .unwrap();
    side.pair(&config)
}

/// Sends until the queue stays full. Returns how many went.
fn fill(connection: &Connection, message: &Message) -> usize {
    let mut sent = 0;
    let mut full_since = None;
    loop {
        match connection.try_send(message.clone()) {
            Ok(_) => {
                sent += 1;
                full_since = None;
            }
            Err(TrySendError::Full(back)) => {
                assert_eq!(back.data, message.data, "the message comes back");
                // Nothing tells that no more room will come; it does while acknowledgements are under way.
                let since = *full_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ms(150) {
                    return sent;
                }
                std::thread::yield_now();
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_stalled_receiver_bounds_the_sender_in_bytes() {
    everywhere(|side| {
        let pair = stalled(side, 1 << 20);
        let message = Message::new(vec![7; 1000]);
        let sent = fill(&pair.client, &message) * 1000;
        // What the peer holds for its program, and what is queued here.
        let bound = (512 << 10) + (256 << 10) + (64 << 10);
        assert!(sent <= bound, "{sent} bytes were accepted against a bound of {bound}");
        assert!(sent >= 256 << 10, "{sent}");
        // Each lane has its own room: what is urgent still passes.
        pair.client.try_send(Message::new("urgent").on(Lane::URGENT)).unwrap();
        // A larger message than there is room for does not fit either.
        assert!(matches!(
            pair.client.try_send(vec![0; 200_000]),
            Err(TrySendError::Full(message)) if message.data.len() == 200_000
        ));
        let (client, expected) = (pair.client.clone(), sent / 1000 + 1);
        let flushing = std::thread::spawn(move || client.flush_blocking());
        for _ in 0..expected {
            pair.server.recv_blocking().unwrap();
        }
        flushing.join().unwrap().unwrap();
        assert_eq!(pair.client.stats().unacknowledged, 0);
    });
}

#[test]
fn a_stalled_receiver_bounds_the_sender_in_messages() {
    each_driver(|side| {
        let mut pair = stalled(side, 100);
        // Without a peer nothing is acknowledged, so the bound is exact.
        drop(pair.listener.take());
        let server = pair.server_context.take();
        drop(server);
        eventually("the loss", || !pair.client.is_connected());
        if pair.client.ended().is_some() {
            // It said goodbye before it went.
            return;
        }
        let sent = fill(&pair.client, &Message::new("x"));
        assert_eq!(sent, 100);
        assert_eq!(pair.client.stats().unacknowledged, 100);
        pair.client.abort();
    });
}

#[test]
fn waiting_senders_go_on_when_there_is_room_and_a_dropped_one_sends_nothing() {
    everywhere(|side| {
        let pair = stalled(side, 1 << 20);
        let message = Message::new(vec![7; 1000]);
        let filled = fill(&pair.client, &message);
        // One waits and goes on, others wait and are dropped.
        let mut context = Context::from_waker(Waker::noop());
        let big = Message::new(vec![1; 100_000]);
        let mut waiting = Box::pin(pair.client.send(big));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let mut writable = Box::pin(pair.client.writable());
        let _ = writable.as_mut().poll(&mut context);
        drop(writable);
        let mut large = Box::pin(pair.client.send(vec![9; 150_000]));
        assert!(large.as_mut().poll(&mut context).is_pending());
        drop(large);
        // Many wait on threads.
        let sent = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (client, sent) = (pair.client.clone(), Arc::clone(&sent));
                std::thread::spawn(move || {
                    for _ in 0..100 {
                        client.send_blocking(vec![3; 5000]).unwrap();
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let server = pair.server.clone();
        let total = filled + 1 + 800;
        let reader = std::thread::spawn(move || {
            let mut sizes = std::collections::BTreeMap::new();
            for _ in 0..total {
                *sizes.entry(server.recv_blocking().unwrap().data.len()).or_insert(0) += 1;
            }
            sizes
        });
        block_on(waiting).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(sent.load(Ordering::SeqCst), 800);
        let sizes = reader.join().unwrap();
        let expected = [(1000, filled), (5000, 800), (100_000, 1)];
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), expected);
        pair.client.flush_blocking().unwrap();
        assert!(pair.server.try_recv().unwrap().is_none());
    });
}

/// Sends as much as it can whenever there is room, from the I/O thread only.
struct Pump {
    left: usize,
    done: Arc<(Mutex<usize>, Condvar)>,
}

impl Pump {
    fn go(&mut self, connection: &Connection) {
        while self.left > 0 {
            match connection.try_send(vec![5; 4000]) {
                Ok(_) => self.left -= 1,
                Err(TrySendError::Full(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

impl Handler for Pump {
    fn connected(&mut self, connection: &Connection, _: towline::Connected) {
        self.go(connection);
    }

    fn writable(&mut self, connection: &Connection) {
        *self.done.0.lock().unwrap() += 1;
        self.done.1.notify_all();
        self.go(connection);
    }
}

#[test]
fn the_writable_event_keeps_a_sending_handler_going() {
    everywhere(|side| {
        let config = quick().receive_window(512 << 10).send_queue_bytes(64 << 10).build().unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&config);
        let (_server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let done = Arc::new((Mutex::new(0), Condvar::new()));
        let pump = Pump { left: 3000, done: Arc::clone(&done) };
        let client = block_on(client_endpoint.connect_with(listener.url(), pump)).unwrap();
        let server = listener.accept_blocking().unwrap();
        for _ in 0..3000 {
            assert_eq!(server.recv_blocking().unwrap().data.len(), 4000);
        }
        assert!(*done.0.lock().unwrap() > 10);
        client.close_blocking().unwrap();
    });
}

#[test]
fn a_message_over_the_limit_is_refused_by_whoever_knows_it() {
    each_driver(|side| {
        let small = quick().max_message(64 << 10).build().unwrap();
        let large = quick().max_message(1 << 20).build().unwrap();
        let (_small_context, small_endpoint) = side.endpoint(&small);
        let (_large_context, large_endpoint) = side.endpoint(&large);
        let listener = small_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let seen = common::Recorder::default();
        let connecting = large_endpoint.connect_with(listener.url(), seen.clone());
        let client = block_on(connecting).unwrap();
        let server = listener.accept_blocking().unwrap();

        // This side's own limit.
        let error = server.send_blocking(vec![0; 70_000]).unwrap_err();
        assert!(
            matches!(error, SendError::TooLarge { bytes: 70_000, limit: 65_536, session: true }),
            "{error:?}"
        );
        assert!(error.to_string().contains("max_message"), "{error}");
        assert!(matches!(
            client.try_send(vec![0; 2 << 20]),
            Err(TrySendError::Failed { message, error: SendError::TooLarge { .. } })
                if message.data.len() == 2 << 20
        ));
        // The peer's, as soon as it is known.
        eventually("the peer's limit", || client.capabilities().max_message == 65_536);
        assert!(matches!(
            client.send_blocking(vec![0; 70_000]),
            Err(SendError::TooLarge { limit: 65_536, .. })
        ));
        client.send_blocking(vec![1; 65_536]).unwrap();
        assert_eq!(server.recv_blocking().unwrap().data.len(), 65_536);
        client.close_blocking().unwrap();
    });
}

#[test]
fn a_message_that_turns_out_too_large_comes_back_and_the_others_go() {
    each_driver(|side| {
        let small = quick().max_message(64 << 10).build().unwrap();
        let large = quick().max_message(1 << 20).build().unwrap();
        let (_small_context, small_endpoint) = side.endpoint(&small);
        let (_large_context, large_endpoint) = side.endpoint(&large);
        let listener = small_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        /// Sends before the greeting is answered.
        struct Early(common::Recorder);
        impl Handler for Early {
            fn event(&mut self, connection: &Connection, event: towline::Event) {
                self.0.event(connection, event);
            }
        }
        let seen = common::Recorder::default();
        let connecting = large_endpoint.connect_with(listener.url(), Early(seen.clone()));
        let client = block_on(connecting).unwrap();
        let server = listener.accept_blocking().unwrap();
        let sent = client.try_send(vec![0; 500_000]);
        client.send_blocking("after").unwrap();
        assert_eq!(server.recv_blocking().unwrap().data, "after");
        if sent.is_ok() {
            let event = seen
                .wait_for("it comes back", 1, |event| matches!(event, towline::Event::TooLarge(_)));
            let towline::Event::TooLarge(messages) = event else { unreachable!() };
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].data.len(), 500_000);
        }
        client.flush_blocking().unwrap();
    });
}

#[test]
fn read_deadlines_end_waiting_calls_also_when_set_while_they_wait() {
    each_driver(|side| {
        let pair = side.pair(&quick().build().unwrap());
        let begun = Instant::now();
        pair.server.set_read_deadline(Some(begun + ms(60)));
        assert!(matches!(pair.server.recv_blocking(), Err(RecvError::Deadline)));
        let took = begun.elapsed();
        assert!(took >= ms(60) && took < ms(600), "{took:?}");
        // Passed deadlines answer at once, and what is there is still had.
        assert!(matches!(pair.server.recv_blocking(), Err(RecvError::Deadline)));
        pair.client.send_blocking("hello").unwrap();
        pair.client.flush_blocking().unwrap();
        assert_eq!(pair.server.recv_blocking().unwrap().data, "hello");
        pair.server.set_read_deadline(None);

        for asynchronous in [false, true] {
            let (server, reader) = (pair.server.clone(), pair.server.reader());
            let began = Arc::new((Mutex::new(false), Condvar::new()));
            let telling = Arc::clone(&began);
            let waiting = std::thread::spawn(move || {
                *telling.0.lock().unwrap() = true;
                telling.1.notify_all();
                match asynchronous {
                    true => (block_on(reader.recv()), server),
                    false => (reader.recv_blocking(), server),
                }
            });
            common::wait(&began, "the reader", |began| began.then_some(()));
            pair.server.set_read_deadline(Some(Instant::now() + ms(40)));
            let (result, server) = waiting.join().unwrap();
            assert!(matches!(result, Err(RecvError::Deadline)), "{result:?}");
            server.set_read_deadline(None);
        }
        // Many times, so that the setting meets every moment of the waiting.
        for i in 0..200u64 {
            let server = pair.server.clone();
            let waiting = std::thread::spawn(move || server.recv_blocking());
            if i % 2 == 0 {
                std::thread::yield_now();
            }
            pair.server.set_read_deadline(Some(Instant::now()));
            assert!(matches!(waiting.join().unwrap(), Err(RecvError::Deadline)));
            pair.server.set_read_deadline(None);
        }
    });
}

#[test]
fn write_deadlines_end_waiting_senders_and_can_be_lifted() {
    each_driver(|side| {
        let pair = stalled(side, 1 << 20);
        fill(&pair.client, &Message::new(vec![7; 1000]));
        let begun = Instant::now();
        pair.client.set_write_deadline(Some(begun + ms(60)));
        let big = vec![1; 100_000];
        assert!(matches!(pair.client.send_blocking(big.clone()), Err(SendError::Deadline)));
        let took = begun.elapsed();
        assert!(took >= ms(60) && took < ms(600), "{took:?}");
        pair.client.set_deadline(None);

        for asynchronous in [false, true] {
            let (client, big) = (pair.client.clone(), big.clone());
            let waiting = std::thread::spawn(move || match asynchronous {
                true => block_on(client.send(big)),
                false => client.send_blocking(big),
            });
            std::thread::yield_now();
            pair.client.set_deadline(Some(Instant::now() + ms(40)));
            assert!(matches!(waiting.join().unwrap(), Err(SendError::Deadline)));
            pair.client.set_deadline(None);
        }
        // A later deadline replaces an earlier one.
        pair.client.set_write_deadline(Some(Instant::now() + ms(50)));
        pair.client.set_write_deadline(Some(Instant::now() + PATIENCE));
        let client = pair.client.clone();
        let waiting = std::thread::spawn(move || client.send_blocking(big));
        let mut got = 0;
        while !waiting.is_finished() {
            got += usize::from(pair.server.try_recv().unwrap().is_some());
            assert!(got < 10_000);
        }
        waiting.join().unwrap().unwrap();
    });
}
