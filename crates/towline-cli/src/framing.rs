//! How messages follow each other on a pipe.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};

/// Where one message ends and the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A message is a line, without its newline.
    Lines,
    /// Before each message its length: four octets, big-endian.
    Lengths,
}

impl Framing {
    /// `--framed`, or not.
    pub(crate) fn new(framed: bool) -> Framing {
        if framed { Framing::Lengths } else { Framing::Lines }
    }

    /// The next message; `None` at the end. A length beyond `limit` is an error, before any memory is taken for it.
    pub(crate) fn read(self, from: &mut impl BufRead, limit: usize) -> Result<Option<Vec<u8>>> {
        match self {
            Framing::Lines => read_line(from),
            Framing::Lengths => read_framed(from, limit),
        }
    }

    /// Writes one message.
    pub(crate) fn write(self, to: &mut impl Write, data: &[u8]) -> Result<()> {
        match self {
            Framing::Lines => {
                to.write_all(data)?;
                to.write_all(b"\n")
            }
            Framing::Lengths => {
                let length = u32::try_from(data.len()).map_err(|_| {
                    Error::new(ErrorKind::InvalidData, "a message of 4 GiB or more has no frame")
                })?;
                to.write_all(&length.to_be_bytes())?;
                to.write_all(data)
            }
        }
    }
}

fn read_line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line))
}

fn read_framed(from: &mut impl BufRead, limit: usize) -> Result<Option<Vec<u8>>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|error| cut_short(error, "within a length"))?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        let text = format!(
            "a frame of {length} bytes, and the limit is {limit}; is there a length of four octets, big-endian, before each message?"
        );
        return Err(Error::new(ErrorKind::InvalidData, text));
    }
    let mut data = Vec::new();
    from.take(length as u64).read_to_end(&mut data)?;
    if data.len() < length {
        return Err(cut_short(ErrorKind::UnexpectedEof.into(), "within a message"));
    }
    Ok(Some(data))
}

fn cut_short(error: Error, place: &str) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::UnexpectedEof, format!("it ended {place}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(framing: Framing, mut data: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        while let Some(message) = framing.read(&mut data, 10)? {
            found.push(message);
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let messages = [&b""[..], b"a", b"0123456789"];
        for framing in [Framing::Lines, Framing::Lengths] {
            let mut out = Vec::new();
            for message in messages {
                framing.write(&mut out, message).unwrap();
            }
            assert_eq!(all(framing, &out).unwrap(), messages);
        }
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert_eq!(all(Framing::Lines, b"a\n\nb").unwrap(), [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn frames_that_are_too_long_or_cut_short_are_errors() {
        let long = all(Framing::Lengths, b"\0\0\0\x0b").unwrap_err();
        assert!(long.to_string().contains("11 bytes, and the limit is 10"), "{long}");
        for (data, part) in
            [(&b"\0\0"[..], "within a length"), (b"\0\0\0\x03ab", "within a message")]
        {
            let error = all(Framing::Lengths, data).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
