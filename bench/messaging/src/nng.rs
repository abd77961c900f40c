//! nng by its own C interface: pair0 for ping-pong, push0 and pull0 one way.

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::{Duration, Instant};

use crate::scenario::{Kind, Meter, Scenario};

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Socket {
    id: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Listener {
    id: u32,
}

#[link(name = "nng")]
unsafe extern "C" {
    fn nng_pair0_open(socket: *mut Socket) -> c_int;
    fn nng_push0_open(socket: *mut Socket) -> c_int;
    fn nng_pull0_open(socket: *mut Socket) -> c_int;
    fn nng_listen(socket: Socket, url: *const c_char, listener: *mut Listener, flags: c_int) -> c_int;
    fn nng_listener_get_int(listener: Listener, option: *const c_char, value: *mut c_int) -> c_int;
    fn nng_dial(socket: Socket, url: *const c_char, dialer: *mut Listener, flags: c_int) -> c_int;
    fn nng_send(socket: Socket, data: *mut c_void, size: usize, flags: c_int) -> c_int;
    fn nng_recv(socket: Socket, data: *mut c_void, size: *mut usize, flags: c_int) -> c_int;
    fn nng_socket_set_size(socket: Socket, option: *const c_char, value: usize) -> c_int;
}

pub fn speaks(scenario: &Scenario) -> bool {
    matches!(scenario.kind, Kind::PingPong { connections: 1 } | Kind::OneWay)
}

fn open(scenario: &Scenario, sends: bool) -> Socket {
    let mut socket = Socket::default();
    // SAFETY: nng's documented calls with a socket that lives on this stack frame.
    unsafe {
        let result = match (scenario.is_one_way(), sends) {
            (false, _) => nng_pair0_open(&mut socket),
            (true, true) => nng_push0_open(&mut socket),
            (true, false) => nng_pull0_open(&mut socket),
        };
        assert_eq!(result, 0);
        nng_socket_set_size(socket, c"recv-size-max".as_ptr(), 0);
    }
    socket
}

pub fn serve(scenario: &Scenario, _: f64) {
    let socket = open(scenario, false);
    let mut buffer = vec![0u8; scenario.size];
    let mut meter = Meter::default();
    // SAFETY: as above; buffers outlive each call and their sizes are passed with them.
    unsafe {
        let mut listener = Listener::default();
        assert_eq!(nng_listen(socket, c"tcp://127.0.0.1:0".as_ptr(), &mut listener, 0), 0);
        let mut port: c_int = 0;
        assert_eq!(nng_listener_get_int(listener, c"tcp-bound-port".as_ptr(), &mut port), 0);
        println!("{port}");
        loop {
            let mut size = buffer.len();
            if nng_recv(socket, buffer.as_mut_ptr().cast(), &mut size, 0) != 0 {
                continue;
            }
            if !scenario.is_one_way() {
                nng_send(socket, buffer.as_mut_ptr().cast(), size, 0);
                continue;
            }
            if size == 1 {
                break;
            }
            if scenario.size > 64 { meter.add(1) } else { meter.add_one() }
        }
    }
    meter.print();
}

pub fn drive(scenario: &Scenario, port: u16, seconds: f64) {
    let socket = open(scenario, true);
    let url = CString::new(format!("tcp://127.0.0.1:{port}")).expect("no zero");
    let mut buffer = vec![7u8; scenario.size];
    // SAFETY: as above.
    unsafe {
        let mut dialer = Listener::default();
        assert_eq!(nng_dial(socket, url.as_ptr(), &mut dialer, 0), 0);
        let (start, length) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut count = 0u64;
        let stride = if scenario.is_one_way() && scenario.size <= 64 { 64 } else { 1 };
        while start.elapsed() < length {
            for _ in 0..stride {
                assert_eq!(nng_send(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0), 0);
                if !scenario.is_one_way() {
                    let mut size = buffer.len();
                    assert_eq!(nng_recv(socket, buffer.as_mut_ptr().cast(), &mut size, 0), 0);
                }
                count += 1;
            }
        }
        if scenario.is_one_way() {
            nng_send(socket, buffer.as_mut_ptr().cast(), 1, 0);
            // nng drops what is queued when the process ends: give the last message time.
            std::thread::sleep(Duration::from_millis(300));
        } else {
            println!("{}", count as f64 / start.elapsed().as_secs_f64());
        }
    }
}
