//! Sizes, rates and times on the command line, with iperf3's suffixes; and the same for people to read.

use std::time::Duration;

/// A number with an optional suffix K, M, G or T of either case, in powers of `unit`.
fn scaled(text: &str, unit: f64) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number with an optional K, M, G or T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let power = match suffix.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let value = number * unit.powi(power);
    if !(0.0..=9e18).contains(&value) {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(value.round() as u64)
}

/// A size in bytes; suffixes are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, 1024.0)
}

/// A rate in bits per second; suffixes are powers of 1000, and may be followed by "bit".
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("bit").unwrap_or(text);
    match scaled(number, 1000.0)? {
        0 => Err("a rate must be above 0".into()),
        rate => Ok(rate),
    }
}

/// A share: a number from 0 to 1, or a percentage.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let wrong = || format!("`{text}` is not a share, such as 2% or 0.02");
    let share = number.parse::<f64>().map_err(|_| wrong())? / unit;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(wrong)
}

/// A time: seconds, or a number followed by us, ms, s, m or h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write seconds, or for instance 250ms, 10s, 5m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..).unwrap_or_default() {
        "us" => 1e-6,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// Bytes for people, in powers of 1024.
pub(crate) fn show_bytes(bytes: f64) -> String {
    show(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Bits per second for people, in powers of 1000.
pub(crate) fn show_rate(bits_per_second: f64) -> String {
    show(bits_per_second, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// A time for people.
pub(crate) fn show_time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    show(nanos, 1000.0, &["ns", "us", "ms", "s"])
}

fn show(mut value: f64, unit: f64, names: &[&str]) -> String {
    let mut left = names.iter();
    let mut name = left.next().unwrap_or(&"");
    while value >= unit {
        let Some(next) = left.next() else { break };
        value /= unit;
        name = next;
    }
    let decimals = match value {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_1024_and_rates_in_1000() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("1.5K"), Ok(1536));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("1t"), Ok(1 << 40));
        assert_eq!(rate("100M"), Ok(100_000_000));
        assert_eq!(rate("2.5g"), Ok(2_500_000_000));
        assert_eq!((rate("100mbit"), rate("9bit")), (Ok(100_000_000), Ok(9)));
        for wrong in ["", "k", "-1", "1x", "1kk", "nan", "inf", "1e40", "9999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0").is_err());
    }

    #[test]
    fn shares_are_numbers_or_percentages() {
        assert_eq!((share("2%"), share("0.02"), share("100%")), (Ok(0.02), Ok(0.02), Ok(1.0)));
        for wrong in ["", "%", "2", "-1%", "101%", "nan", "x"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1", "1d", "nan", "1e30"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn people_read_three_digits() {
        assert_eq!(show_bytes(0.0), "0 B");
        assert_eq!(show_bytes(8.0 * 1024.0 * 1024.0), "8 MiB");
        assert_eq!(show_bytes(1536.0), "1.50 KiB");
        assert_eq!(show_rate(9_412_000_000.0), "9.41 Gbit/s");
        assert_eq!(show_rate(123_456.0), "123 kbit/s");
        assert_eq!(show_time(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(show_time(Duration::from_secs(90)), "90 s");
    }
}
