//! The first bytes of a hop's control stream: where the flow goes from here.

use bytes::Bytes;

/// The version of this message.
const VERSION: u8 = 1;
/// Hops that a route may name.
pub const MAX_HOPS: usize = 16;
/// The longest name of one, bytes.
pub const MAX_NAME: usize = 255;

/// The hops after this one, the destination last; none at the destination itself.
///
/// On the wire: one byte of version, 1; one byte with the number of names; for each, one byte of length and its bytes, `host:port` in UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    names: Vec<String>,
}

/// A route that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The neighbour speaks another version.
    #[error("a route of version {0}, not 1")]
    Version(u8),
    /// More than [`MAX_HOPS`].
    #[error("a route of {0} hops, more than 16")]
    TooLong(usize),
    /// Empty, too long, or not UTF-8.
    #[error("a name in a route that is empty, over 255 bytes, or not UTF-8")]
    Name,
}

impl Route {
    /// A route over these.
    ///
    /// # Errors
    /// [`RouteError::TooLong`], [`RouteError::Name`].
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Route, RouteError> {
        let names: Vec<String> = names.into_iter().collect();
        if names.len() > MAX_HOPS {
            return Err(RouteError::TooLong(names.len()));
        }
        if names.iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
            return Err(RouteError::Name);
        }
        Ok(Route { names })
    }

    /// The hops still to go.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.names.len() as u8];
        for name in &self.names {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Reads a route from the start of what came; the rest belongs to the flow. `None` until it is whole.
    fn parse(data: &[u8]) -> Result<Option<(Route, usize)>, RouteError> {
        let (Some(&version), count) = (data.first(), data.get(1)) else { return Ok(None) };
        if version != VERSION {
            return Err(RouteError::Version(version));
        }
        let Some(&count) = count else { return Ok(None) };
        if usize::from(count) > MAX_HOPS {
            return Err(RouteError::TooLong(count.into()));
        }
        let mut at = 2;
        let mut names = Vec::with_capacity(count.into());
        for _ in 0..count {
            let Some(&length) = data.get(at) else { return Ok(None) };
            let end = at + 1 + usize::from(length);
            let Some(name) = data.get(at + 1..end) else { return Ok(None) };
            let name = std::str::from_utf8(name).map_err(|_| RouteError::Name)?;
            if name.is_empty() {
                return Err(RouteError::Name);
            }
            names.push(name.to_owned());
            at = end;
        }
        Ok(Some((Route { names }, at)))
    }
}

/// Puts a route together from a stream in pieces.
#[derive(Debug, Default)]
pub(crate) struct RouteReader {
    /// At most one route and what came with its last piece.
    buffer: Vec<u8>,
}

impl RouteReader {
    /// Takes a piece; gives the route once it is whole, and what came after it.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<Option<(Route, Bytes)>, RouteError> {
        self.buffer.extend_from_slice(data);
        let parsed = Route::parse(&self.buffer)?;
        Ok(parsed.map(|(route, used)| {
            let rest = self.buffer.get(used..).unwrap_or_default();
            (route, Bytes::copy_from_slice(rest))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_from_pieces_of_any_size() {
        let route = Route::new(["relay:7001".to_owned(), "[::1]:7002".to_owned()]).unwrap();
        let mut bytes = route.encode();
        assert_eq!(&bytes[..4], &[1, 2, 10, b'r']);
        bytes.extend_from_slice(b"flow");
        for piece in 1..=bytes.len() {
            let (mut reader, mut found, mut rest) = (RouteReader::default(), None, Vec::new());
            for chunk in bytes.chunks(piece) {
                if found.is_some() {
                    rest.extend_from_slice(chunk);
                } else if let Some((route, after)) = reader.push(chunk).unwrap() {
                    found = Some(route);
                    rest.extend_from_slice(&after);
                }
            }
            assert_eq!((found.as_ref(), &rest[..]), (Some(&route), &b"flow"[..]));
        }
        assert_eq!(Route::default().encode(), [1, 0]);
    }

    #[test]
    fn routes_out_of_bounds_are_refused() {
        assert_eq!(RouteReader::default().push(&[2]), Err(RouteError::Version(2)));
        assert_eq!(RouteReader::default().push(&[1, 17]), Err(RouteError::TooLong(17)));
        assert_eq!(RouteReader::default().push(&[1, 1, 0]), Err(RouteError::Name));
        assert_eq!(RouteReader::default().push(&[1, 1, 1, 0xff]), Err(RouteError::Name));
        assert_eq!(Route::new([String::new()]), Err(RouteError::Name));
        assert_eq!(Route::new(vec!["a:1".to_owned(); 17]), Err(RouteError::TooLong(17)));
    }
}
