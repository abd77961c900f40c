//! The same work on a driver.

use std::net::TcpStream;

use bytes::Bytes;
use towline_io::{Driver, DriverChoice, DriverConfig, Event};

use crate::{Run, Side};

/// Bytes that a source keeps queued.
const WINDOW: usize = 4 << 20;

fn driver(side: Side, spin: std::time::Duration) -> Driver {
    let kind = if side == Side::DriverEpoll { DriverChoice::Epoll } else { DriverChoice::IoUring };
    let mut config = DriverConfig::new(kind);
    config.spin = spin;
    if let Some(buffers) = crate::option("--buffers") {
        config.recv_buffers = buffers.parse().expect("a number");
    }
    Driver::new(&config).expect("driver")
}

/// Echoes, or reads to the end.
pub fn server(side: Side, run: &Run, streams: Vec<TcpStream>, spin: std::time::Duration) {
    let mut driver = driver(side, spin);
    let mut open = streams.len();
    for (tag, stream) in streams.into_iter().enumerate() {
        let id = driver.attach(stream.into(), tag as u64).expect("attach");
        driver.recv(id).expect("recv");
    }
    let mut completions = Vec::new();
    while open > 0 {
        driver.wait(None, &mut completions).expect("wait");
        for completion in completions.drain(..) {
            match completion.event {
                Event::Received(Ok(received)) if received.end => {
                    open -= 1;
                    driver.close(completion.socket);
                }
                Event::Received(Ok(received)) => {
                    if run.work.one_way {
                        driver.recycle(received.pooled.freeze());
                    } else {
                        // The answer is a copy, as an application's would be, and the buffer goes back.
                        let answer = Bytes::copy_from_slice(&received.pooled);
                        driver.recycle(received.pooled.freeze());
                        driver.post(completion.socket, [answer]).expect("post");
                    }
                    driver.recv(completion.socket).expect("recv");
                }
                Event::Received(Err(error)) => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Sends messages until told to stop.
pub fn source(side: Side, run: &Run, stream: TcpStream, spin: std::time::Duration) -> u64 {
    let mut driver = driver(side, spin);
    let id = driver.attach(stream.into(), 0).expect("attach");
    let message = Bytes::from(vec![7; run.work.size]);
    let mut completions = Vec::new();
    let mut count = 0;
    while !run.stopped() {
        while driver.queued(id) < WINDOW {
            driver.send(id, [message.clone()]).expect("send");
        }
        driver.wait(None, &mut completions).expect("wait");
        count += completions.drain(..).filter(|it| matches!(it.event, Event::Sent(Ok(_)))).count();
    }
    driver.close(id);
    count as u64
}
