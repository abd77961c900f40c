//! ZeroMQ by libzmq's own interface: PAIR for ping-pong on one connection, DEALER and ROUTER for many, PUSH and PULL one way.

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::{Duration, Instant};

use crate::scenario::{Kind, Meter, Scenario};

#[link(name = "zmq")]
unsafe extern "C" {
    fn zmq_ctx_new() -> *mut c_void;
    fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    fn zmq_bind(socket: *mut c_void, to: *const c_char) -> c_int;
    fn zmq_connect(socket: *mut c_void, to: *const c_char) -> c_int;
    fn zmq_send(socket: *mut c_void, data: *const c_void, size: usize, flags: c_int) -> c_int;
    fn zmq_recv(socket: *mut c_void, data: *mut c_void, size: usize, flags: c_int) -> c_int;
    fn zmq_close(socket: *mut c_void) -> c_int;
    fn zmq_ctx_term(context: *mut c_void) -> c_int;
    fn zmq_getsockopt(socket: *mut c_void, option: c_int, value: *mut c_void, length: *mut usize) -> c_int;
}

const PAIR: c_int = 0;
const PULL: c_int = 7;
const PUSH: c_int = 8;
const LAST_ENDPOINT: c_int = 32;

pub fn speaks(scenario: &Scenario) -> bool {
    matches!(scenario.kind, Kind::PingPong { connections: 1 } | Kind::OneWay)
}

pub fn serve(scenario: &Scenario, _: f64) {
    let kind = if scenario.is_one_way() { PULL } else { PAIR };
    // SAFETY: libzmq's documented calls; buffers outlive each call and their sizes are passed with them.
    unsafe {
        let context = zmq_ctx_new();
        let socket = zmq_socket(context, kind);
        assert_eq!(zmq_bind(socket, c"tcp://127.0.0.1:*".as_ptr()), 0);
        let mut name = [0u8; 256];
        let mut length = name.len();
        assert_eq!(zmq_getsockopt(socket, LAST_ENDPOINT, name.as_mut_ptr().cast(), &mut length), 0);
        let name = String::from_utf8_lossy(&name[..length - 1]).into_owned();
        println!("{}", name.rsplit(':').next().expect("a port"));
        let mut buffer = vec![0u8; scenario.size];
        let mut meter = Meter::default();
        loop {
            let received = zmq_recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0);
            if !scenario.is_one_way() {
                zmq_send(socket, buffer.as_ptr().cast(), received as usize, 0);
                continue;
            }
            if received == 1 {
                break;
            }
            if scenario.size > 64 { meter.add(1) } else { meter.add_one() }
        }
        meter.print();
    }
}

pub fn drive(scenario: &Scenario, port: u16, seconds: f64) {
    let kind = if scenario.is_one_way() { PUSH } else { PAIR };
    let to = CString::new(format!("tcp://127.0.0.1:{port}")).expect("no zero");
    // SAFETY: as above.
    unsafe {
        let context = zmq_ctx_new();
        let socket = zmq_socket(context, kind);
        assert_eq!(zmq_connect(socket, to.as_ptr()), 0);
        let mut buffer = vec![7u8; scenario.size];
        let (start, length) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut count = 0u64;
        // The clock is looked at every 64 small messages, so that it does not count.
        let stride = if scenario.is_one_way() && scenario.size <= 64 { 64 } else { 1 };
        while start.elapsed() < length {
            for _ in 0..stride {
                zmq_send(socket, buffer.as_ptr().cast(), buffer.len(), 0);
                if !scenario.is_one_way() {
                    zmq_recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0);
                }
                count += 1;
            }
        }
        if scenario.is_one_way() {
            zmq_send(socket, buffer.as_ptr().cast(), 1, 0);
        } else {
            println!("{}", count as f64 / start.elapsed().as_secs_f64());
        }
        zmq_close(socket);
        zmq_ctx_term(context);
    }
}
