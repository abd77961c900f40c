//! Sessions under every fault at once, for as long as one likes: `cargo xtask soak`, or
//! `TOWLINE_SOAK_SECONDS=600 TOWLINE_SEED=1 cargo test --release -p towline -- --ignored --nocapture soak`.
#![allow(clippy::print_stdout, reason = "what it did")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::oracle::converse;
use common::proxy::{Cut, Plan, Proxy, Way};
use common::{Random, Side, identified, ms};
use towline::DriverChoice;

/// One connection that talks both ways through a proxy that hurts, until `until`. Returns messages and wires.
fn endure(side: Side, scheme: &str, seed: u64, until: Instant) -> (usize, usize) {
    let mut random = Random(seed);
    let config = identified()
        .keep_alive(ms(200))
        .silence_limit(ms(700))
        .connect_timeout(ms(1000))
        .head_start(ms(50))
        .build()
        .unwrap();
    let (client_context, client_endpoint) = side.endpoint(&config);
    let (server_context, server_endpoint) = side.endpoint(&config);
    let listen = || server_endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
    let (first, second) = (listen(), listen());
    let planner = |seed: u64| {
        let mut random = Random(seed);
        move |_: usize| {
            let way = if random.below(2) == 0 { Way::ToServer } else { Way::ToClient };
            let how = match random.below(8) {
                0 => Cut::Swallow,
                1..4 => Cut::Reset,
                _ => Cut::Fin,
            };
            let after = match random.below(4) {
                // Somewhere in the greetings, or soon, or late.
                0 => random.below(300),
                1 => random.below(100_000),
                _ => random.below(4 << 20),
            };
            let delay = if random.below(8) == 0 { ms(random.below(3)) } else { Duration::ZERO };
            Plan { cut: Some((way, after as usize, how)), delay }
        }
    };
    let mut near = Proxy::new(&first.url());
    let far = Proxy::new(&second.url());
    let urls = [near.url(scheme), far.url(scheme)];
    let client = client_endpoint.connect_blocking(urls).unwrap();
    let server = first.try_accept().unwrap().unwrap_or_else(|| {
        // Either listener may have it.
        loop {
            if let Some(connection) = second.try_accept().unwrap() {
                break connection;
            }
            if let Some(connection) = first.try_accept().unwrap() {
                break connection;
            }
            std::thread::yield_now();
        }
    });
    near.plan(planner(random.next()));
    far.plan(planner(random.next()));
    let over = Arc::new(AtomicBool::new(false));
    let ending = Arc::clone(&over);
    let mut meddling = Random(random.next());
    // Beside the planned cuts: outages and cuts of everything at random times.
    let meddler = std::thread::spawn(move || {
        let mut wires = 0;
        while !ending.load(Ordering::SeqCst) {
            std::thread::park_timeout(ms(meddling.below(400)));
            match meddling.below(4) {
                0 => {
                    near.outage();
                    std::thread::park_timeout(ms(meddling.below(200)));
                    near.open();
                }
                1 => drop(near.cut(Cut::Reset) + far.cut(Cut::Fin)),
                2 => drop(near.cut(Cut::Swallow)),
                _ => {}
            }
            wires = near.accepted() + far.accepted();
        }
        // Peace, for the goodbyes.
        near.plan(|_| Plan::default());
        far.plan(|_| Plan::default());
        (wires, near, far)
    });
    let messages =
        converse(&client, &server, &mut random, 3 << 20, move |_| Instant::now() < until);
    over.store(true, Ordering::SeqCst);
    let (wires, _near, _far) = meddler.join().unwrap();
    assert_eq!((client.stats().resets, server.stats().resets), (0, 0));
    client.close_blocking().ok();
    drop((client_context, server_context));
    (messages, wires)
}

fn soak(time: Duration) {
    let mut random = Random::from_env(31);
    let until = Instant::now() + time;
    let (messages, wires) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
            for (threads, scheme) in [(1, "tcp"), (3, "tls")] {
                let seed = random.next();
                let (messages, wires) = (&messages, &wires);
                scope.spawn(move || {
                    let side = Side { driver, threads };
                    let (sent, dialed) = endure(side, scheme, seed, until);
                    println!("{driver:?} {threads} {scheme}: {sent} messages, {dialed} wires");
                    assert!(sent > 0);
                    messages.fetch_add(sent, Ordering::SeqCst);
                    wires.fetch_add(dialed, Ordering::SeqCst);
                });
            }
        }
    });
    println!("{messages:?} messages over {wires:?} wires in {time:?}, each once and in order");
    assert!(wires.into_inner() > 8, "the wires were cut");
}

#[test]
fn a_few_seconds_of_every_fault() {
    soak(Duration::from_secs(4));
}

#[test]
#[ignore = "takes as long as it is told: cargo xtask soak"]
fn soak_under_every_fault() {
    let seconds = std::env::var("TOWLINE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    soak(Duration::from_secs(seconds.unwrap_or(60)));
}
