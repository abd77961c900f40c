//! Sessions over real sockets, with both drivers.

use std::time::{Duration, Instant};

use towline::{Config, Connection, Context, DriverChoice, Ended, Endpoint, Message, RecvError};

const PATIENCE: Duration = Duration::from_secs(20);

fn endpoint(driver: DriverChoice, threads: usize) -> (Context, Endpoint) {
    let context = Context::builder().threads(threads).driver(driver).build().unwrap();
    let endpoint = Endpoint::new(&context, &Config::default());
    (context, endpoint)
}

fn echo(connection: &Connection, message: Message) {
    let reply = Message::reply_to(&message, message.data.clone());
    connection.try_send(reply).unwrap();
}

fn each_driver(test: impl Fn(DriverChoice)) {
    for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
        println!("{driver:?}");
        test(driver);
    }
}

#[test]
fn requests_of_all_sizes_are_answered() {
    each_driver(|driver| {
        let (_context, endpoint) = endpoint(driver, 2);
        let listener = endpoint.listen_with("tcp://127.0.0.1:0", |_: &Connection| echo).unwrap();
        let connection = endpoint.connect_blocking(listener.url()).unwrap();
        for size in [0usize, 1, 63, 64, 65, 4096, 65_535, 65_536, 65_537, 1 << 20, 16 << 20] {
            let data: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let reply = connection.request_blocking(data.clone(), PATIENCE).unwrap();
            assert_eq!(reply.data, data, "{size} bytes over {driver:?}");
        }
        connection.close_blocking().unwrap();
    });
}

#[test]
fn messages_arrive_in_order_and_flush_waits_for_all() {
    each_driver(|driver| {
        let (_context, endpoint) = endpoint(driver, 2);
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let connection = endpoint.connect_blocking(listener.url()).unwrap();
        let server = listener.accept_blocking().unwrap();
        let sender = std::thread::spawn(move || {
            for i in 0..100_000u64 {
                connection.send_blocking(i.to_le_bytes().to_vec()).unwrap();
            }
            connection.flush_blocking().unwrap();
            assert_eq!(connection.stats().unacknowledged, 0);
            connection
        });
        for i in 0..100_000u64 {
            assert_eq!(server.recv_blocking().unwrap().data, i.to_le_bytes()[..]);
        }
        let connection = sender.join().unwrap();
        connection.close_blocking().unwrap();
        assert!(server.recv_blocking().is_err());
    });
}

/// A program that closes and ends at once still says goodbye: its peer does not wait for it to come back.
#[test]
fn the_peer_of_a_program_that_closes_and_ends_learns_of_it() {
    each_driver(|driver| {
        let (_context, server) = endpoint(driver, 1);
        let listener = server.listen("tcp://127.0.0.1:0").unwrap();
        for _ in 0..10 {
            let (context, client) = endpoint(driver, 1);
            let connection = client.connect_blocking(listener.url()).unwrap();
            let accepted = listener.accept_blocking().unwrap();
            connection.send_blocking("last words").unwrap();
            connection.close_blocking().unwrap();
            drop(context);
            assert_eq!(accepted.recv_blocking().unwrap().data, "last words");
            // Far less than the 60 s for which a lost peer is waited for, and than the 5 s of a closing.
            accepted.set_read_deadline(Some(Instant::now() + Duration::from_secs(3)));
            match accepted.recv_blocking() {
                Err(RecvError::Ended(Ended::ByPeer { code: 0, .. })) => {}
                other => panic!("{other:?} over {driver:?}"),
            }
        }
    });
}
