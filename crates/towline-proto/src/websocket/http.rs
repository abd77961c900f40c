//! The little of HTTP/1.1 that an upgrade needs (RFC 9110, RFC 9112): heads within limits, header lists, answers.

use bytes::{Buf, Bytes, BytesMut};

/// RFC 9110 section 5.6.2: one or more `tchar`.
pub(crate) fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}

/// RFC 9110 section 5.5: a field value that cannot begin another line.
fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F))
        && text.trim_matches([' ', '\t']) == text
}

/// A header that would not be one line of HTTP; whoever set it tried or slipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {name:?} is not valid")]
pub struct HeaderError {
    /// The name as given.
    pub name: String,
}

/// Header fields in order, duplicates kept. Names compare without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Headers {
        Headers(Vec::new())
    }

    /// Adds a header.
    ///
    /// # Errors
    /// When the name is no token, or the value has control characters or space at its ends: such a value could smuggle
    /// further headers in.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), HeaderError> {
        let (name, value) = (name.into(), value.into());
        if !is_token(&name) || !is_value(&value) {
            return Err(HeaderError { name });
        }
        self.0.push((name, value));
        Ok(())
    }

    /// The first value of this name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All values of this name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value if there is exactly one.
    pub fn only(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|_| self.all(name).count() == 1)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The items of a comma-separated list over all headers of this name (RFC 9110 section 5.6.1).
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|item| item.trim())
            .filter(|item| !item.is_empty())
    }

    /// Whether the list has this token, without regard to case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    /// All values of this name as one list.
    pub fn joined(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self.all(name).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Without the headers of these names.
    pub(crate) fn without(&self, names: &[&str]) -> Headers {
        let keep = |name: &str| !names.iter().any(|drop| drop.eq_ignore_ascii_case(name));
        Headers(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    fn from_parsed(parsed: &[httparse::Header<'_>]) -> Headers {
        // Bytes above 0x7F are opaque (RFC 9110 section 5.5); read as Latin-1 they are kept apart.
        let value = |raw: &[u8]| raw.iter().map(|&byte| char::from(byte)).collect();
        Headers(parsed.iter().map(|header| (header.name.to_owned(), value(header.value))).collect())
    }

    pub(crate) fn write(&self, out: &mut String) {
        for (name, value) in self.iter() {
            line(out, name, value);
        }
    }
}

/// Appends one header line.
pub(crate) fn line(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str(": ");
    out.push_str(value);
    out.push_str("\r\n");
}

/// A response, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The reason phrase, for people.
    pub reason: String,
    /// The headers.
    pub headers: Headers,
    /// The beginning of the body of a refusal, within `max_body`; not decoded.
    pub body: Bytes,
}

/// The request line and headers of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) minor_version: u8,
    pub(crate) headers: Headers,
}

/// Why a head cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// More than the limit of bytes or of headers.
    TooLarge,
    Malformed,
}

/// Collects the bytes of a head up to its empty line.
#[derive(Debug)]
pub(crate) struct HeadReader {
    bytes: BytesMut,
    /// Searched so far, so that a head that comes byte by byte costs no more than one that comes at once.
    searched: usize,
    limit: usize,
    max_headers: usize,
}

impl HeadReader {
    pub(crate) fn new(limit: usize, max_headers: usize) -> HeadReader {
        HeadReader { bytes: BytesMut::new(), searched: 0, limit, max_headers }
    }

    /// Takes bytes; the head with its empty line once it is whole.
    pub(crate) fn feed(&mut self, data: BytesMut) -> Result<Option<BytesMut>, HeadError> {
        if self.bytes.is_empty() {
            self.bytes = data;
        } else {
            self.bytes.extend_from_slice(&data);
        }
        if self.searched == 0 {
            // RFC 9112 section 2.2: empty lines before a request are skipped.
            while self.bytes.starts_with(b"\r\n") {
                self.bytes.advance(2);
            }
        }
        let from = self.searched.saturating_sub(3);
        let fresh = self.bytes.get(from..).unwrap_or_default();
        let end = fresh.windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4);
        self.searched = self.bytes.len();
        match end {
            Some(end) if end > self.limit => Err(HeadError::TooLarge),
            Some(end) => Ok(Some(self.bytes.split_to(end))),
            None if self.bytes.len() >= self.limit => Err(HeadError::TooLarge),
            None => Ok(None),
        }
    }

    /// Bytes behind the head.
    pub(crate) fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.bytes)
    }

    /// Reads another head.
    pub(crate) fn restart(&mut self) {
        self.searched = 0;
    }

    /// Keeps bytes that come behind the head, within the limit.
    pub(crate) fn hold(&mut self, data: BytesMut) -> Result<(), HeadError> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(HeadError::TooLarge);
        }
        self.bytes.unsplit(data);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn parse_request(&self, head: &[u8]) -> Result<RequestHead, HeadError> {
        check_lines(head)?;
        let mut storage = vec![httparse::EMPTY_HEADER; self.max_headers];
        let mut request = httparse::Request::new(&mut storage);
        complete(request.parse(head))?;
        let (Some(method), Some(target), Some(minor_version)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed);
        };
        Ok(RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            minor_version,
            headers: Headers::from_parsed(request.headers),
        })
    }

    pub(crate) fn parse_response(&self, head: &[u8]) -> Result<Response, HeadError> {
        check_lines(head)?;
        let mut storage = vec![httparse::EMPTY_HEADER; self.max_headers];
        let mut response = httparse::Response::new(&mut storage);
        complete(response.parse(head))?;
        let Some(status) = response.code else { return Err(HeadError::Malformed) };
        Ok(Response {
            status,
            reason: response.reason.unwrap_or_default().to_owned(),
            headers: Headers::from_parsed(response.headers),
            body: Bytes::new(),
        })
    }
}

fn complete(result: httparse::Result<usize>) -> Result<(), HeadError> {
    match result {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(HeadError::Malformed),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(_) => Err(HeadError::Malformed),
    }
}

/// Lines end with CR LF, and neither stands alone: what parsers disagree about is refused (RFC 9112 section 2.2).
fn check_lines(head: &[u8]) -> Result<(), HeadError> {
    let mut before = 0;
    for &byte in head {
        if (byte == b'\n') != (before == b'\r') {
            return Err(HeadError::Malformed);
        }
        before = byte;
    }
    Ok(())
}

/// The phrase for a status, for people.
pub(crate) fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}
