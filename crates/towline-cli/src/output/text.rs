//! Messages and tables as text.

use std::io::Write;

use clap::ValueEnum;
use towline::Message;

use super::json;
use crate::framing::Framing;

/// How messages are written to standard output, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The data as it is, and a newline.
    Raw,
    /// In quotation marks, with escapes for everything that is not printable ASCII: always one line.
    Quoted,
    /// Two hexadecimal digits for each byte.
    Hex,
    /// One JSON object per line, with id, reply_to, lane and data.
    Json,
    /// `--framed`: behind its length.
    #[value(skip)]
    Framed,
}

impl Format {
    /// Writes one message. `connection` numbers the peers of a listener.
    pub(crate) fn write(
        self,
        out: &mut impl Write,
        message: &Message,
        connection: Option<u64>,
    ) -> std::io::Result<()> {
        match self {
            Format::Framed => return Framing::Lengths.write(out, &message.data),
            Format::Raw => out.write_all(&message.data)?,
            Format::Quoted => write!(out, "\"{}\"", message.data.escape_ascii())?,
            Format::Hex => out.write_all(hex(&message.data).as_bytes())?,
            Format::Json => write!(out, "{}", json::message(message, connection))?,
        }
        out.write_all(b"\n")
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(data: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    data.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A table with aligned columns: the first row is its head. Columns of numbers are aligned to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &'_ Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let starts_with_digit = |text: String| text.starts_with(|c: char| c.is_ascii_digit());
    let layout: Vec<(usize, bool)> = (0..columns)
        .map(|column| {
            let width = rows.iter().map(|row| cell(row, column).chars().count()).max();
            let numbers = rows.iter().skip(1).all(|row| starts_with_digit(cell(row, column)));
            (width.unwrap_or(0), numbers)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let line: Vec<String> = layout
            .iter()
            .enumerate()
            .map(|(column, (width, right))| match right {
                true => format!("{:>width$}", cell(row, column)),
                false => format!("{:<width$}", cell(row, column)),
            })
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
        if number == 0 {
            let rule: Vec<String> = layout.iter().map(|(width, _)| "-".repeat(*width)).collect();
            text.push_str(&rule.join("  "));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, data: &'static [u8]) -> String {
        let mut out = Vec::new();
        let message = Message::new(data).with_id(7);
        format.write(&mut out, &message, Some(2)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formats_write_what_they_say() {
        assert_eq!(written(Format::Raw, b"a\tb"), "a\tb\n");
        assert_eq!(written(Format::Quoted, b"a\"\n\xff"), "\"a\\\"\\n\\xff\"\n");
        assert_eq!(written(Format::Hex, b"\x00\xfe"), "00fe\n");
        let value: serde_json::Value =
            serde_json::from_str(&written(Format::Json, b"h\xc3\xa9")).unwrap();
        assert_eq!(value["data"], "h\u{e9}");
        assert_eq!((value["id"].as_u64(), value["connection"].as_u64()), (Some(7), Some(2)));
        let value: serde_json::Value =
            serde_json::from_str(&written(Format::Json, b"\xff\x00")).unwrap();
        assert_eq!(value["data_hex"], "ff00");
        assert_eq!(value.get("data"), None);
    }

    #[test]
    fn tables_align_numbers_to_the_right() {
        let rows = [["wire", "n"], ["tcp", "1"], ["ftcps", "100"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "wire     n\n-----  ---\ntcp      1\nftcps  100\n");
    }
}
