//! Connection ids that a load balancer and our own threads can read (draft-ietf-quic-load-balancers-21).
//!
//! Layout: one byte (three bits of configuration, five of length), then the server's id, one byte with the thread, and a nonce. With a key everything after the first byte
//! is encrypted, by AES in one pass when it is 16 bytes long and by four Feistel passes otherwise (section 5.4). To a load balancer the thread is part of the nonce.

use std::net::IpAddr;
use std::time::Duration;

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use noq_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use super::error::ConfigError;

/// The longest connection id (RFC 9000 section 17.2).
const MAX_CID: usize = 20;

/// What our connection ids carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidConfig {
    /// The configuration that load balancers know this layout by, 0 to 6. Default 0.
    pub config: u8,
    /// What a load balancer routes by (`load_balancing_mode`): empty for none, [`CidConfig::server_address`] for mode 1, any fixed bytes for mode 2.
    pub server_id: Vec<u8>,
    /// Which of the server's threads the packet belongs to. Each endpoint of one socket address needs its own.
    pub thread: u8,
    /// Random bytes, 4 or more; all together a connection id has 20 at most. Default 6.
    pub nonce_len: usize,
    /// Encrypts server id and thread, so that a client's connection ids cannot be linked. All servers and load balancers of one configuration share it.
    pub key: Option<[u8; 16]>,
    /// After how long ids are replaced. Default never.
    pub lifetime: Option<Duration>,
}

impl Default for CidConfig {
    fn default() -> Self {
        Self {
            config: 0,
            server_id: Vec::new(),
            thread: 0,
            nonce_len: 6,
            key: None,
            lifetime: None,
        }
    }
}

impl CidConfig {
    /// The server id made of the server's address: all of an IPv4 address, the last four bytes of an IPv6 one.
    pub fn server_address(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => {
                v6.octets().last_chunk::<4>().map(|four| four.to_vec()).unwrap_or_default()
            }
        }
    }

    fn body_len(&self) -> usize {
        self.server_id.len() + 1 + self.nonce_len
    }

    pub(super) fn cid_len(&self) -> usize {
        1 + self.body_len()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |option, value: usize, range: &str, why| {
            Err(ConfigError::OutOfRange {
                option,
                value: value.to_string(),
                range: range.to_owned(),
                why,
            })
        };
        if self.config > 6 {
            return refuse(
                "cid.config",
                self.config.into(),
                "0 to 6",
                "three bits, and 7 means not routable",
            );
        }
        if self.nonce_len < 4 {
            return refuse(
                "cid.nonce_len",
                self.nonce_len,
                "4 or more",
                "connection ids would run out",
            );
        }
        if self.cid_len() > MAX_CID {
            let why = "one byte, server id, thread and nonce (RFC 9000 section 17.2)";
            return refuse("cid.server_id", self.cid_len(), "20 bytes in all", why);
        }
        Ok(())
    }

    /// Reads ids of this layout; make it once per thread, since with a key it holds the prepared cipher.
    pub fn reader(&self) -> CidReader {
        CidReader { cipher: self.key.as_ref().map(Cipher::new), config: self.clone() }
    }
}

/// Reads which thread a connection id, or a datagram, belongs to: for handing over what the kernel gave to another thread.
pub struct CidReader {
    config: CidConfig,
    cipher: Option<Cipher>,
}

impl CidReader {
    /// The thread of a connection id, if it is one of this layout and server.
    pub fn thread_of(&self, cid: &[u8]) -> Option<u8> {
        read(&self.config, self.cipher.as_ref(), cid)
    }

    /// The thread that a datagram belongs to by its destination connection id; `None` for Initial and 0-RTT packets, whose id the client chose, and for ids that are not ours.
    pub fn thread_of_datagram(&self, datagram: &[u8]) -> Option<u8> {
        let (&first, rest) = datagram.split_first()?;
        if first & 0x80 == 0 {
            return self.thread_of(rest.get(..self.config.cid_len())?);
        }
        // Long headers: only Handshake packets certainly carry an id of ours.
        if first & 0x30 != 0x20 {
            return None;
        }
        let (_, rest) = rest.split_at_checked(4)?;
        let (&len, rest) = rest.split_first()?;
        self.thread_of(rest.get(..usize::from(len))?)
    }
}

/// Encrypts and decrypts what stands after the first byte.
struct Cipher(Aes128);

impl Cipher {
    fn new(key: &[u8; 16]) -> Self {
        Self(Aes128::new(GenericArray::from_slice(key)))
    }

    fn block(&self, bytes: [u8; 16]) -> [u8; 16] {
        let mut block = GenericArray::from(bytes);
        self.0.encrypt_block(&mut block);
        block.into()
    }

    fn encrypt(&self, body: &mut [u8]) {
        if let Ok(block) = <&mut [u8; 16]>::try_from(&mut *body) {
            *block = self.block(*block);
        } else {
            self.passes(body, [1, 2, 3, 4]);
        }
    }

    fn decrypt(&self, body: &mut [u8]) {
        if let Ok(block) = <&mut [u8; 16]>::try_from(&mut *body) {
            let mut decrypted = GenericArray::from(*block);
            self.0.decrypt_block(&mut decrypted);
            *block = decrypted.into();
        } else {
            self.passes(body, [4, 3, 2, 1]);
        }
    }

    /// Four passes over two halves (section 5.4.2); odd passes change the right half, even ones the left. An odd length shares its middle byte, four bits to each half.
    fn passes(&self, body: &mut [u8], passes: [u8; 4]) {
        let len = body.len();
        let half = len.div_ceil(2);
        let odd = len % 2 == 1;
        let mut left = [0; 16];
        let mut right = [0; 16];
        for (to, from) in left.iter_mut().zip(body.iter().take(half)) {
            *to = *from;
        }
        for (to, from) in right.iter_mut().zip(body.iter().skip(len - half)) {
            *to = *from;
        }
        let clear = |left: &mut [u8; 16], right: &mut [u8; 16]| {
            if odd {
                if let Some(last) = left.get_mut(half - 1) {
                    *last &= 0xf0;
                }
                right[0] &= 0x0f;
            }
        };
        clear(&mut left, &mut right);
        for pass in passes {
            let (from, to) = if pass % 2 == 1 { (&left, &mut right) } else { (&right, &mut left) };
            let mut input = *from;
            input[14] = len as u8;
            input[15] = pass;
            for (byte, mask) in to.iter_mut().zip(self.block(input)).take(half) {
                *byte ^= mask;
            }
            clear(&mut left, &mut right);
        }
        for (to, from) in body.iter_mut().zip(left.iter().take(half)) {
            *to = *from;
        }
        for (at, (to, from)) in
            body.iter_mut().skip(len - half).zip(right.iter().take(half)).enumerate()
        {
            *to = if at == 0 && odd { *to | *from } else { *from };
        }
    }
}

/// Random bytes from a seed: AES in counter mode.
pub(super) struct Random {
    cipher: Cipher,
    counter: u128,
}

impl Random {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        Self { cipher: Cipher::new(seed), counter: 0 }
    }

    pub(super) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(16) {
            let block = self.cipher.block(self.counter.to_be_bytes());
            self.counter = self.counter.wrapping_add(1);
            for (to, from) in chunk.iter_mut().zip(block) {
                *to = from;
            }
        }
    }
}

fn first_byte(config: &CidConfig) -> u8 {
    (config.config << 5) | (config.cid_len() - 1) as u8
}

fn read(config: &CidConfig, cipher: Option<&Cipher>, cid: &[u8]) -> Option<u8> {
    let (&first, body) = cid.split_first()?;
    if first != first_byte(config) || body.len() != config.body_len() {
        return None;
    }
    let mut plain = [0; MAX_CID];
    let plain = plain.get_mut(..body.len())?;
    plain.copy_from_slice(body);
    if let Some(cipher) = cipher {
        cipher.decrypt(plain);
    }
    let (server_id, rest) = plain.split_at_checked(config.server_id.len())?;
    if server_id != config.server_id {
        return None;
    }
    rest.first().copied()
}

/// Makes the ids of one endpoint.
pub(super) struct Generator {
    config: CidConfig,
    cipher: Option<Cipher>,
    random: Random,
}

impl Generator {
    pub(super) fn new(config: CidConfig, seed: &[u8; 16]) -> Self {
        Self { cipher: config.key.as_ref().map(Cipher::new), config, random: Random::new(seed) }
    }
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut cid = Vec::with_capacity(self.config.cid_len());
        cid.push(first_byte(&self.config));
        cid.extend_from_slice(&self.config.server_id);
        cid.push(self.config.thread);
        let mut nonce = [0; MAX_CID];
        let nonce = nonce.get_mut(..self.config.nonce_len).unwrap_or_default();
        self.random.fill(nonce);
        cid.extend_from_slice(nonce);
        if let (Some(cipher), Some(body)) = (&self.cipher, cid.get_mut(1..)) {
            cipher.encrypt(body);
        }
        ConnectionId::new(&cid)
    }

    fn validate(&self, cid: ConnectionId) -> Result<(), InvalidCid> {
        match read(&self.config, self.cipher.as_ref(), &cid) {
            Some(thread) if thread == self.config.thread => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        self.config.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.config.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// draft-ietf-quic-load-balancers-21 appendix B.2: server id, nonce, connection id after its first byte.
    #[test]
    fn encrypts_as_the_draft_does() {
        let key = bytes("8f95f09245765f80256934e50c66207f").try_into().unwrap();
        let cipher = Cipher::new(&key);
        for (plain, encrypted) in [
            ("ed793aee080dbf", "20b1d07b359d3c"),
            ("ed793a51d49b8f5fab65ee080dbf48", "cc381bc74cb4fbad2823a3d1f8fed2"),
            ("ed793a51d49b8f5fee080dbf48c0d1e5", "4dd2d05a7b0de9b2b9907afb5ecf8cc3"),
            ("ed793a51d49b8f5fabee080dbf48c0d1e55d", "5779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
        ] {
            let mut body = bytes(plain);
            cipher.encrypt(&mut body);
            assert_eq!(body, bytes(encrypted));
            cipher.decrypt(&mut body);
            assert_eq!(body, bytes(plain));
        }
    }

    #[test]
    fn the_thread_can_be_read_from_every_layout() {
        for server_id in 0..8 {
            for key in [None, Some([9; 16])] {
                let config = CidConfig {
                    server_id: vec![0xab; server_id],
                    thread: 3,
                    key,
                    ..CidConfig::default()
                };
                config.check().unwrap();
                let reader = config.reader();
                let mut generator = Generator::new(config.clone(), &[1; 16]);
                for _ in 0..50 {
                    let cid = generator.generate_cid();
                    assert_eq!(reader.thread_of(&cid), Some(3));
                    assert!(generator.validate(cid).is_ok());
                    let mut datagram = vec![0x40];
                    datagram.extend_from_slice(&cid);
                    datagram.extend_from_slice(&[0; 30]);
                    assert_eq!(reader.thread_of_datagram(&datagram), Some(3));
                }
                assert!(generator.validate(ConnectionId::new(&[0x55; 8])).is_err());
            }
        }
    }

    #[test]
    fn layouts_that_do_not_fit_are_refused() {
        assert!(CidConfig { server_id: vec![0; 13], ..CidConfig::default() }.check().is_err());
        assert!(CidConfig { nonce_len: 3, ..CidConfig::default() }.check().is_err());
        assert!(CidConfig { config: 7, ..CidConfig::default() }.check().is_err());
    }
}
