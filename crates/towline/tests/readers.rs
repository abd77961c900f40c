//! Readers, the inbox, and handlers beside them.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::{PATIENCE, Side, each_driver, eventually, in_time, quick};
use towline::{Connection, Handler, Message, Overflow, Reader, ReaderOptions, RecvError};

fn options(limit: usize, overflow: Overflow) -> ReaderOptions {
    ReaderOptions { limit, overflow }
}

fn number(message: &Message) -> u32 {
    u32::from_le_bytes(message.data[..4].try_into().unwrap())
}

fn send_numbers(connection: &Connection, numbers: std::ops::Range<u32>, size: usize) {
    for i in numbers {
        let mut data = i.to_le_bytes().to_vec();
        data.resize(size, 0);
        connection.send_blocking(data).unwrap();
    }
}

fn read_numbers(reader: &Reader, numbers: std::ops::Range<u32>) {
    for i in numbers {
        assert_eq!(number(&reader.recv_blocking().unwrap()), i);
    }
}

#[test]
fn every_reader_sees_every_message_from_its_creation_on() {
    each_driver(|side| {
        let pair = side.pair(&quick().build().unwrap());
        let first = pair.server.reader();
        send_numbers(&pair.client, 0..100, 1000);
        pair.client.flush_blocking().unwrap();
        let second = pair.server.reader();
        send_numbers(&pair.client, 100..300, 1000);
        pair.client.flush_blocking().unwrap();
        let third = pair.server.reader_with(options(1 << 20, Overflow::DropOldest));
        send_numbers(&pair.client, 300..400, 1000);
        read_numbers(&third, 300..400);
        read_numbers(&first, 0..400);
        read_numbers(&second, 100..400);
        assert!(first.try_recv().unwrap().is_none());
        // The inbox gets nothing while a reader is open, and everything again when none is.
        assert!(pair.server.try_recv().unwrap().is_none());
        drop((first, second));
        third.close();
        send_numbers(&pair.client, 400..401, 4);
        assert_eq!(number(&pair.server.recv_blocking().unwrap()), 400);
        pair.client.close_blocking().unwrap();
    });
}

#[test]
fn a_blocking_reader_holds_the_peer_back_and_loses_nothing() {
    each_driver(|side| {
        let config = quick().receive_window(512 << 10).send_queue_bytes(256 << 10).build().unwrap();
        let pair = side.pair(&config);
        let slow = pair.server.reader();
        let fast = pair.server.reader();
        const COUNT: u32 = 4000;
        const SIZE: usize = 1000;
        let client = pair.client.clone();
        let sender = std::thread::spawn(move || {
            send_numbers(&client, 0..COUNT, SIZE);
            client.flush_blocking().unwrap();
        });
        // One reader takes what there is; the other takes nothing: the peer stops within the bounds.
        let mut got = 0;
        let bound = (512 << 10) / SIZE as u32 + 600;
        eventually("the peer to be held back", || {
            while let Some(message) = fast.try_recv().unwrap() {
                assert_eq!(number(&message), got);
                got += 1;
            }
            pair.client.stats().unacknowledged > 0 && got >= 400
        });
        let blocked = pair.client.writable();
        drop(blocked);
        assert!(!sender.is_finished());
        assert!(got <= bound, "{got} messages were let through a window of {bound}");
        let reading = std::thread::spawn(move || read_numbers(&slow, 0..COUNT));
        read_numbers(&fast, got..COUNT);
        reading.join().unwrap();
        sender.join().unwrap();
    });
}

#[test]
fn a_reader_that_drops_the_oldest_counts_them_and_holds_nobody_back() {
    each_driver(|side| {
        let config = quick().receive_window(512 << 10).build().unwrap();
        let pair = side.pair(&config);
        let lossy = pair.server.reader_with(options(10_000, Overflow::DropOldest));
        send_numbers(&pair.client, 0..3000, 1000);
        pair.client.flush_blocking().unwrap();
        assert_eq!(lossy.dropped(), 2990);
        read_numbers(&lossy, 2990..3000);
        assert!(lossy.try_recv().unwrap().is_none());
        // A single message over the limit is let in when nothing else is there.
        send_numbers(&pair.client, 3000..3001, 50_000);
        read_numbers(&lossy, 3000..3001);
        assert_eq!(lossy.dropped(), 2990);
    });
}

#[test]
fn a_reader_that_fails_does_so_alone() {
    each_driver(|side| {
        let config = quick().receive_window(512 << 10).build().unwrap();
        let pair = side.pair(&config);
        let strict = pair.server.reader_with(options(10_000, Overflow::Fail));
        let other = pair.server.reader_with(options(10 << 20, Overflow::DropOldest));
        send_numbers(&pair.client, 0..3000, 1000);
        pair.client.flush_blocking().unwrap();
        read_numbers(&strict, 0..10);
        let error = strict.recv_blocking().unwrap_err();
        assert!(matches!(error, RecvError::Overflow { limit: 10_000 }), "{error}");
        assert!(error.to_string().contains("10000"), "{error}");
        assert!(strict.try_recv().is_err(), "it stays that way");
        read_numbers(&other, 0..3000);
        assert_eq!(other.dropped(), 0);
        assert!(pair.server.ended().is_none());
    });
}

#[test]
fn readers_that_come_and_go_during_traffic_see_an_unbroken_run() {
    each_driver(|side| {
        let config = quick().receive_window(512 << 10).build().unwrap();
        let pair = side.pair(&config);
        let steady = pair.server.reader();
        const COUNT: u32 = 20_000;
        let client = pair.client.clone();
        let sender = std::thread::spawn(move || {
            send_numbers(&client, 0..COUNT, 64);
            client.flush_blocking().unwrap();
        });
        let passing: Vec<_> = (0..3)
            .map(|_| {
                let server = pair.server.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    while seen < 2000 {
                        let reader = server.reader();
                        let mut next = None;
                        // What is left in it when it goes must not hold the others back.
                        for _ in 0..50 {
                            let Ok(message) = reader.recv_blocking() else { return seen };
                            let number = number(&message);
                            assert_eq!(number, next.unwrap_or(number));
                            next = Some(number + 1);
                            seen += 1;
                            if number + 60 > COUNT {
                                return seen;
                            }
                        }
                    }
                    seen
                })
            })
            .collect();
        read_numbers(&steady, 0..COUNT);
        sender.join().unwrap();
        pair.client.close_blocking().unwrap();
        let seen: u32 = passing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(seen > 0);
    });
}

/// Counts messages, and opens a reader when told to.
struct Opens {
    log: Arc<Mutex<(Vec<u32>, Option<Reader>)>>,
}

impl Handler for Opens {
    fn message(&mut self, connection: &Connection, message: Message) {
        let mut log = self.log.lock().unwrap();
        log.0.push(number(&message));
        if number(&message) == 10 {
            log.1 = Some(connection.reader());
        }
    }
}

#[test]
fn a_reader_opened_inside_a_handler_sees_the_very_next_message() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&quick().build().unwrap());
        let log = Arc::new(Mutex::new((Vec::new(), None)));
        let shared = Arc::clone(&log);
        let listener = endpoint
            .listen_with("tcp://127.0.0.1:0", move |_: &Connection| Opens {
                log: Arc::clone(&shared),
            })
            .unwrap();
        let client = endpoint.connect_blocking(listener.url()).unwrap();
        send_numbers(&client, 0..100, 8);
        client.flush_blocking().unwrap();
        let (seen, reader) = std::mem::take(&mut *log.lock().unwrap());
        assert_eq!(seen, (0..100).collect::<Vec<_>>(), "the handler sees everything");
        read_numbers(&reader.unwrap(), 11..100);
    });
}

#[test]
fn handlers_requests_and_readers_share_a_connection() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&quick().build().unwrap());
        let listener = endpoint
            .listen_with("tcp://127.0.0.1:0", |_: &Connection| {
                |connection: &Connection, message: Message| {
                    let data = message.data.clone();
                    connection.try_send(Message::reply_to(&message, data)).unwrap();
                    connection.try_send(message.data).unwrap();
                }
            })
            .unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let noting = Arc::clone(&handled);
        let handler = move |_: &Connection, message: Message| {
            noting.lock().unwrap().push(number(&message));
        };
        let client = in_time("connect", PATIENCE, {
            let endpoint = endpoint.clone();
            move || {
                let connecting = endpoint.connect_with(listener.url(), handler);
                let client = block_on(connecting).unwrap();
                (client, listener)
            }
        });
        let (client, _listener) = client;
        let reader = client.reader();
        for i in 0..200u32 {
            let reply = client.request_blocking(i.to_le_bytes().to_vec(), PATIENCE).unwrap();
            assert_eq!(number(&reply), i);
        }
        // The reader sees both the replies and what the handler gets; the handler does not get the replies.
        for i in 0..200u32 {
            let (reply, message) =
                (reader.recv_blocking().unwrap(), reader.recv_blocking().unwrap());
            assert_eq!((number(&reply), number(&message)), (i, i));
            assert!(reply.reply_to.is_some() && message.reply_to.is_none());
        }
        assert_eq!(*handled.lock().unwrap(), (0..200).collect::<Vec<_>>());
        assert!(client.try_recv().unwrap().is_none(), "nothing went to the inbox");
    });
}

#[test]
fn a_queue_is_read_to_its_end_after_the_connection_has_ended() {
    each_driver(|side| {
        let pair = side.pair(&quick().build().unwrap());
        let reader = pair.server.reader();
        send_numbers(&pair.client, 0..50, 100);
        pair.client.close_blocking().unwrap();
        eventually("the end", || pair.server.ended().is_some());
        read_numbers(&reader, 0..50);
        assert!(matches!(reader.recv_blocking(), Err(RecvError::Ended(_))));
        let late = pair.server.reader();
        assert!(matches!(late.recv_blocking(), Err(RecvError::Ended(_))));
        assert!(matches!(pair.server.recv_blocking(), Err(RecvError::Ended(_))));
    });
}

fn block_on<F: Future>(future: F) -> F::Output {
    common::block_on(future)
}

#[test]
fn the_inbox_is_there_by_default_and_bounded_by_the_window() {
    each_driver(|side: Side| {
        let config = quick().receive_window(512 << 10).send_queue_bytes(128 << 10).build().unwrap();
        let pair = side.pair(&config);
        let client = pair.client.clone();
        let sender = std::thread::spawn(move || send_numbers(&client, 0..2000, 1000));
        eventually("the window to be used up", || pair.server.stats().messages_received >= 450);
        assert!(!sender.is_finished());
        for i in 0..2000 {
            assert_eq!(number(&pair.server.recv_blocking().unwrap()), i);
        }
        sender.join().unwrap();
    });
}
