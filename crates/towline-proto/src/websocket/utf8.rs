//! UTF-8 checked while it arrives (RFC 6455 section 8.1): the first byte that cannot belong to valid
//! text fails at once, and a character may be cut anywhere between two pieces.

use super::error::Violation;

/// Checks a text message piece by piece.
///
/// Runs of whole characters go through the vector kernels of `simdutf8`; what crosses a border between
/// two pieces, at most three bytes, is carried over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8Validator {
    carry: [u8; 4],
    carried: usize,
}

impl Utf8Validator {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Violation::InvalidUtf8`] as soon as no continuation could make the text valid.
    #[inline]
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        if self.carried > 0 {
            piece = self.finish_character(piece)?;
        }
        if piece.is_empty() {
            return Ok(());
        }
        let Err(error) = simdutf8::compat::from_utf8(piece) else { return Ok(()) };
        match (error.error_len(), piece.get(error.valid_up_to()..)) {
            (None, Some(rest)) if rest.len() < 4 => {
                self.carry[..rest.len()].copy_from_slice(rest);
                self.carried = rest.len();
                Ok(())
            }
            _ => Err(Violation::InvalidUtf8),
        }
    }

    /// Ends the message: no character may be left unfinished. The validator is ready for the next one.
    #[inline]
    pub fn finish(&mut self) -> Result<(), Violation> {
        if std::mem::take(&mut self.carried) > 0 { Err(Violation::InvalidUtf8) } else { Ok(()) }
    }

    /// Forgets what was carried.
    pub fn reset(&mut self) {
        self.carried = 0;
    }

    /// Completes the carried character from the front of `piece` and returns the rest.
    fn finish_character<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Violation> {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            let Some(slot) = self.carry.get_mut(self.carried) else {
                return Err(Violation::InvalidUtf8);
            };
            *slot = byte;
            self.carried += 1;
            rest = after;
            match std::str::from_utf8(self.carry.get(..self.carried).unwrap_or_default()) {
                Ok(_) => {
                    self.carried = 0;
                    return Ok(rest);
                }
                // `None` means that it is a prefix of a valid character.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Violation::InvalidUtf8),
            }
        }
        Ok(rest)
    }
}
