//! Pins: the SHA-256 of a certificate, or of its public key, by which a peer is recognised without a CA.
//!
//! ```
//! use towline_proto::tls::Pin;
//!
//! let pin = Pin::of_certificate(b"the certificate's DER");
//! let text = pin.to_string();
//! assert!(text.starts_with("sha256:"));
//! assert_eq!(text.parse::<Pin>().unwrap(), pin);
//! assert_eq!(pin.to_base64().parse::<Pin>().unwrap(), pin);
//! ```

use super::Error;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// The SHA-256 of a certificate's DER or of its public key's (SubjectPublicKeyInfo, as in RFC 7469 section 2.4).
///
/// Which of the two it is, it does not say: a peer matches when either does. Printed as `sha256:` and 64 lower-case hex digits;
/// parsed from that, from hex in either case with or without `sha256:` and with colons between bytes (as OpenSSL prints
/// fingerprints), and from base64 (as curl and RFC 7469 write pins, `sha256//` included).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// A pin from the hash itself.
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The pin of a certificate, given as DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The pin of a certificate's public key, which a renewal with the same key keeps. `None` when the DER is no X.509 certificate.
    pub fn of_public_key(certificate_der: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from(certificate_der);
        let parsed = ParsedCertificate::try_from(&certificate).ok()?;
        Some(Self(Sha256::digest(parsed.subject_public_key_info()).into()))
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `sha256/` and the hash in base64, as other tools write pins.
    pub fn to_base64(&self) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::from("sha256/");
        for group in self.0.chunks(3) {
            let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for i in 0..4 {
                let symbol = ALPHABET.get((word >> (18 - 6 * i)) as usize & 63);
                text.push(if i <= group.len() {
                    symbol.map_or('=', |byte| char::from(*byte))
                } else {
                    '='
                });
            }
        }
        text
    }

    /// Whether the certificate itself or its public key has this pin.
    pub fn matches(&self, certificate_der: &[u8]) -> bool {
        *self == Self::of_certificate(certificate_der)
            || Some(*self) == Self::of_public_key(certificate_der)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let trimmed = text.trim();
        let parse = |digits| parse_hex(digits).or_else(|| parse_base64(digits));
        let hash = match trimmed.split_at_checked(6) {
            // A hash in base64 may itself begin with a slash, so the length decides which slashes belong to it.
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("sha256") => [":", "//", "/"]
                .iter()
                .find_map(|separator| rest.strip_prefix(separator).and_then(parse)),
            _ => parse(trimmed),
        };
        hash.map(Self).ok_or_else(|| Error::BadPin { text: text.to_owned() })
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    // With a colon between any two bytes, or without any.
    let stride = if text.contains(':') { 3 } else { 2 };
    if text.len() != 32 * stride - (stride - 2) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(stride)) {
        if let Some(separator) = digits.get(2)
            && *separator != b':'
        {
            return None;
        }
        let digit = |i: usize| digits.get(i).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(hash)
}

fn parse_base64(text: &str) -> Option<[u8; 32]> {
    let mut bytes = Vec::with_capacity(33);
    let (mut word, mut bits) = (0u32, 0);
    for symbol in text.strip_suffix('=').unwrap_or(text).bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        word = (word << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
        if bytes.len() > 32 {
            return None;
        }
    }
    // 43 symbols carry two bits more than the hash; they must be zero, so that a pin has one spelling.
    if text.trim_end_matches('=').len() != 43 || word & ((1 << bits) - 1) != 0 {
        return None;
    }
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc", FIPS 180-4 appendix (its well-known example).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn prints_and_parses_every_spelling() {
        let pin = Pin::of_certificate(b"abc");
        assert_eq!(pin.to_string(), format!("sha256:{ABC}"));
        let colons = ABC
            .as_bytes()
            .chunks(2)
            .map(|b| std::str::from_utf8(b).unwrap())
            .collect::<Vec<_>>()
            .join(":");
        let base64 = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        assert_eq!(pin.to_base64(), format!("sha256/{base64}"));
        for text in [
            ABC.to_owned(),
            ABC.to_uppercase(),
            format!("sha256:{ABC}"),
            format!("SHA256:{}", ABC.to_uppercase()),
            colons.to_uppercase(),
            format!("sha256:{colons}"),
            base64.to_owned(),
            base64.trim_end_matches('=').to_owned(),
            format!("sha256//{base64}"),
            format!("sha256:{base64}"),
            format!("  sha256:{ABC}\n"),
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0".to_owned(),
        ] {
            assert_eq!(text.parse::<Pin>().unwrap(), pin, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        let short = &ABC[..62];
        for text in [
            "",
            "sha256:",
            "sha256",
            "md5:abcd",
            short,
            "sha256:zz",
            "é",
            "sha256:é",
            &format!("{ABC}00"),
            &ABC.replace('b', "g"),
        ] {
            assert!(matches!(text.parse::<Pin>(), Err(Error::BadPin { .. })), "{text}");
        }
        // One base64 symbol less or more, wrong padding bits, a foreign symbol.
        for text in [
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa",
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0A",
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa1=",
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAF!0=",
        ] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_pin_survives_its_spellings() {
        for seed in 0u8..64 {
            let pin = Pin::of_certificate(&[seed]);
            assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
            assert_eq!(pin.to_base64().parse::<Pin>().unwrap(), pin);
        }
        assert_eq!(Pin::of_public_key(b"not a certificate"), None);
    }
}
