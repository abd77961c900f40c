//! `--metrics`: counters as OpenMetrics and `/healthz`, over a very small HTTP server.
//!
//! It is for scrapers on networks that one trusts: one request at a time, two seconds and 4 KiB for each, no TLS, no body read.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::output::Notes;

/// How long one request may take, from the connection to the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a request's head.
const MAX_HEAD: usize = 4096;

/// Where counters are served.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MetricsOption {
    /// Serve counters as OpenMetrics at http://ADDRESS/metrics, and /healthz; port 0 is any free one, told on standard error.
    #[arg(long = "metrics", value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

/// What a long-running command counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) failures: AtomicU64,
}

impl Counters {
    fn render(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        page.counter("towline_connections", "Connections accepted.", value(&self.connections));
        page.gauge("towline_open_connections", "Connections being served.", value(&self.open));
        page.counter("towline_received_messages", "Messages received.", value(&self.messages));
        page.counter(
            "towline_received_bytes",
            "Bytes of messages or files received.",
            value(&self.bytes),
        );
        page.counter("towline_received_files", "Files received and named.", value(&self.files));
        page.counter(
            "towline_failures",
            "Connections or files that failed.",
            value(&self.failures),
        );
    }
}

/// A page of OpenMetrics text.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: f64) {
        let _ =
            write!(self.0, "# TYPE {name} counter\n# HELP {name} {help}\n{name}_total {value}\n");
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let _ = write!(self.0, "# TYPE {name} gauge\n# HELP {name} {help}\n{name} {value}\n");
    }

    /// A counter with one value for each of two directions.
    pub(crate) fn directions(&mut self, name: &str, help: &str, [up, down]: [u64; 2]) {
        let _ = write!(
            self.0,
            "# TYPE {name} counter\n# HELP {name} {help}\n\
             {name}_total{{direction=\"up\"}} {up}\n{name}_total{{direction=\"down\"}} {down}\n"
        );
    }
}

/// Serves until it is dropped.
pub(crate) struct Serving {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsOption {
    /// Serves these counters, and what `more` adds, if it was asked for.
    pub(crate) fn serve(
        &self,
        counters: Arc<Counters>,
        more: impl Fn(&mut Page) + Send + 'static,
        notes: &Notes,
    ) -> Outcome<Option<Serving>> {
        let Some(address) = self.address else { return Ok(None) };
        let failed = |error: std::io::Error| {
            Failure::Failed(format!(
                "cannot serve metrics on {address}: {error}; choose another port"
            ))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        notes.info(&format!("metrics at http://{address}/metrics"));
        let stop = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&stop);
        let begin = Instant::now();
        let work = move || {
            for stream in listener.incoming() {
                if own.load(Ordering::Acquire) {
                    return;
                }
                // A scraper that goes away is nobody's failure.
                if let Ok(stream) = stream {
                    answer(&stream, || {
                        let mut page = Page::default();
                        page.gauge(
                            "towline_uptime_seconds",
                            "Time since the start.",
                            begin.elapsed().as_secs_f64(),
                        );
                        counters.render(&mut page);
                        more(&mut page);
                        page.0 + "# EOF\n"
                    })
                    .ok();
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("metrics".into()).spawn(work).map_err(failed)?;
        Ok(Some(Serving { address, stop, thread: Some(thread) }))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread; if that cannot be, the process's end does.
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().ok();
        }
    }
}

/// Reads one request and answers it.
fn answer(mut stream: &TcpStream, page: impl FnOnce() -> String) -> std::io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < MAX_HEAD {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => head.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, target.split('?').next().unwrap_or_default()) {
        ("GET" | "HEAD", "/metrics") => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, page())
        }
        ("GET" | "HEAD", "/healthz") => ("200 OK", plain, "ok\n".to_owned()),
        ("GET" | "HEAD", _) => ("404 Not Found", plain, "try /metrics or /healthz\n".to_owned()),
        _ => ("405 Method Not Allowed", plain, "GET only\n".to_owned()),
    };
    let shown = if method == "HEAD" { "" } else { body.as_str() };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    );
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(answer.as_bytes())
}
