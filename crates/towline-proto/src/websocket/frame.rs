//! The frame header: a checked view over bytes, and the value it stands for (RFC 6455 section 5.2).
//!
//! The format, with examples, is in `docs/websocket.md`; the vectors are in
//! `docs/vectors/websocket.frames.txt` and are tested in both directions.

use super::error::Violation;

/// The longest header: 2 bytes, an 8-byte length and a 4-byte masking key.
pub const MAX_HEADER: usize = 14;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// The largest payload length the header can carry: the top bit must be zero (section 5.2).
pub const MAX_PAYLOAD: u64 = i64::MAX as u64;

/// What a frame is (RFC 6455 section 11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// More of the message that an earlier frame began.
    Continuation = 0x0,
    /// The first frame of a text message.
    Text = 0x1,
    /// The first frame of a binary message.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

impl OpCode {
    /// The opcode with these four bits; 3 to 7 and 11 to 15 are reserved.
    pub const fn from_bits(bits: u8) -> Option<OpCode> {
        match bits {
            0x0 => Some(OpCode::Continuation),
            0x1 => Some(OpCode::Text),
            0x2 => Some(OpCode::Binary),
            0x8 => Some(OpCode::Close),
            0x9 => Some(OpCode::Ping),
            0xA => Some(OpCode::Pong),
            _ => None,
        }
    }

    /// Close, ping and pong: at most 125 bytes, never fragmented, allowed between fragments.
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A frame header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// The first reserved bit; permessage-deflate marks compressed messages with it (RFC 7692 section 6).
    pub rsv1: bool,
    /// What the frame is.
    pub opcode: OpCode,
    /// The masking key; every frame of a client has one and no frame of a server (section 5.1).
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes, at most [`MAX_PAYLOAD`].
    pub length: u64,
}

impl Header {
    /// The header at the start of `bytes` and its length; `None` when more bytes are needed.
    ///
    /// Checks what can be said about a header alone: reserved bits and opcodes, the rules of control
    /// frames, and the encoding of the length, which must be the shortest one and below 2^63.
    /// Whether RSV1 or a mask is allowed depends on the connection and is the decoder's question.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
        match HeaderView::new(bytes)? {
            Some(view) => Ok(Some((view.value(), view.len()))),
            None => Ok(None),
        }
    }

    /// Writes the header into the front of `out` and returns its length.
    #[inline]
    pub fn encode(&self, out: &mut [u8; MAX_HEADER]) -> usize {
        let first = (u8::from(self.fin) << 7) | (u8::from(self.rsv1) << 6) | self.opcode as u8;
        let masked = u8::from(self.mask.is_some()) << 7;
        let length = self.length.min(MAX_PAYLOAD);
        let mut at = if length <= 125 {
            out[0] = first;
            out[1] = masked | length as u8;
            2
        } else if length <= 0xFFFF {
            out[0] = first;
            out[1] = masked | 126;
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        } else {
            out[0] = first;
            out[1] = masked | 127;
            out[2..10].copy_from_slice(&length.to_be_bytes());
            10
        };
        if let Some(key) = self.mask {
            out[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        at
    }

    /// The length of the encoded header in bytes.
    pub const fn encoded_len(&self) -> usize {
        let base = if self.length <= 125 {
            2
        } else if self.length <= 0xFFFF {
            4
        } else {
            10
        };
        if self.mask.is_some() { base + 4 } else { base }
    }
}

/// A whole and valid frame header, still in its bytes.
///
/// ```text
/// byte 0      FIN, RSV1, RSV2, RSV3, opcode (4 bits)
/// byte 1      MASK, length (7 bits)
/// then        2 or 8 bytes of length when the 7 bits say 126 or 127
/// then        4 bytes of key when MASK is set
/// ```
#[derive(Debug, Clone, Copy)]
pub struct HeaderView<'a> {
    first: u8,
    opcode: OpCode,
    length: u64,
    /// Empty or four bytes.
    key: &'a [u8],
    len: usize,
}

impl<'a> HeaderView<'a> {
    /// Checks the header at the start of `bytes`; `None` when it is not whole yet.
    ///
    /// Faults are found as early as the bytes allow: a reserved opcode fails on the first byte.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Option<HeaderView<'a>>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let Some(opcode) = OpCode::from_bits(first & 0x0F) else {
            return Err(Violation::ReservedOpcode(first & 0x0F));
        };
        // RSV2 and RSV3 belong to no extension that this engine knows (section 5.2).
        if first & 0x30 != 0 {
            return Err(Violation::ReservedBits);
        }
        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        let short = second & 0x7F;
        if opcode.is_control() {
            Self::check_control(first, short)?;
        }
        let (length, rest, base) = match short {
            126 => {
                let Some((raw, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*raw));
                if length < 126 {
                    return Err(Violation::LengthNotMinimal);
                }
                (length, rest, 4)
            }
            127 => {
                let Some((raw, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                let length = u64::from_be_bytes(*raw);
                if length > MAX_PAYLOAD {
                    return Err(Violation::LengthTopBit);
                }
                if length <= 0xFFFF {
                    return Err(Violation::LengthNotMinimal);
                }
                (length, rest, 10)
            }
            _ => (u64::from(short), rest, 2),
        };
        let (key, len): (&[u8], usize) = if second & 0x80 == 0 {
            (&[], base)
        } else {
            let Some(key) = rest.get(..4) else { return Ok(None) };
            (key, base + 4)
        };
        Ok(Some(HeaderView { first, opcode, length, key, len }))
    }

    /// Section 5.5: control frames carry 125 bytes at most and are not fragmented.
    fn check_control(first: u8, short: u8) -> Result<(), Violation> {
        if first & 0x80 == 0 {
            return Err(Violation::FragmentedControl);
        }
        if first & 0x40 != 0 {
            // RFC 7692 section 6: control frames are never compressed.
            return Err(Violation::ReservedBits);
        }
        if usize::from(short) > MAX_CONTROL_PAYLOAD {
            return Err(Violation::ControlTooLong);
        }
        Ok(())
    }

    /// The last frame of its message.
    #[inline]
    pub fn fin(&self) -> bool {
        self.first & 0x80 != 0
    }

    /// The first reserved bit.
    #[inline]
    pub fn rsv1(&self) -> bool {
        self.first & 0x40 != 0
    }

    /// What the frame is.
    #[inline]
    pub fn opcode(&self) -> OpCode {
        self.opcode
    }

    /// The masking key.
    #[inline]
    pub fn mask(&self) -> Option<[u8; 4]> {
        self.key.first_chunk::<4>().copied()
    }

    /// Payload length in bytes.
    #[inline]
    pub fn payload_length(&self) -> u64 {
        self.length
    }

    /// Length of the header itself in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The header as a value.
    #[inline]
    pub fn value(&self) -> Header {
        Header {
            fin: self.fin(),
            rsv1: self.rsv1(),
            opcode: self.opcode,
            mask: self.mask(),
            length: self.length,
        }
    }
}
