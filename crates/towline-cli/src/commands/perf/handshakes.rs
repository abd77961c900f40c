//! Handshakes per second: connections are made, secured, and closed again, as fast as they go.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use towline::{Address, Endpoint};

use super::control;
use super::flow::{histogram, percentiles};
use super::report::{Found, per_second, rtt_json};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::json::SCHEMA_VERSION;
use crate::units::show_time;

/// Measures for `time` with so many at once.
pub(super) fn run(
    endpoint: &Endpoint,
    address: &Address,
    time: Duration,
    parallel: u64,
    interrupt: &Interrupt,
) -> Outcome<Found> {
    let (begin, cpu) = (Instant::now(), control::cpu_time());
    let all = Mutex::new(histogram());
    std::thread::scope(|scope| -> Outcome {
        let threads: Vec<_> = (0..parallel)
            .map(|_| {
                scope.spawn(|| connect_again(endpoint, address, begin + time, interrupt, &all))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| Failure::failed("a thread panicked"))??;
        }
        Ok(())
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = control::cpu_time() - cpu;
    let all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rate = per_second(all.len() as f64, seconds);
    let times: Vec<String> = percentiles(&all)
        .iter()
        .map(|(name, time)| format!("{name} {}", show_time(*time)))
        .collect();
    Ok(Found {
        summary: format!(
            "hps {address}, {parallel} at once\n\
             handshakes {rate:.0} per second, {} in {seconds:.2} s\n\
             time       {}\n\
             CPU        {:.1} us each, here",
            all.len(),
            times.join(", "),
            cpu * 1e6 / (all.len() as f64).max(1.0),
        ),
        document: json!({
            "schema_version": SCHEMA_VERSION,
            "start": {"test_start": {
                "protocol": address.wire().scheme(), "scenario": "hps", "num_streams": parallel,
                "duration": time.as_secs_f64(),
            }},
            "intervals": [],
            "end": {
                "handshakes": all.len(),
                "handshakes_per_second": rate,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "handshake_us": rtt_json(&all),
            },
        }),
    })
}

fn connect_again(
    endpoint: &Endpoint,
    address: &Address,
    end: Instant,
    interrupt: &Interrupt,
    all: &Mutex<Histogram<u64>>,
) -> Outcome {
    let mut own = histogram();
    while Instant::now() < end && interrupt.signal().is_none() {
        let begin = Instant::now();
        let Ok(connected) = interrupt.wait_for(endpoint.connect(address)) else { break };
        let connection = connected?;
        own.saturating_record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        drop(interrupt.wait_for(connection.close()));
    }
    all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&own).ok();
    Ok(())
}
