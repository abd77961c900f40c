//! Datagram sockets: offloads, batches, control messages; common to all drivers.

use std::collections::VecDeque;
use std::io;
use std::mem::{self, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use bytes::{Bytes, BytesMut};
use socket2::Socket;

use crate::buffer::Pool;
use crate::error::cancelled;
use crate::{
    CancelGrade, Completion, Datagrams, DatagramsSent, Ecn, Event, OpId, SentNow, SocketId,
    Transmit, TransmitRef, UdpCapabilities, UdpOptions, sys,
};

/// The largest payload of a datagram over IPv4; of a whole train, too.
pub(crate) const MAX_DATAGRAM: usize = 65_507;
/// Bytes in a buffer for datagrams: the largest coalesced train and what io_uring puts before it.
pub(crate) const BUFFER_SIZE: usize = 65_536 + 512;
/// Datagrams or trains per system call.
const BATCH: usize = 32;
/// Most datagrams in a train (`UDP_MAX_SEGMENTS` of kernels before 6.7).
const GSO_SEGMENTS: usize = 64;
/// Runs up to this size are copied into shared memory and leave their buffer free at once.
const PACK_LIMIT: usize = 4096;
/// Room for control messages: packet info (32), traffic class (24) and segment size (24), and some to spare.
pub(crate) const CONTROL_SIZE: usize = 128;

/// Memory for control messages, aligned as their headers want it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_SIZE]);

/// A datagram socket.
#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) capabilities: UdpCapabilities,
    pub(crate) batch: bool,
    pub(crate) queue: VecDeque<Unsent>,
    /// Bytes in `queue` that are not in the kernel.
    pub(crate) queued: usize,
    /// The serial of the armed receive.
    pub(crate) recv: Option<u64>,
    /// The kernel has the receive (io_uring).
    pub(crate) recv_submitted: bool,
    /// It was asked to be cancelled while the kernel had it (io_uring).
    pub(crate) recv_cancel: bool,
    /// The kernel watches for room to send (io_uring).
    pub(crate) send_polled: bool,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// What the kernel reads during a multishot receive (io_uring).
    pub(crate) header: Option<Box<libc::msghdr>>,
}

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) serial: u64,
    pub(crate) transmit: Transmit,
    sent: usize,
}

impl Unsent {
    pub(crate) fn new(serial: u64, transmit: Transmit) -> Unsent {
        Unsent { serial, transmit, sent: 0 }
    }

    /// What to report if no more of it is sent.
    pub(crate) fn cancelled(self) -> Outcome {
        let Unsent { serial, transmit, sent } = self;
        let result = if sent > 0 { Ok(sent) } else { Err(cancelled()) };
        Outcome { serial, transmit, result }
    }
}

/// What became of one transmit.
pub(crate) struct Outcome {
    pub(crate) serial: u64,
    pub(crate) transmit: Transmit,
    pub(crate) result: io::Result<usize>,
}

impl Outcome {
    pub(crate) fn completion(self, socket: SocketId, tag: u64) -> Completion {
        let Outcome { serial, transmit, result } = self;
        let event = Event::DatagramsSent(DatagramsSent { result, contents: transmit.contents });
        Completion { socket, op: OpId { socket, serial }, tag, event }
    }
}

impl Udp {
    /// Switches on what is asked for and there.
    pub(crate) fn new(socket: &Socket, options: UdpOptions) -> io::Result<Udp> {
        let domain = socket.domain()?;
        let v6 = domain == socket2::Domain::IPV6;
        if !v6 && domain != socket2::Domain::IPV4 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an IP datagram socket"));
        }
        let fd = socket.as_raw_fd();
        let on = |level, name| set_option(fd, level, name, 1).is_ok();
        let mut ecn = options.ecn;
        let mut local_address = options.local_address;
        // A dual-stack socket gets the marks of IPv4 packets by the IPv4 option.
        let v4_marks = on_if(options.ecn, || on(libc::IPPROTO_IP, libc::IP_RECVTOS));
        if v6 {
            ecn = on_if(ecn, || on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS));
            local_address = on_if(local_address, || on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO));
        } else {
            ecn = ecn && v4_marks;
            local_address = on_if(local_address, || on(libc::IPPROTO_IP, libc::IP_PKTINFO));
        }
        if options.dont_fragment {
            let probe = libc::IP_PMTUDISC_PROBE;
            let v4 = set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe);
            if v6 {
                set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            } else {
                v4?;
            }
        }
        let gso = options.gso && has_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT);
        let capabilities = UdpCapabilities {
            gso_segments: if gso { GSO_SEGMENTS } else { 1 },
            gro: on_if(options.gro, || on(libc::SOL_UDP, libc::UDP_GRO)),
            ecn,
            local_address,
        };
        Ok(Udp {
            capabilities,
            batch: options.batch,
            queue: VecDeque::new(),
            queued: 0,
            recv: None,
            recv_submitted: false,
            recv_cancel: false,
            send_polled: false,
            readable: true,
            writable: true,
            header: None,
        })
    }

    /// Sends from the queue until it is empty or the socket is full, and hands out what is done. Returns system calls
    /// made and offloads given up.
    pub(crate) fn flush(
        &mut self,
        fd: RawFd,
        batch: &mut Batch,
        mut done: impl FnMut(Outcome),
    ) -> (u64, u64) {
        let (mut calls, mut fallbacks) = (0, 0);
        while self.writable && !self.queue.is_empty() {
            let count = batch.fill(self);
            calls += 1;
            match batch.send(fd, count) {
                Ok(sent) => {
                    for length in &batch.lengths[..sent] {
                        self.advance(*length, &mut done);
                    }
                }
                Err(error) if sys::would_block(&error) => self.writable = false,
                Err(error) if self.refused_offload(&error, batch.lengths[0]) => fallbacks += 1,
                Err(error) => {
                    if let Some(item) = self.queue.pop_front() {
                        self.queued -= item.transmit.contents.len() - item.sent;
                        let Unsent { serial, transmit, .. } = item;
                        done(Outcome { serial, transmit, result: Err(error) });
                    }
                }
            }
        }
        (calls, fallbacks)
    }

    /// The first of the queue has `length` bytes more in the kernel.
    fn advance(&mut self, length: usize, done: &mut impl FnMut(Outcome)) {
        let Some(item) = self.queue.front_mut() else { return };
        item.sent += length;
        self.queued -= length;
        if item.sent >= item.transmit.contents.len()
            && let Some(Unsent { serial, transmit, sent }) = self.queue.pop_front()
        {
            done(Outcome { serial, transmit, result: Ok(sent) });
        }
    }

    /// Takes a transmit out of the queue, if the grade allows.
    pub(crate) fn cancel_send(&mut self, serial: u64, grade: CancelGrade) -> Option<Outcome> {
        let index = self.queue.iter().position(|item| item.serial == serial)?;
        if grade == CancelGrade::Total && self.queue[index].sent > 0 {
            return None;
        }
        let item = self.queue.remove(index)?;
        self.queued -= item.transmit.contents.len() - item.sent;
        Some(item.cancelled())
    }

    /// Copies what `send_now` left into the queue, numbered from behind `serial`; returns how many transmits.
    pub(crate) fn queue_rest(
        &mut self,
        transmits: &[TransmitRef<'_>],
        (index, at): (usize, usize),
        serial: u64,
    ) -> usize {
        let mut count = 0;
        for transmit in transmits.iter().skip(index) {
            let skip = if count == 0 { at } else { 0 };
            let contents = Bytes::copy_from_slice(&transmit.contents[skip..]);
            let Head { destination, source, ecn, segment_size } = transmit.head();
            self.queued += contents.len();
            count += 1;
            let transmit = Transmit { destination, source, ecn, segment_size, contents };
            self.queue.push_back(Unsent::new(serial + count as u64, transmit));
        }
        count
    }

    /// The same for the first of the queue.
    fn refused_offload(&mut self, error: &io::Error, length: usize) -> bool {
        let head = self.queue.front().map(|item| Head::of(&item.transmit));
        head.is_some_and(|head| self.give_up_offload(head, error, length))
    }

    /// Sends borrowed datagrams as far as the kernel takes them. Returns what became of them, the place of the first that is left
    /// (transmit, byte), system calls made and offloads given up.
    pub(crate) fn send_now(
        &mut self,
        fd: RawFd,
        batch: &mut Batch,
        transmits: &[TransmitRef<'_>],
    ) -> (SentNow, (usize, usize), (u64, u64)) {
        let mut now = SentNow::default();
        let (mut index, mut at) = (0, 0);
        let (mut calls, mut fallbacks) = (0, 0);
        while self.writable && self.queue.is_empty() {
            let Some(rest) = transmits.get(index..).filter(|rest| !rest.is_empty()) else { break };
            let count = batch.fill_borrowed(self, rest, at);
            calls += 1;
            match batch.send(fd, count) {
                Ok(sent) => {
                    for length in &batch.lengths[..sent] {
                        at += length;
                        now.bytes += length;
                        if at >= transmits.get(index).map_or(0, |t| t.contents.len()) {
                            (index, at) = (index + 1, 0);
                        }
                    }
                }
                Err(error) if sys::would_block(&error) => self.writable = false,
                Err(error) if self.give_up_offload(rest[0].head(), &error, batch.lengths[0]) => {
                    fallbacks += 1;
                }
                Err(error) => {
                    now.error = Some(error);
                    (index, at) = (index + 1, 0);
                }
            }
        }
        (now, (index, at), (calls, fallbacks))
    }

    /// The system refused this one. Whether it may be for an offload, which is not used from now on.
    fn give_up_offload(&mut self, head: Head, error: &io::Error, length: usize) -> bool {
        let code = error.raw_os_error();
        if !matches!(code, Some(libc::EIO | libc::EINVAL)) {
            return false;
        }
        let segment = head.segment_size.unwrap_or(length);
        if length > segment && self.capabilities.gso_segments > 1 {
            // A device without checksum offload (EIO), or a kernel that has the option but not for this route.
            self.capabilities.gso_segments = 1;
            return true;
        }
        if head.ecn.is_some() && self.capabilities.ecn {
            self.capabilities.ecn = false;
            return true;
        }
        false
    }
}

/// Everything about a transmit but its contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) destination: SocketAddr,
    pub(crate) source: Option<IpAddr>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) segment_size: Option<usize>,
}

impl Head {
    fn of(transmit: &Transmit) -> Head {
        let Transmit { destination, source, ecn, segment_size, .. } = *transmit;
        Head { destination, source, ecn, segment_size }
    }
}

impl TransmitRef<'_> {
    fn head(&self) -> Head {
        let TransmitRef { destination, source, ecn, segment_size, .. } = *self;
        Head { destination, source, ecn, segment_size }
    }
}

fn on_if(wanted: bool, switch: impl FnOnce() -> bool) -> bool {
    wanted && switch()
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is a readable integer of the length given.
    let result = unsafe {
        let len = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), len)
    };
    sys::check(result as isize).map(drop)
}

fn has_option(fd: RawFd, level: i32, name: i32) -> bool {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is a writable integer and `len` says so.
    let result =
        unsafe { libc::getsockopt(fd, level, name, ptr::from_mut(&mut value).cast(), &mut len) };
    result == 0
}

/// Memory for one batched system call, shared by the sockets of a driver.
pub(crate) struct Batch {
    headers: [libc::mmsghdr; BATCH],
    iovecs: [libc::iovec; BATCH],
    names: [libc::sockaddr_storage; BATCH],
    controls: [Control; BATCH],
    /// Payload bytes of each message of a send.
    lengths: [usize; BATCH],
    /// Buffers for a receive, empty.
    buffers: Vec<BytesMut>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("buffers", &self.buffers.len()).finish_non_exhaustive()
    }
}

impl Batch {
    pub(crate) fn new() -> Box<Batch> {
        // SAFETY: all zeros is a valid value of each of these plain structures of the C library.
        let (headers, iovecs, names) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let controls = [Control([0; CONTROL_SIZE]); BATCH];
        let lengths = [0; BATCH];
        Box::new(Batch { headers, iovecs, names, controls, lengths, buffers: Vec::new() })
    }

    /// Describes the next trains of the queue; returns how many messages.
    fn fill(&mut self, udp: &Udp) -> usize {
        let most = if udp.batch { BATCH } else { 1 };
        let mut count = 0;
        for item in &udp.queue {
            let contents = &item.transmit.contents;
            let mut at = item.sent;
            while count < most {
                let head = Head::of(&item.transmit);
                let length = train(head, contents.len() - at, udp.capabilities);
                self.describe(count, head, &contents[at..at + length], udp.capabilities);
                count += 1;
                at += length;
                if at >= contents.len() {
                    break;
                }
            }
            if count == most {
                break;
            }
        }
        count
    }

    /// Describes the next trains of `transmits`, the first of them from byte `at` on; returns how many messages.
    fn fill_borrowed(&mut self, udp: &Udp, transmits: &[TransmitRef<'_>], at: usize) -> usize {
        let most = if udp.batch { BATCH } else { 1 };
        let (mut count, mut at) = (0, at);
        for transmit in transmits {
            while count < most {
                let head = transmit.head();
                let length = train(head, transmit.contents.len() - at, udp.capabilities);
                self.describe(count, head, &transmit.contents[at..at + length], udp.capabilities);
                count += 1;
                at += length;
                if at >= transmit.contents.len() {
                    break;
                }
            }
            if count == most {
                break;
            }
            at = 0;
        }
        count
    }

    fn describe(&mut self, index: usize, transmit: Head, data: &[u8], can: UdpCapabilities) {
        self.lengths[index] = data.len();
        self.iovecs[index] =
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let name_len = write_name(&mut self.names[index], transmit.destination);
        let header = &mut self.headers[index].msg_hdr;
        *header = sys::empty_msghdr();
        header.msg_name = ptr::from_mut(&mut self.names[index]).cast();
        header.msg_namelen = name_len;
        header.msg_iov = &mut self.iovecs[index];
        header.msg_iovlen = 1;
        let mut control = ControlWriter { control: &mut self.controls[index].0, len: 0 };
        let v4 = match transmit.destination.ip() {
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
        };
        if let Some(ecn) = transmit.ecn.filter(|_| can.ecn) {
            let bits = ecn as libc::c_int;
            if v4 {
                control.push(libc::IPPROTO_IP, libc::IP_TOS, bits);
            } else {
                control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, bits);
            }
        }
        let segment = transmit.segment_size.unwrap_or(data.len());
        if data.len() > segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment as u16);
        }
        match transmit.source.filter(|_| can.local_address) {
            Some(IpAddr::V4(ip)) => {
                let spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let ipi_addr = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec_dst, ipi_addr };
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) => {
                let ipi6_addr = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            None => {}
        }
        header.msg_controllen = control.len as _;
        if control.len > 0 {
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
        }
    }

    /// Sends the first `count` messages; returns how many the kernel took.
    fn send(&mut self, fd: RawFd, count: usize) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        if count == 1 {
            // SAFETY: the header was described just now and refers to memory of `self` and of the queue.
            sys::retry(|| unsafe { libc::sendmsg(fd, &self.headers[0].msg_hdr, flags) })?;
            return Ok(1);
        }
        let headers = self.headers.as_mut_ptr();
        // SAFETY: as above, for the first `count` headers.
        sys::retry(|| unsafe { libc::sendmmsg(fd, headers, count as _, flags as _) as isize })
    }

    /// Receives up to a batch. Returns whether the socket may hold more.
    pub(crate) fn receive(
        &mut self,
        fd: RawFd,
        batch: bool,
        pool: &mut Pool,
        mut arrived: impl FnMut(Datagrams),
    ) -> io::Result<bool> {
        let most = if batch { BATCH } else { 1 };
        while self.buffers.len() < most {
            self.buffers.push(pool.take());
        }
        for index in 0..most {
            let room = self.buffers[index].spare_capacity_mut();
            self.iovecs[index] =
                libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut self.headers[index].msg_hdr;
            *header = sys::empty_msghdr();
            header.msg_name = ptr::from_mut(&mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
            header.msg_iov = &mut self.iovecs[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_SIZE as _;
        }
        let count = self.receive_call(fd, batch)?;
        for index in 0..count {
            let length = self.headers[index].msg_len as usize;
            let header = &self.headers[index].msg_hdr;
            // SAFETY: the kernel has filled in the control memory that the header refers to.
            let info = unsafe { Info::read(header) };
            let Some(peer) = read_name(&self.names[index]) else { continue };
            let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
            let buffer = &mut self.buffers[index];
            // SAFETY: the kernel has initialised `length` bytes of the room offered.
            unsafe { buffer.set_len(length) };
            let data = if length <= PACK_LIMIT {
                let packed = pool.pack(buffer);
                buffer.clear();
                packed
            } else {
                mem::replace(buffer, pool.take())
            };
            arrived(info.datagrams(peer, data, truncated));
        }
        Ok(count == most)
    }

    fn receive_call(&mut self, fd: RawFd, batch: bool) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT;
        if !batch {
            let header = &mut self.headers[0];
            // SAFETY: the header refers to writable memory of `self`.
            let n = sys::retry(|| unsafe { libc::recvmsg(fd, &mut header.msg_hdr, flags) })?;
            header.msg_len = n as u32;
            return Ok(1);
        }
        let headers = self.headers.as_mut_ptr();
        // SAFETY: all headers refer to writable memory of `self`.
        sys::retry(|| unsafe {
            libc::recvmmsg(fd, headers, BATCH as _, flags as _, ptr::null_mut()) as isize
        })
    }

    /// Gives the buffers back, so that an idle driver holds none.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.buffers.drain(..).for_each(|buffer| pool.put(buffer));
    }
}

/// How many of the `left` bytes go into the next message.
fn train(transmit: Head, left: usize, can: UdpCapabilities) -> usize {
    let segment = transmit.segment_size.unwrap_or(left).min(left);
    if segment == 0 {
        return left;
    }
    let segments = can.gso_segments.min(MAX_DATAGRAM / segment).max(1);
    left.min(segment * segments)
}

/// Appends control messages.
struct ControlWriter<'a> {
    control: &'a mut [u8; CONTROL_SIZE],
    len: usize,
}

impl ControlWriter<'_> {
    fn push<T: Copy>(&mut self, level: i32, kind: i32, value: T) {
        // SAFETY: these are arithmetic only.
        let (space, len) = unsafe {
            let size = size_of::<T>() as u32;
            (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize)
        };
        assert!(
            self.len + space <= CONTROL_SIZE,
            "control memory holds all messages that there are"
        );
        let header = libc::cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind };
        // SAFETY: the room was checked above; the memory is aligned for headers (`Control`), the payload is
        // written without assuming an alignment.
        unsafe {
            let at = self.control.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            at.write(header);
            libc::CMSG_DATA(at).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }
}

/// What the control messages of a received message say.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Info {
    local_ip: Option<IpAddr>,
    ecn: Option<Ecn>,
    stride: Option<usize>,
}

impl Info {
    /// Reads the control messages of `header`.
    ///
    /// # Safety
    ///
    /// `msg_control` points to `msg_controllen` bytes that the kernel filled in.
    pub(crate) unsafe fn read(header: &libc::msghdr) -> Info {
        let mut info = Info::default();
        // SAFETY: the macros stay within the control memory, and each payload read is one that the kernel writes for
        // that level and type.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(header);
            while let Some(message) = at.as_ref() {
                let data = libc::CMSG_DATA(at);
                match (message.cmsg_level, message.cmsg_type) {
                    // The kernel sends a single byte for IPv4 and an integer for IPv6.
                    (libc::IPPROTO_IP, libc::IP_TOS) => info.ecn = Ecn::from_bits(data.read()),
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        let class = data.cast::<libc::c_int>().read_unaligned();
                        info.ecn = Ecn::from_bits(class as u8);
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let packet = data.cast::<libc::in_pktinfo>().read_unaligned();
                        let octets = packet.ipi_addr.s_addr.to_ne_bytes();
                        info.local_ip = Some(Ipv4Addr::from(octets).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let packet = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        info.local_ip = Some(Ipv6Addr::from(packet.ipi6_addr.s6_addr).into());
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let size = data.cast::<libc::c_int>().read_unaligned();
                        info.stride = usize::try_from(size).ok().filter(|size| *size > 0);
                    }
                    _ => {}
                }
                at = libc::CMSG_NXTHDR(header, at);
            }
        }
        info
    }

    pub(crate) fn datagrams(self, peer: SocketAddr, data: BytesMut, truncated: bool) -> Datagrams {
        let stride = self.stride.unwrap_or(data.len()).min(data.len());
        Datagrams { peer, local_ip: self.local_ip, ecn: self.ecn, stride, data, truncated }
    }
}

/// A received message in a buffer of a multishot receive, small ones packed. `None` if it makes no sense.
pub(crate) fn unpack_multishot(
    buffer: &mut BytesMut,
    header: &libc::msghdr,
    pool: &mut Pool,
) -> Option<Datagrams> {
    use bytes::Buf;
    let message = io_uring::types::RecvMsgOut::parse(buffer, header).ok()?;
    let mut name: libc::sockaddr_storage = unspecified();
    let name_data = message.name_data();
    let length = name_data.len().min(size_of::<libc::sockaddr_storage>());
    // SAFETY: at most the size of the storage is copied, and any bytes are a valid storage.
    unsafe {
        ptr::copy_nonoverlapping(name_data.as_ptr(), ptr::from_mut(&mut name).cast(), length);
    }
    let peer = read_name(&name)?;
    let mut control = Control([0; CONTROL_SIZE]);
    let control_data = message.control_data();
    let used = control_data.len().min(CONTROL_SIZE);
    control.0[..used].copy_from_slice(&control_data[..used]);
    let mut view = sys::empty_msghdr();
    view.msg_control = control.0.as_mut_ptr().cast();
    view.msg_controllen = used as _;
    // SAFETY: `view` refers to a copy of what the kernel wrote.
    let info = unsafe { Info::read(&view) };
    let truncated = message.is_payload_truncated();
    let payload = message.payload_data();
    let (offset, length) = (payload.as_ptr() as usize - buffer.as_ptr() as usize, payload.len());
    let data = if length <= PACK_LIMIT {
        let packed = pool.pack(payload);
        buffer.clear();
        packed
    } else {
        let mut whole = mem::replace(buffer, pool.take());
        whole.advance(offset);
        whole.truncate(length);
        whole
    };
    Some(info.datagrams(peer, data, truncated))
}

/// The header that describes a multishot receive: room for a name and control messages in each buffer.
pub(crate) fn multishot_header() -> Box<libc::msghdr> {
    let mut header = Box::new(sys::empty_msghdr());
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as _;
    header.msg_controllen = CONTROL_SIZE as _;
    header
}

fn unspecified() -> libc::sockaddr_storage {
    // SAFETY: all zeros is a valid storage of no address family.
    unsafe { mem::zeroed() }
}

/// Writes an address; returns its length.
fn write_name(name: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large enough and aligned for every address.
            unsafe { ptr::from_mut(name).cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>() as _
        }
        SocketAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::from_mut(name).cast::<libc::sockaddr_in6>().write(value) };
            size_of::<libc::sockaddr_in6>() as _
        }
    }
}

/// Reads an address that the kernel wrote.
fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is.
            let v4 = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says what it is.
            let v6 = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
