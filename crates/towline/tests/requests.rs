//! Requests: many in flight, deadlines, late and duplicate replies, cancellation, ends, and any executor.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

mod common;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{PATIENCE, Random, Side, block_on, each_driver, eventually, everywhere, ms, quick};
use towline::{Connection, Ended, Endpoint, Listener, Message, RequestError, SendError};

fn echo(connection: &Connection, message: Message) {
    let reply = Message::reply_to(&message, message.data.clone());
    connection.try_send(reply).unwrap();
}

struct Server {
    client: Connection,
    listener: Listener,
    endpoint: Endpoint,
    _contexts: [towline::Context; 2],
}

/// A client of a server whose connections have this handler.
fn served<H: towline::Handler + Clone + Sync>(side: Side, handler: H) -> Server {
    let config = quick().build().unwrap();
    let (client_context, client_endpoint) = side.endpoint(&config);
    let (server_context, endpoint) = side.endpoint(&config);
    let listener =
        endpoint.listen_with("tcp://127.0.0.1:0", move |_: &Connection| handler.clone()).unwrap();
    let client = client_endpoint.connect_blocking(listener.url()).unwrap();
    Server { client, listener, endpoint, _contexts: [client_context, server_context] }
}

#[test]
fn hundreds_are_in_flight_from_several_threads_and_answered_out_of_order() {
    everywhere(|side| {
        let mut random = Random::from_env(11);
        // Gathers requests and answers them in random order.
        let held: Arc<Mutex<(Vec<Message>, Random)>> =
            Arc::new(Mutex::new((Vec::new(), Random(random.next()))));
        let handler = move |connection: &Connection, message: Message| {
            let mut held = held.lock().unwrap();
            held.0.push(message);
            if held.0.len() == 400 {
                while !held.0.is_empty() {
                    let (messages, random) = &mut *held;
                    let chosen = random.below(messages.len() as u64) as usize;
                    echo(connection, messages.swap_remove(chosen));
                }
            }
        };
        let server = served(side, handler);
        for _ in 0..3 {
            let threads: Vec<_> = (0..4u32)
                .map(|thread| {
                    let client = server.client.clone();
                    std::thread::spawn(move || {
                        let mut pending: Vec<_> = (0..100u32)
                            .map(|i| {
                                let data = (thread << 16 | i).to_le_bytes().to_vec();
                                (data.clone(), Box::pin(client.request(data, PATIENCE)))
                            })
                            .collect();
                        // All are sent before any is waited for.
                        let mut context = Context::from_waker(Waker::noop());
                        for (_, request) in &mut pending {
                            assert!(request.as_mut().poll(&mut context).is_pending());
                        }
                        for (data, request) in pending {
                            assert_eq!(block_on(request).unwrap().data, data);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        }
        let stats = server.client.stats();
        assert_eq!((stats.late_replies, stats.duplicate_replies), (0, 0));
        assert_eq!(server.listener.connections(), 1);
        drop(server.endpoint);
    });
}

#[test]
fn a_request_ends_at_its_deadline_and_its_late_reply_is_counted() {
    each_driver(|side| {
        let held = Arc::new(Mutex::new(Vec::new()));
        let holding = Arc::clone(&held);
        let handler = move |connection: &Connection, message: Message| match &message.data[..] {
            b"release" => {
                for message in holding.lock().unwrap().drain(..) {
                    echo(connection, message);
                }
                echo(connection, message);
            }
            b"twice" => {
                echo(connection, message.clone());
                echo(connection, message);
            }
            _ => holding.lock().unwrap().push(message),
        };
        let server = served(side, handler);
        for wait in [ms(1), ms(30), ms(120)] {
            let begun = Instant::now();
            let error = server.client.request_blocking("hold", wait).unwrap_err();
            let took = begun.elapsed();
            assert!(matches!(error, RequestError::TimedOut { after } if after == wait), "{error}");
            assert!(took >= wait && took < wait + ms(400), "{wait:?} took {took:?}");
        }
        // An earlier deadline behind a later one, and after one that was met.
        let client = server.client.clone();
        let long = std::thread::spawn(move || client.request_blocking("hold", ms(300)));
        let begun = Instant::now();
        server.client.request_blocking("hold", ms(50)).unwrap_err();
        assert!(begun.elapsed() < ms(280), "{:?}", begun.elapsed());
        assert!(matches!(long.join().unwrap(), Err(RequestError::TimedOut { .. })));

        server.client.request_blocking("release", PATIENCE).unwrap();
        assert_eq!(server.client.stats().late_replies, 5);
        server.client.request_blocking("twice", PATIENCE).unwrap();
        eventually("the second reply", || server.client.stats().duplicate_replies == 1);
        assert!(server.client.try_recv().unwrap().is_none(), "none of them is a message");
        assert_eq!(server.client.stats().late_replies, 5);
        // A deadline that has passed before the sending still gives the message to the peer.
        assert!(server.client.request_blocking("hold", Duration::ZERO).is_err());
        eventually("it arrives", || held.lock().unwrap().len() == 1);
    });
}

#[test]
fn a_dropped_request_is_forgotten_and_its_reply_does_not_become_a_message() {
    each_driver(|side| {
        let server = served(side, echo);
        for _ in 0..50 {
            let mut request = Box::pin(server.client.request("never mind", PATIENCE));
            let mut context = Context::from_waker(Waker::noop());
            let _ = request.as_mut().poll(&mut context);
            drop(request);
        }
        server.client.request_blocking("still here", PATIENCE).unwrap();
        let stats = server.client.stats();
        assert!(stats.late_replies >= 40, "{stats:?}");
        assert!(server.client.try_recv().unwrap().is_none());
    });
}

#[test]
fn chosen_ids_may_be_used_once_at_a_time() {
    each_driver(|side| {
        let server = served(side, |connection: &Connection, message: Message| {
            if message.data == "answer" {
                echo(connection, message);
            }
        });
        let mut first = Box::pin(server.client.request(Message::new("x").with_id(70_000), ms(500)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        let second = Message::new("answer").with_id(70_000);
        let error = server.client.request_blocking(second.clone(), PATIENCE).unwrap_err();
        assert!(matches!(error, RequestError::DuplicateId { id: 70_000 }), "{error}");
        assert!(matches!(block_on(first), Err(RequestError::TimedOut { .. })));
        let reply = server.client.request_blocking(second, PATIENCE).unwrap();
        assert_eq!(reply.reply_to.unwrap().0, 70_000);
        let zero = server.client.request_blocking(Message::new("").with_id(0), PATIENCE);
        assert!(matches!(zero, Err(RequestError::Send(SendError::BadId { id: 0, .. }))));
    });
}

#[test]
fn the_end_of_the_connection_ends_its_requests() {
    each_driver(|side| {
        for by_peer in [true, false] {
            let server = served(side, move |connection: &Connection, message: Message| {
                if by_peer && message.data == "go away" {
                    drop(connection.close_with(300, "as you like"));
                }
            });
            let waiting: Vec<_> = (0..20)
                .map(|_| {
                    let client = server.client.clone();
                    std::thread::spawn(move || client.request_blocking("?", PATIENCE))
                })
                .collect();
            eventually("all of them on their way", || server.client.stats().messages_sent == 20);
            match by_peer {
                true => drop(server.client.send_blocking("go away").unwrap()),
                false => server.client.abort(),
            }
            for request in waiting {
                let error = request.join().unwrap().unwrap_err();
                match (by_peer, &error) {
                    (true, RequestError::Ended(Ended::ByPeer { code: 300, reason })) => {
                        assert_eq!(&**reason, "as you like");
                    }
                    (false, RequestError::Ended(Ended::Closed)) => {}
                    _ => panic!("{error:?}"),
                }
            }
            let late = server.client.request_blocking("?", PATIENCE);
            assert!(matches!(late, Err(RequestError::Ended(_))), "{late:?}");
        }
    });
}

#[test]
fn a_request_that_waits_for_room_keeps_its_deadline() {
    each_driver(|side| {
        let config = quick().send_queue_messages(1).build().unwrap();
        let pair = side.pair(&config);
        // Nobody answers, nothing is read, and one message fills the queue while there is no wire.
        drop(pair.listener);
        drop(pair.server_context);
        eventually("the loss", || !pair.client.is_connected());
        pair.client.try_send("full").ok();
        let begun = Instant::now();
        let error = pair.client.request_blocking("?", ms(100)).unwrap_err();
        if pair.client.ended().is_none() {
            assert!(matches!(error, RequestError::TimedOut { .. }), "{error:?}");
            assert!(begun.elapsed() < ms(600), "{:?}", begun.elapsed());
        }
        pair.client.abort();
    });
}

/// An executor that runs tasks inside `wake`, on whichever thread calls it: the hardest customer of a waker.
struct InlineTask {
    future: Mutex<Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>>,
    woken: std::sync::atomic::AtomicUsize,
}

impl std::task::Wake for InlineTask {
    fn wake(self: Arc<Self>) {
        use std::sync::atomic::Ordering;
        // Woken while it runs: it runs once more.
        if self.woken.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        loop {
            let seen = self.woken.load(Ordering::SeqCst);
            let waker = Arc::clone(&self).into();
            let mut future = self.future.lock().unwrap();
            if let Some(running) = future.as_mut()
                && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *future = None;
            }
            drop(future);
            if self.woken.fetch_sub(seen, Ordering::SeqCst) == seen {
                return;
            }
        }
    }
}

#[test]
fn tasks_may_run_inside_the_waker() {
    everywhere(|side| {
        let server = served(side, echo);
        let done = Arc::new((Mutex::new(0), std::sync::Condvar::new()));
        for i in 0..8u32 {
            let (client, done) = (server.client.clone(), Arc::clone(&done));
            let task = Arc::new(InlineTask {
                future: Mutex::new(Some(Box::pin(async move {
                    for _ in 0..50 {
                        let reply = client.request(i.to_le_bytes().to_vec(), PATIENCE).await;
                        assert_eq!(reply.unwrap().data, i.to_le_bytes()[..]);
                        client.flush().await.unwrap();
                    }
                    // Fails, by then, and wakes inside of `end`.
                    let never = client.recv().await;
                    assert!(never.is_err());
                    assert!(client.reader().recv().await.is_err());
                    assert!(client.request("", PATIENCE).await.is_err());
                    *done.0.lock().unwrap() += 1;
                    done.1.notify_all();
                }))),
                woken: Default::default(),
            });
            std::task::Wake::wake(task);
        }
        eventually("all requests", || server.client.stats().messages_sent >= 400);
        eventually("all replies", || server.client.stats().messages_received >= 400);
        server.client.close_blocking().unwrap();
        common::wait(&done, "the tasks", |done| (*done == 8).then_some(()));
    });
}

#[test]
fn other_runtimes_will_do() {
    each_driver(|side| {
        let server = served(side, echo);
        let client = server.client.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = runtime.block_on(async {
            let tasks: Vec<_> = (0..100u32)
                .map(|i| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let reply = client.request(i.to_le_bytes().to_vec(), PATIENCE).await;
                        assert_eq!(reply.unwrap().data, i.to_le_bytes()[..]);
                    })
                })
                .collect();
            let mut count = 0;
            for task in tasks {
                task.await.unwrap();
                count += 1;
            }
            count
        });
        assert_eq!(count, 100);
        let replies = futures_executor::block_on(async {
            let mut replies = Vec::new();
            for i in 0..20u32 {
                replies.push(client.request(i.to_le_bytes().to_vec(), PATIENCE).await.unwrap());
            }
            replies
        });
        assert_eq!(replies.len(), 20);
        assert!(matches!(
            futures_executor::block_on(client.request("", Duration::ZERO)),
            Ok(_) | Err(RequestError::TimedOut { .. })
        ));
        let mut cancelled = Box::pin(client.send("x"));
        let poll = cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Ready(Ok(_))));
    });
}

#[test]
fn an_automatic_id_leaves_out_what_another_request_has_chosen() {
    everywhere(|side| {
        for scheme in ["tcp", "ftcp"] {
            let config = quick().build().unwrap();
            let (_client_context, client_endpoint) = side.endpoint(&config);
            let (_server_context, server_endpoint) = side.endpoint(&config);
            let listener = server_endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
            let client = client_endpoint.connect_blocking(listener.url()).unwrap();
            let server = listener.accept_blocking().unwrap();
            let mut context = Context::from_waker(Waker::noop());
            let mut chosen = [1, 2, 4].map(|id| {
                let message = Message::new("chosen").with_id(id);
                Box::pin(client.request(message, PATIENCE))
            });
            for request in &mut chosen {
                assert!(request.as_mut().poll(&mut context).is_pending());
            }
            let mut automatic = [(); 2].map(|()| Box::pin(client.request("automatic", PATIENCE)));
            for request in &mut automatic {
                assert!(request.as_mut().poll(&mut context).is_pending(), "accepted, and waits");
            }
            let ids: Vec<u64> =
                (0..5).map(|_| server.recv_blocking().unwrap().id.unwrap().0).collect();
            assert_eq!(ids, [1, 2, 4, 3, 5], "over {scheme}");
        }
    });
}
