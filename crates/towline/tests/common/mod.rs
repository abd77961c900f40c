//! What the behaviour tests share: contexts over both drivers, a recorder of events, random messages with an oracle, and
//! a proxy that hurts.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "each test file uses its part, and prints its seed"
)]

#[cfg(feature = "quic")]
pub mod cert;
pub mod oracle;
pub mod proxy;
pub mod router;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use towline::{
    Config, ConfigBuilder, Connection, Context, DriverChoice, Endpoint, Event, Handler, Listener,
};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs a test over both drivers, with one I/O thread and with several.
pub fn everywhere(test: impl Fn(Side)) {
    for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
        for threads in [1, 3] {
            println!("{driver:?}, {threads} I/O threads");
            test(Side { driver, threads });
        }
    }
}

/// Runs a test over both drivers.
pub fn each_driver(test: impl Fn(Side)) {
    for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
        println!("{driver:?}");
        test(Side { driver, threads: 2 });
    }
}

/// How to make a side of a test.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub driver: DriverChoice,
    pub threads: usize,
}

impl Side {
    pub fn context(self) -> Context {
        Context::builder().threads(self.threads).driver(self.driver).build().unwrap()
    }

    pub fn endpoint(self, config: &Config) -> (Context, Endpoint) {
        let context = self.context();
        let endpoint = Endpoint::new(&context, config);
        (context, endpoint)
    }

    /// A connected pair, each end in a context of its own.
    pub fn pair(self, config: &Config) -> Pair {
        let (client_context, client_endpoint) = self.endpoint(config);
        let (server_context, server_endpoint) = self.endpoint(config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let client = client_endpoint.connect_blocking(listener.url()).unwrap();
        let server = listener.accept_blocking().unwrap();
        Pair {
            client,
            server,
            listener: Some(listener),
            client_endpoint,
            server_endpoint,
            client_context: Some(client_context),
            server_context: Some(server_context),
        }
    }
}

pub struct Pair {
    pub client: Connection,
    pub server: Connection,
    pub listener: Option<Listener>,
    pub client_endpoint: Endpoint,
    pub server_endpoint: Endpoint,
    pub client_context: Option<Context>,
    pub server_context: Option<Context>,
}

/// Short times, so that faults are dealt with within a test's patience.
pub fn quick() -> ConfigBuilder {
    Config::builder()
        .backoff(ms(1), ms(50))
        .connect_timeout(ms(3000))
        .close_timeout(ms(1500))
        .redial_window(PATIENCE)
}

/// Waits on `condition` under a lock. Panics with `what` when patience is over.
pub fn wait<T, R>(
    (lock, changed): &(Mutex<T>, Condvar),
    what: &str,
    mut condition: impl FnMut(&mut T) -> Option<R>,
) -> R {
    let deadline = Instant::now() + PATIENCE;
    let mut guard = lock.lock().unwrap();
    loop {
        if let Some(result) = condition(&mut guard) {
            return result;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "waited in vain for {what}");
        guard = changed.wait_timeout(guard, left).unwrap().0;
    }
}

/// Polls a condition that nothing announces, such as a counter, without holding a core.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(ms(1));
    }
}

/// A handler that records every event, for tests to wait on.
#[derive(Clone, Default)]
pub struct Recorder {
    events: Arc<(Mutex<Vec<Event>>, Condvar)>,
}

impl Handler for Recorder {
    fn event(&mut self, _: &Connection, event: Event) {
        self.events.0.lock().unwrap().push(event);
        self.events.1.notify_all();
    }
}

impl Recorder {
    pub fn events(&self) -> Vec<Event> {
        self.events.0.lock().unwrap().clone()
    }

    /// The names of the events so far, without messages and back-pressure.
    pub fn names(&self) -> Vec<&'static str> {
        let plain = |name: &&str| !matches!(*name, "message" | "writable" | "flushed");
        self.events().iter().map(name).filter(plain).collect()
    }

    /// Waits until `count` events satisfy `wanted`, and returns the last of these.
    pub fn wait_for(&self, what: &str, count: usize, wanted: impl Fn(&Event) -> bool) -> Event {
        wait(&self.events, what, |events| {
            events.iter().filter(|event| wanted(event)).nth(count.checked_sub(1)?).cloned()
        })
    }

    pub fn closed(&self) -> towline::Closed {
        match self.wait_for("closed", 1, |event| matches!(event, Event::Closed(_))) {
            Event::Closed(closed) => closed,
            _ => unreachable!(),
        }
    }
}

pub fn name(event: &Event) -> &'static str {
    match event {
        Event::Connected(_) => "connected",
        Event::Message(_) => "message",
        Event::Writable => "writable",
        Event::Flushed => "flushed",
        Event::Disconnected(_) => "disconnected",
        Event::Redialing(_) => "redialing",
        Event::GaveUp(_) => "gave up",
        Event::Reset(_) => "reset",
        Event::TooLarge(_) => "too large",
        Event::Closed(_) => "closed",
        _ => "another",
    }
}

/// A small generator, good enough for tests: SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    /// Seeded by `TOWLINE_SEED` if that is set. Prints the seed.
    pub fn from_env(default: u64) -> Random {
        let seed = std::env::var("TOWLINE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(default);
        println!("TOWLINE_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Runs `work` on another thread and fails when it does not come back in time.
pub fn in_time<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        tell.send(work()).ok();
    });
    match told.recv_timeout(limit) {
        Ok(value) => {
            worker.join().unwrap();
            value
        }
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().unwrap_err())
        }
        Err(_) => panic!("{what} did not return within {limit:?}"),
    }
}

/// A hand-made executor for one future: nothing of towline's, nothing of anybody's runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// [`quick`] with a certificate of its own that it trusts, for encrypted wires.
pub fn identified() -> ConfigBuilder {
    static IDENTITY: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "towline test");
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    });
    quick().certificate_pem(certificate.clone(), key.clone()).ca_pem(certificate.clone())
}
