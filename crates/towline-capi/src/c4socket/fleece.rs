//! The little of Fleece that sockets need: dictionaries of texts, and dictionaries in them.
//!
//! Values lie at even places. The high four bits of the first byte tell the kind: 4 text, 6 array, 7 dictionary; a byte with the high
//! bit set begins a pointer, which counts backwards in units of two bytes. Collections hold items of two bytes, or four when "wide":
//! values that fit, and pointers to the others. The last two bytes of the data are the root, or point to it.

/// A dictionary's entries to write.
#[derive(Default)]
pub(super) struct Dict {
    texts: Vec<(String, String)>,
    dicts: Vec<(String, Dict)>,
}

/// Pointers of two bytes reach this far.
const REACH: usize = 0x7fff * 2;

impl Dict {
    pub(super) fn text(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.texts.push((key.into(), value.into()));
    }

    pub(super) fn dict(&mut self, key: impl Into<String>, value: Dict) {
        self.dicts.push((key.into(), value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.dicts.is_empty()
    }

    /// The encoded dictionary; `None` when it is larger than short pointers reach.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let at = self.write(&mut out)?;
        let root = pointer(out.len(), at)?;
        out.extend_from_slice(&root);
        Some(out)
    }

    fn write(&self, out: &mut Vec<u8>) -> Option<usize> {
        let mut entries = Vec::new();
        for (key, value) in &self.texts {
            entries.push((key, write_text(out, value)));
        }
        for (key, value) in &self.dicts {
            entries.push((key, value.write(out)?));
        }
        // Keys are looked up by bisection.
        entries.sort_by(|a, b| a.0.cmp(b.0));
        let entries: Vec<(usize, usize)> =
            entries.into_iter().map(|(key, value)| (write_text(out, key), value)).collect();
        let at = out.len();
        let count = u16::try_from(entries.len()).ok().filter(|count| *count < 0x7ff)?;
        out.extend_from_slice(&(0x7000 | count).to_be_bytes());
        for (key, value) in entries {
            out.extend_from_slice(&pointer(out.len(), key)?);
            out.extend_from_slice(&pointer(out.len(), value)?);
        }
        Some(at)
    }
}

fn pointer(from: usize, to: usize) -> Option<[u8; 2]> {
    let distance = from.checked_sub(to).filter(|distance| *distance <= REACH)?;
    Some((0x8000 | u16::try_from(distance / 2).ok()?).to_be_bytes())
}

/// Writes a text at an even place, which it returns.
fn write_text(out: &mut Vec<u8>, text: &str) -> usize {
    let at = out.len();
    match u8::try_from(text.len()) {
        Ok(length @ 0..15) => out.push(0x40 | length),
        _ => {
            out.push(0x4f);
            let mut left = text.len();
            while left >= 0x80 {
                out.push(left as u8 | 0x80);
                left >>= 7;
            }
            out.push(left as u8);
        }
    }
    out.extend_from_slice(text.as_bytes());
    if out.len() % 2 == 1 {
        out.push(0);
    }
    at
}

/// Values inside of values that are followed.
const DEPTH: usize = 4;
/// The most entries that are read.
const ENTRIES: usize = 1000;

/// The texts of a dictionary, and those of arrays in it, each with its key. `None` when it is no dictionary.
pub(super) fn texts(data: &[u8]) -> Option<Vec<(String, String)>> {
    let root = data.len().checked_sub(2)?;
    let reader = Reader { data };
    let (kind, at) = reader.resolve(root, 2)?;
    let mut found = Vec::new();
    if kind != 7 {
        return None;
    }
    for (key, value) in
        reader.items(at, 2)?.chunks_exact(2).filter_map(|pair| Some((pair.first()?, pair.last()?)))
    {
        let key = reader.text(*key)?;
        reader.collect(*value, &key, DEPTH, &mut found)?;
    }
    Some(found)
}

struct Reader<'a> {
    data: &'a [u8],
}

impl Reader<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.data.get(at).copied()
    }

    fn number(&self, at: usize, width: usize) -> Option<usize> {
        let bytes = self.data.get(at..at.checked_add(width)?)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// The kind of the value at a place and where it is, behind pointers.
    fn resolve(&self, mut at: usize, mut width: usize) -> Option<(u8, usize)> {
        for _ in 0..DEPTH {
            let first = self.byte(at)?;
            if first & 0x80 == 0 {
                return Some((first >> 4, at));
            }
            let mask = if width == 2 { 0x7fff } else { 0x3fff_ffff };
            let back = (self.number(at, width)? & mask).checked_mul(2).filter(|back| *back > 0)?;
            at = at.checked_sub(back)?;
            width = 4;
        }
        None
    }

    /// The values that a collection holds: `each` for every entry.
    fn items(&self, at: usize, each: usize) -> Option<Vec<(u8, usize)>> {
        let head = self.number(at, 2)?;
        let width = if head & 0x800 == 0 { 2 } else { 4 };
        let count = (head & 0x7ff).checked_mul(each).filter(|_| head & 0x7ff < ENTRIES)?;
        let place = |item: usize| self.resolve(at + 2 + item * width, width);
        (0..count).map(place).collect()
    }

    fn text(&self, (kind, at): (u8, usize)) -> Option<String> {
        if kind != 4 {
            return None;
        }
        let mut length = usize::from(self.byte(at)? & 15);
        let mut begin = at + 1;
        if length == 15 {
            length = 0;
            for shift in [0, 7, 14, 21] {
                let byte = self.byte(begin)?;
                begin += 1;
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        let bytes = self.data.get(begin..begin.checked_add(length)?)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    fn collect(
        &self,
        value: (u8, usize),
        key: &str,
        depth: usize,
        found: &mut Vec<(String, String)>,
    ) -> Option<()> {
        match value.0 {
            4 => found.push((key.to_owned(), self.text(value)?)),
            6 if depth > 0 => {
                for item in self.items(value.1, 1)? {
                    self.collect(item, key, depth - 1, found)?;
                }
            }
            // Numbers and the like are no headers.
            _ => {}
        }
        (found.len() <= ENTRIES).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut dict = Dict::default();
        dict.text("Sec-WebSocket-Protocol", "towline.1");
        dict.text("a", "");
        dict.text("Long", "x".repeat(1000));
        let data = dict.encode().unwrap();
        let mut read = texts(&data).unwrap();
        read.sort();
        let expected = [
            ("Long", "x".repeat(1000)),
            ("Sec-WebSocket-Protocol", "towline.1".into()),
            ("a", String::new()),
        ];
        assert_eq!(read, expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn a_known_dictionary_has_its_known_bytes() {
        let mut dict = Dict::default();
        dict.text("key", "value");
        // The value, the key, the dictionary with one entry of two pointers, and the root.
        let expected = [
            0x45, b'v', b'a', b'l', b'u', b'e', 0x43, b'k', b'e', b'y', 0x70, 0x01, 0x80, 0x03,
            0x80, 0x07, 0x80, 0x03,
        ];
        assert_eq!(dict.encode().unwrap(), expected);
    }

    #[test]
    fn no_bytes_are_a_panic() {
        let mut dict = Dict::default();
        dict.text("Upgrade", "websocket");
        let good = dict.encode().unwrap();
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                texts(&bad);
                texts(&bad[..at]);
            }
        }
    }
}
