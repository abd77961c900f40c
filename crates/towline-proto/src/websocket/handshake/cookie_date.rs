//! Dates in cookies (RFC 6265 section 5.1.1): whatever servers write, read leniently by one algorithm.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The time that a date means; `None` when it is no date. Before 1970 is 1970.
pub(super) fn parse_date(text: &str) -> Option<SystemTime> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        // Each token is the first thing that it can be and that is not known yet.
        if time.is_none() && clock(token).is_some() {
            time = clock(token);
        } else if day.is_none() && number(token, 1..=2).is_some() {
            day = number(token, 1..=2);
        } else if month.is_none() && month_of(token).is_some() {
            month = month_of(token);
        } else if year.is_none() {
            year = number(token, 2..=4);
        }
    }
    let (hour, minute, second) = time?;
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    let (day, month) = (day?, month?);
    if !(1..=31).contains(&day) || year < 1601 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_1970(i64::from(year), i64::from(month), i64::from(day));
    let seconds = days * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn is_delimiter(c: char) -> bool {
    matches!(c, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~')
}

/// So many digits at the front, and no further one behind them.
fn number(token: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let end = token.find(|c: char| !c.is_ascii_digit()).unwrap_or(token.len());
    let number = token.get(..end).filter(|number| digits.contains(&number.len()))?;
    number.parse().ok()
}

fn clock(token: &str) -> Option<(u32, u32, u32)> {
    let mut parts = token.splitn(3, ':');
    let hour = exactly(parts.next()?)?;
    let minute = exactly(parts.next()?)?;
    Some((hour, minute, number(parts.next()?, 1..=2)?))
}

fn exactly(part: &str) -> Option<u32> {
    number(part, 1..=2).filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// From 1.
fn month_of(token: &str) -> Option<u32> {
    let start = token.get(..3)?;
    let at = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(start))?;
    u32::try_from(at + 1).ok()
}

/// In the Gregorian calendar, with years that begin in March, so that the leap day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // Day 0 of this count is 1 March of the year 0; 719,468 days later is 1 January 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<u64> {
        let time = parse_date(text)?;
        Some(time.duration_since(SystemTime::UNIX_EPOCH).expect("not before").as_secs())
    }

    #[test]
    fn dates_in_the_forms_that_servers_write() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "06 nov 1994 8:49:37",
            "1994 x 6 november 08:49:37zone",
        ] {
            // The year of the last one reads as no day, because it has four digits.
            assert_eq!(at(text), Some(784_111_777), "{text}");
        }
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("29 Feb 2024 23:59:59"), Some(1_709_251_199));
        assert_eq!(at("1 Mar 2100 0:0:0"), Some(4_107_542_400));
        assert_eq!(at("1 Jan 1900 00:00:00"), Some(0), "before all clocks");
        assert_eq!(at("1 jan 69 00:00:00"), Some(3_124_224_000), "2069");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "tomorrow",
            "Sun, 06 Nov 1994",
            "32 Nov 1994 00:00:00",
            "6 Nov 1600 00:00:00",
            "6 Nov 1994 24:00:00",
            "6 Nov 1994 00:60:00",
            "6 Nov 1994 00:00:60",
            "6 Now 1994 00:00:00",
            "6 Nov 19945 00:00:00",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
