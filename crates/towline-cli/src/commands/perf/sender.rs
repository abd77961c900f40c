//! Sends data for a time or an amount, at a rate.

use std::time::{Duration, Instant};

use towline::{Connection, SendError};

use super::control::Plan;
use crate::interrupt::Interrupt;

/// How far behind its rate a sender may catch up at once.
const BURST: Duration = Duration::from_millis(20);

/// Sends until the plan is fulfilled or `stop`; how many messages it was. `count` sees each one.
pub(super) fn send(
    connection: &Connection,
    plan: &Plan,
    stop: &Interrupt,
    mut count: impl FnMut(),
) -> Result<u64, SendError> {
    let message = plan.message();
    let length = plan.length as u64;
    let limit = plan.bytes.map_or(u64::MAX, |bytes| bytes.div_ceil(length));
    let end = if plan.bytes.is_some() { None } else { Some(Instant::now() + plan.time) };
    let takes = plan.rate.map(|rate| Duration::from_secs_f64(length as f64 * 8.0 / rate as f64));
    let mut due = Instant::now();
    let mut sent = 0;
    while sent < limit && end.is_none_or(|end| Instant::now() < end) {
        if let Some(takes) = takes {
            let earliest = Instant::now().checked_sub(BURST).unwrap_or(due);
            due = due.max(earliest) + takes;
            let wake = end.map_or(due, |end| due.min(end));
            if wake > Instant::now() && stop.sleep_until(wake).is_err() {
                break;
            }
        }
        match connection.try_send(message.clone()) {
            Ok(_) => {}
            Err(towline::TrySendError::Full(message)) => {
                match stop.wait_for(connection.send(message)) {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(_) => break,
                }
            }
            Err(towline::TrySendError::Failed { error, .. }) => return Err(error),
            Err(_) => break,
        }
        sent += 1;
        count();
        if sent % 64 == 0 && stop.signal().is_some() {
            break;
        }
    }
    Ok(sent)
}
