//! What the kernel knows about a TCP connection.

use socket2::Socket;

/// Where `tcpi_bytes_acked` stands in Linux' `struct tcp_info`: behind eight single bytes, twenty-four 32-bit and two
/// 64-bit fields (linux/tcp.h).
const BYTES_ACKED: usize = 8 + 24 * 4 + 2 * 8;

/// How many bytes of the stream the peer's TCP has acknowledged; `None` where the system does not tell. Stays readable
/// after the connection was reset. Acknowledged by TCP does not mean read by the peer's program.
pub fn tcp_acknowledged(socket: &Socket) -> Option<u64> {
    use std::os::fd::AsRawFd;

    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, and the number that it wrote into `length`; both
    // live on this stack frame. The descriptor is open as long as `socket` is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 || (length as usize) < BYTES_ACKED + 8 {
        return None;
    }
    let field = info.get(BYTES_ACKED..BYTES_ACKED + 8)?;
    let count = u64::from_ne_bytes(field.try_into().ok()?);
    // It counts the SYN too, except before the connection is there.
    Some(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn counts_what_the_peer_acknowledged_and_survives_the_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(tcp_acknowledged(&socket2::SockRef::from(&near)), Some(0));
        near.write_all(&[7; 20_480]).unwrap();
        // The answer tells that all of it has arrived, and so that it is acknowledged with it at the latest.
        let mut all = [0; 20_480];
        far.read_exact(&mut all).unwrap();
        far.write_all(&[1]).unwrap();
        near.read_exact(&mut [0]).unwrap();
        assert_eq!(tcp_acknowledged(&socket2::SockRef::from(&near)), Some(20_480));
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        assert!(near.read(&mut [0]).is_err());
        assert_eq!(tcp_acknowledged(&socket2::SockRef::from(&near)), Some(20_480));
    }
}
