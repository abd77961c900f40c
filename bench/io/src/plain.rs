//! The loops to compare with: what one writes by hand with blocking sockets and with epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use crate::Run;

/// Reads a message, writes it back.
pub fn blocking_server(run: &Run, mut stream: &TcpStream) {
    if run.work.one_way {
        blocking_sink(stream);
        return;
    }
    let mut buffer = vec![0; run.work.size];
    while stream.read_exact(&mut buffer).is_ok() {
        stream.write_all(&buffer).expect("write");
    }
}

/// Reads to the end.
pub fn blocking_sink(mut stream: &TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

/// Writes messages until told to stop.
pub fn blocking_source(run: &Run, mut stream: &TcpStream) -> u64 {
    let buffer = vec![7; run.work.size];
    let mut count = 0;
    while !run.stopped() {
        stream.write_all(&buffer).expect("write");
        count += 1;
    }
    stream.shutdown(Shutdown::Write).expect("shutdown");
    count
}

/// Writes a message and reads it back until told to stop.
pub fn blocking_client(run: &Run, mut stream: &TcpStream) -> u64 {
    let mut buffer = vec![7; run.work.size];
    let mut count = 0;
    while !run.stopped() {
        stream.write_all(&buffer).expect("write");
        stream.read_exact(&mut buffer).expect("read");
        count += 1;
    }
    stream.shutdown(Shutdown::Write).expect("shutdown");
    count
}

struct Epoll(i32);

impl Epoll {
    fn new(streams: &[TcpStream]) -> Epoll {
        // SAFETY: plain calls; `event` lives through them.
        unsafe {
            let epoll = libc::epoll_create1(0);
            for (index, stream) in streams.iter().enumerate() {
                stream.set_nonblocking(true).expect("nonblocking");
                let mut event =
                    libc::epoll_event { events: libc::EPOLLIN as u32, u64: index as u64 };
                libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &mut event);
            }
            Epoll(epoll)
        }
    }

    fn wait(&self, events: &mut [libc::epoll_event; 256], timeout: i32) -> usize {
        // SAFETY: the array has room for the number given.
        let count = unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), 256, timeout) };
        count.max(0) as usize
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.0) };
    }
}

/// Level-triggered, one read per event, the answer written at once.
pub fn epoll_server(run: &Run, streams: &[TcpStream]) {
    let epoll = Epoll::new(streams);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
    let mut buffer = vec![0; 1 << 16];
    let mut open = streams.len();
    while open > 0 {
        let count = epoll.wait(&mut events, -1);
        for event in &events[..count] {
            let mut stream = &streams[event.u64 as usize];
            match stream.read(&mut buffer) {
                Ok(0) => {
                    open -= 1;
                    // SAFETY: as in `new`.
                    unsafe {
                        let none = std::ptr::null_mut();
                        libc::epoll_ctl(epoll.0, libc::EPOLL_CTL_DEL, stream.as_raw_fd(), none);
                    }
                }
                Ok(length) if !run.work.one_way => {
                    let mut rest = &buffer[..length];
                    while !rest.is_empty() {
                        match stream.write(rest) {
                            Ok(written) => rest = &rest[written..],
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            Err(error) => panic!("write: {error}"),
                        }
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("read: {error}"),
            }
        }
    }
}

/// Keeps one message on its way on each connection.
pub fn epoll_client(run: &Run, streams: &[TcpStream]) -> u64 {
    let epoll = Epoll::new(streams);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
    let message = vec![7; run.work.size];
    let mut buffer = vec![0; run.work.size];
    let mut count = 0;
    for mut stream in streams {
        stream.write_all(&message).expect("write");
    }
    while !run.stopped() {
        let ready = epoll.wait(&mut events, 100);
        for event in &events[..ready] {
            let mut stream = &streams[event.u64 as usize];
            match stream.read(&mut buffer) {
                Ok(length) => {
                    assert_eq!(length, message.len(), "small messages come whole");
                    stream.write_all(&message).expect("write");
                    count += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("read: {error}"),
            }
        }
    }
    for stream in streams {
        stream.shutdown(Shutdown::Both).expect("shutdown");
    }
    count
}
