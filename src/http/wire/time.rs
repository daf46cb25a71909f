//! Parses times by RFC 3339 section 5.6, exactly; `order_json` writes them.

use jiff::civil::Date;

use crate::time::Timestamp;

/// Detail when [`parse_time`] returns `None`.
pub const TIME_EXPECTED: &str =
    "must be an RFC 3339 time with at most six fraction digits, such as 2030-01-31T12:00:00Z";
/// Detail instead of [`TIME_EXPECTED`] for a client that did not encode the plus of an offset.
pub const PLUS_DECODED: &str =
    "must be an RFC 3339 time; a plus in a query means a blank, so write +01:00 as %2B01:00";

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;
const FRACTION_DIGITS: usize = 6;

/// Parses an instant with any offset. Fractions below a microsecond are refused: rounding would move the edge of a
/// range.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_at_checked("2030-01-31T12:00:00".len())?;
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks
        .iter()
        .all(|(at, mark)| date_time[*at].eq_ignore_ascii_case(mark))
    {
        return None;
    }
    let year = digits(&date_time[..4])?;
    let (month, day) = (two(&date_time[5..7])?, two(&date_time[8..10])?);
    let date = Date::new(i16::try_from(year).ok()?, month, day).ok()?;
    let (hour, minute, second) = (
        two(&date_time[11..13])?,
        two(&date_time[14..16])?,
        two(&date_time[17..19])?,
    );
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, rest) = fraction(rest)?;
    let offset_minutes = offset_minutes(rest)?;
    let days = date.duration_since(Date::constant(1970, 1, 1)).as_secs() / DAY_SECONDS;
    let minutes = days * (24 * 60) + i64::from(hour) * 60 + i64::from(minute) - offset_minutes;
    // A leap second is at the end of a month in UTC, and counts as the instant after it, as in POSIX.
    if second == 60 && !ends_month(minutes) {
        return None;
    }
    Some(Timestamp::from_micros(
        (minutes * 60 + i64::from(second)) * SECOND + fraction,
    ))
}

/// Reports whether the text is a time whose plus was decoded as a blank.
pub fn lost_a_plus(text: &str) -> bool {
    text.contains(' ') && parse_time(&text.replace(' ', "+")).is_some()
}

/// Parses `time-secfrac` in microseconds; also returns the rest.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else {
        return Some((0, bytes));
    };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, rest) = rest.split_at(count);
    let (micros, finer) = fraction.split_at(count.min(FRACTION_DIGITS));
    if micros.is_empty() || finer.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let scale = 10_i64.pow(u32::try_from(FRACTION_DIGITS - micros.len()).ok()?);
    Some((digits(micros)? * scale, rest))
}

/// Parses `time-offset`.
fn offset_minutes(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hour @ .., b':', tens, ones] if hour.len() == 2 => {
            let (hour, minute) = (digits(hour)?, digits(&[*tens, *ones])?);
            let minutes = (hour <= 23 && minute <= 59).then_some(hour * 60 + minute)?;
            Some(if *sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}

/// Reports whether the minute that begins `minutes` after 1970 is the last of a month in UTC.
fn ends_month(minutes: i64) -> bool {
    let next_day = (minutes + 1).rem_euclid(24 * 60) == 0;
    let day = jiff::SignedDuration::from_secs((minutes + 1) * 60);
    let date = Date::constant(1970, 1, 1).checked_add(day);
    next_day && date.is_ok_and(|date| date.day() == 1)
}

fn two(bytes: &[u8]) -> Option<i8> {
    digits(bytes).and_then(|value| i8::try_from(value).ok())
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        Some(value * 10 + digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<i64> {
        parse_time(text).map(Timestamp::micros)
    }

    #[test]
    fn times_are_parsed_exactly_with_any_offset() {
        const DAY: i64 = 86_400_000_000;
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", 1_000_000),
            ("1970-01-01t00:00:01z", 1_000_000),
            ("1970-01-01T01:00:01.5+01:00", 1_500_000),
            ("1970-01-01T00:00:00-23:59", 86_340_000_000),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1970-01-01T00:00:00.123456000Z", 123_456),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("1972-02-29T00:00:00Z", 789 * DAY),
            ("2000-03-01T00:00:00Z", 11_017 * DAY),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
            ("9999-12-31T23:59:59.999999Z", Timestamp::MAX.micros()),
            ("0000-01-01T00:00:00Z", -719_528 * DAY),
            ("2016-12-31T23:59:60Z", 17_167 * DAY),
            ("1990-12-31T15:59:60-08:00", 7_670 * DAY),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn times_outside_of_rfc_3339_are_refused() {
        for text in [
            "",
            "0",
            "today",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00Z[UTC]",
            "1970-01-01T00:00:00.0000001Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00,5Z",
            "1970-01-01T00Z",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+01",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+01:60",
            "1970-01-01T00:00:00 01:00",
            "1970-01-01T00:00:00+1:000",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:60Z",
            "1970-01-15T23:59:60Z",
            "1970-00-01T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-32T00:00:00Z",
            "+1970-01-01T00:00:00Z",
            "19700101T000000Z",
            "10000-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z ",
            "1970-01-01T00:00:0\u{663}Z",
            "é970-01-01T00:00:00Z",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn a_plus_decoded_as_a_blank_is_recognized() {
        assert!(lost_a_plus("1970-01-01T00:00:00 01:00"));
        for other in [
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "tomorrow morning",
        ] {
            assert!(!lost_a_plus(other), "{other}");
        }
    }
}
