//! The `Sec-WebSocket-Extensions` header (RFC 6455 section 9.1) and the parameters of RFC 7692 section 7.1.

use super::DeflateConfig;

/// The extension's name.
const NAME: &str = "permessage-deflate";

/// What both ends agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeflateParams {
    /// The client starts each message with an empty window (section 7.1.1.2).
    pub client_no_context_takeover: bool,
    /// The server starts each message with an empty window (section 7.1.1.1).
    pub server_no_context_takeover: bool,
    /// Log2 of the client's window, 8 to 15 (section 7.1.2.2).
    pub client_window_bits: u8,
    /// Log2 of the server's window, 8 to 15 (section 7.1.2.1).
    pub server_window_bits: u8,
}

/// A server's answer that does not fit the offer; the client fails the connection (RFC 7692 section 7.1, RFC 6455 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// An extension that was not offered.
    #[error("server chose an extension that was not offered")]
    NotOffered,
    /// The header is not a list of extensions.
    #[error("malformed extension header")]
    Malformed,
    /// A parameter that is unknown, doubled, out of range, or wider than offered.
    #[error("unacceptable parameter in the extension answer")]
    Parameter,
}

/// The parameters as they stand in a header; the outer `Option` says whether they do.
#[derive(Debug, Default, Clone, Copy)]
struct Written {
    client_no_context_takeover: bool,
    server_no_context_takeover: bool,
    client_window_bits: Option<Option<u8>>,
    server_window_bits: Option<u8>,
}

impl Written {
    /// Parses the parameters of one extension; `None` when one is unknown, doubled or out of range.
    fn parse(params: &[(&str, Option<&str>)]) -> Option<Written> {
        let mut written = Written::default();
        for &(name, value) in params {
            let flag = match name.to_ascii_lowercase().as_str() {
                "client_no_context_takeover" => Some(&mut written.client_no_context_takeover),
                "server_no_context_takeover" => Some(&mut written.server_no_context_takeover),
                "client_max_window_bits" if written.client_window_bits.is_none() => {
                    let bits = match value {
                        Some(value) => Some(window_bits(value)?),
                        None => None,
                    };
                    written.client_window_bits = Some(bits);
                    None
                }
                "server_max_window_bits" if written.server_window_bits.is_none() => {
                    written.server_window_bits = Some(window_bits(value?)?);
                    None
                }
                _ => return None,
            };
            if let Some(flag) = flag {
                if *flag || value.is_some() {
                    return None;
                }
                *flag = true;
            }
        }
        Some(written)
    }
}

/// Section 7.1.2: a decimal integer 8 to 15 without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits: u8 = value.parse().ok()?;
    (matches!(bits, 8..=15) && !value.starts_with(['0', '+'])).then_some(bits)
}

impl DeflateParams {
    /// The client's offer for this configuration.
    pub fn offer(config: &DeflateConfig) -> String {
        let mut offer = String::from(NAME);
        match config.client_window_bits {
            15 => offer.push_str("; client_max_window_bits"),
            bits => offer.push_str(&format!("; client_max_window_bits={bits}")),
        }
        if config.server_window_bits < 15 {
            offer.push_str(&format!("; server_max_window_bits={}", config.server_window_bits));
        }
        if config.server_no_context_takeover {
            offer.push_str("; server_no_context_takeover");
        }
        if config.client_no_context_takeover {
            offer.push_str("; client_no_context_takeover");
        }
        offer
    }

    /// The server's choice among the client's offers, in the client's order; `None` declines all.
    ///
    /// An offer with anything unknown or invalid in it is declined (section 7.1), and so is one that would leave the client a larger window
    /// than the configuration allows. `header` holds the values of all headers of this name, joined with commas.
    pub fn accept(config: &DeflateConfig, header: &str) -> Option<DeflateParams> {
        parse_extensions(header)?
            .iter()
            .filter(|extension| extension.name.eq_ignore_ascii_case(NAME))
            .find_map(|extension| Self::accept_one(config, Written::parse(&extension.params)?))
    }

    fn accept_one(config: &DeflateConfig, offer: Written) -> Option<DeflateParams> {
        let client_window_bits = match offer.client_window_bits {
            Some(bits) => bits.unwrap_or(15).min(config.client_window_bits),
            // Without the hint the client may not be told (section 7.1.2.2) and uses the full window.
            None if config.client_window_bits == 15 => 15,
            None => return None,
        };
        Some(DeflateParams {
            client_no_context_takeover: offer.client_no_context_takeover
                || config.client_no_context_takeover,
            server_no_context_takeover: offer.server_no_context_takeover
                || config.server_no_context_takeover,
            client_window_bits,
            server_window_bits: offer
                .server_window_bits
                .unwrap_or(15)
                .min(config.server_window_bits),
        })
    }

    /// The server's answer. Full windows are not mentioned, so that the answer fits any offer it was made from.
    pub fn answer(&self) -> String {
        let mut answer = String::from(NAME);
        if self.server_no_context_takeover {
            answer.push_str("; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            answer.push_str("; client_no_context_takeover");
        }
        if self.server_window_bits < 15 {
            answer.push_str(&format!("; server_max_window_bits={}", self.server_window_bits));
        }
        if self.client_window_bits < 15 {
            answer.push_str(&format!("; client_max_window_bits={}", self.client_window_bits));
        }
        answer
    }

    /// Checks a server's answer against the offer made from `config` (`None`: nothing was offered).
    ///
    /// # Errors
    /// When the answer names another extension, is malformed, or allows more than was offered.
    pub fn confirm(
        config: Option<&DeflateConfig>,
        header: &str,
    ) -> Result<Option<DeflateParams>, NegotiateError> {
        let extensions = parse_extensions(header).ok_or(NegotiateError::Malformed)?;
        let [extension] = extensions.as_slice() else {
            return if extensions.is_empty() { Ok(None) } else { Err(NegotiateError::NotOffered) };
        };
        let Some(config) = config else { return Err(NegotiateError::NotOffered) };
        if !extension.name.eq_ignore_ascii_case(NAME) {
            return Err(NegotiateError::NotOffered);
        }
        let answer = Written::parse(&extension.params).ok_or(NegotiateError::Parameter)?;
        let server_window_bits = answer.server_window_bits.unwrap_or(15);
        // In an answer the client's window needs a value (section 7.1.2.2).
        let client_window_bits = match answer.client_window_bits {
            None => config.client_window_bits,
            Some(Some(bits)) => bits.min(config.client_window_bits),
            Some(None) => return Err(NegotiateError::Parameter),
        };
        let forgets = answer.server_no_context_takeover || !config.server_no_context_takeover;
        if server_window_bits > config.server_window_bits || !forgets {
            return Err(NegotiateError::Parameter);
        }
        Ok(Some(DeflateParams {
            client_no_context_takeover: answer.client_no_context_takeover
                || config.client_no_context_takeover,
            server_no_context_takeover: answer.server_no_context_takeover,
            client_window_bits,
            server_window_bits,
        }))
    }
}

struct Extension<'a> {
    name: &'a str,
    params: Vec<(&'a str, Option<&'a str>)>,
}

/// RFC 6455 section 9.1: `extension *( "," extension )`, each `token *( ";" token [ "=" ( token | quoted ) ] )`.
///
/// Quoted values may hold tokens only, so that neither comma nor semicolon can be inside.
fn parse_extensions(header: &str) -> Option<Vec<Extension<'_>>> {
    let mut extensions = Vec::new();
    for item in header.split(',') {
        let item = item.trim_matches([' ', '\t']);
        if item.is_empty() {
            continue;
        }
        let mut parts = item.split(';').map(|part| part.trim_matches([' ', '\t']));
        let name = parts.next().filter(|name| is_token(name))?;
        let mut params = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start())?)),
                None => (part, None),
            };
            if !is_token(name) {
                return None;
            }
            params.push((name, value));
        }
        extensions.push(Extension { name, params });
    }
    Some(extensions)
}

fn unquote(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    is_token(inner).then_some(inner)
}

fn is_token(text: &str) -> bool {
    super::super::http::is_token(text)
}
