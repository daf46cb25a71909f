//! Writes the JSON of an order straight into a buffer: every accepted and every read order passes here, and a batch has
//! a thousand of them. The fields of [`OrderBody`] and their serialization define the output.

use serde_json::Error;

use super::{Amount, OrderBody, Time, Verbatim};
use crate::order::UserId;

/// Upper bound of an order's JSON without its texts: names, numbers and times.
const FIXED_BYTES_MAX: usize = 768;
/// `0000-00-00T00:00:00.000000Z`.
pub(super) const TIME_BYTES: usize = 27;
const NULL: &[u8] = b"null";

impl OrderBody<'_> {
    /// Writes the bytes that `serde_json` would write.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        // Named one by one, so that a new field cannot be forgotten.
        let OrderBody {
            order_id,
            user_id,
            item_ids,
            total_amount,
            status,
            reference,
            metadata,
            version,
            item_count,
            attempts,
            created_at,
            processing_at,
            completed_at,
            next_attempt_at,
            last_error,
            time_taken_seconds,
            result,
            currency,
            items,
            start_after,
            deadline,
            overdue,
            held,
            milestone,
        } = self;
        to.reserve(self.bytes_about());
        to.extend_from_slice(b"{\"order_id\":");
        integer(*order_id, to);
        to.extend_from_slice(b",\"user_id\":");
        match user_id {
            UserId::Number(number) => integer(*number, to),
            UserId::Name(name) => serde_json::to_writer(&mut *to, &**name)?,
        }
        to.extend_from_slice(b",\"item_ids\":\"");
        // Nothing to escape: letters, digits, commas and `._:/-`.
        to.extend_from_slice(item_ids.as_bytes());
        to.extend_from_slice(b"\",\"total_amount\":");
        amount(total_amount, to);
        to.extend_from_slice(b",\"status\":\"");
        to.extend_from_slice(status.as_bytes());
        to.extend_from_slice(b"\",\"reference\":");
        text(*reference, to)?;
        to.extend_from_slice(b",\"metadata\":");
        verbatim(metadata.as_ref(), to);
        to.extend_from_slice(b",\"version\":");
        digits(u64::from(*version), to);
        to.extend_from_slice(b",\"item_count\":");
        digits(*item_count, to);
        to.extend_from_slice(b",\"attempts\":");
        digits(u64::from(*attempts), to);
        to.extend_from_slice(b",\"created_at\":");
        time(Some(created_at), to)?;
        to.extend_from_slice(b",\"processing_at\":");
        time(processing_at.as_ref(), to)?;
        to.extend_from_slice(b",\"completed_at\":");
        time(completed_at.as_ref(), to)?;
        to.extend_from_slice(b",\"next_attempt_at\":");
        time(next_attempt_at.as_ref(), to)?;
        to.extend_from_slice(b",\"last_error\":");
        text(*last_error, to)?;
        to.extend_from_slice(b",\"time_taken_seconds\":");
        match time_taken_seconds {
            Some(seconds) => serde_json::to_writer(&mut *to, seconds)?,
            None => to.extend_from_slice(NULL),
        }
        to.extend_from_slice(b",\"result\":");
        verbatim(result.as_ref(), to);
        if let Some(currency) = currency {
            to.extend_from_slice(b",\"currency\":\"");
            to.extend_from_slice(currency.as_bytes());
            to.push(b'"');
        }
        if items.is_some() {
            to.extend_from_slice(b",\"items\":");
            verbatim(items.as_ref(), to);
        }
        if start_after.is_some() {
            to.extend_from_slice(b",\"start_after\":");
            time(start_after.as_ref(), to)?;
        }
        if deadline.is_some() {
            to.extend_from_slice(b",\"deadline\":");
            time(deadline.as_ref(), to)?;
        }
        if let Some(overdue) = overdue {
            to.extend_from_slice(b",\"overdue\":");
            serde_json::to_writer(&mut *to, overdue)?;
        }
        if let Some(held) = held {
            to.extend_from_slice(b",\"held\":");
            serde_json::to_writer(&mut *to, held)?;
        }
        if let Some(milestone) = milestone {
            // Nothing to escape: letters and underscores.
            to.extend_from_slice(b",\"milestone\":\"");
            to.extend_from_slice(milestone.as_bytes());
            to.push(b'"');
        }
        to.push(b'}');
        Ok(())
    }

    /// Returns at least the size that [`OrderBody::write`] needs, unless a text is full of characters to escape.
    pub fn bytes_about(&self) -> usize {
        let verbatim = |json: &Option<Verbatim<'_>>| json.as_ref().map_or(0, |json| json.0.len());
        FIXED_BYTES_MAX
            + self.item_ids.len()
            + self.reference.map_or(0, str::len)
            + self.last_error.map_or(0, str::len)
            + self.user_id.name().map_or(0, str::len)
            + verbatim(&self.metadata)
            + verbatim(&self.items)
            + verbatim(&self.result)
            + self
                .held
                .as_ref()
                .and_then(|held| held.reason)
                .map_or(0, str::len)
    }
}

fn text(text: Option<&str>, to: &mut Vec<u8>) -> Result<(), Error> {
    if let Some(text) = text {
        return serde_json::to_writer(to, text);
    }
    to.extend_from_slice(NULL);
    Ok(())
}

fn verbatim(json: Option<&Verbatim<'_>>, to: &mut Vec<u8>) {
    to.extend_from_slice(json.map_or(NULL, |json| json.0.as_bytes()));
}

fn time(time: Option<&Time>, to: &mut Vec<u8>) -> Result<(), Error> {
    let Some(time) = time else {
        to.extend_from_slice(NULL);
        return Ok(());
    };
    let Some(text) = usual(time.0.micros()) else {
        return serde_json::to_writer(to, time);
    };
    to.push(b'"');
    to.extend_from_slice(&text);
    to.push(b'"');
    Ok(())
}

fn amount(Amount(amount): &Amount, to: &mut Vec<u8>) {
    let minor_units = amount.minor_units().unsigned_abs();
    if amount.decimals() == 2 {
        digits(minor_units / 100, to);
        to.push(b'.');
        to.extend_from_slice(&two(minor_units % 100));
    } else {
        to.extend_from_slice(amount.to_string().as_bytes());
    }
}

fn integer(value: i64, to: &mut Vec<u8>) {
    if value < 0 {
        to.push(b'-');
    }
    digits(value.unsigned_abs(), to);
}

fn digits(mut value: u64, to: &mut Vec<u8>) {
    /// Digits of the largest value.
    const DIGITS_MAX: usize = 20;
    let mut text = [b'0'; DIGITS_MAX];
    let mut begin = DIGITS_MAX;
    loop {
        begin -= 1;
        text[begin] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    to.extend_from_slice(&text[begin..]);
}

/// Formats RFC 3339 with six fraction digits; `None` outside the years from 1970 to 9999.
pub(super) fn usual(micros: i64) -> Option<[u8; TIME_BYTES]> {
    const DAY_SECONDS: u64 = 86_400;
    /// First microsecond of the year 10000.
    const END: u64 = 253_402_300_800_000_000;
    let micros = u64::try_from(micros).ok().filter(|micros| *micros < END)?;
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (year, month, day) = date(seconds / DAY_SECONDS);
    let of_day = seconds % DAY_SECONDS;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    for (at, value) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, of_day / 3_600),
        (14, of_day / 60 % 60),
        (17, of_day % 60),
        (20, fraction / 10_000),
        (22, fraction / 100 % 100),
        (24, fraction % 100),
    ] {
        text[at..at + 2].copy_from_slice(&two(value));
    }
    Some(text)
}

/// Returns year, month and day of the date `days` after 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", 2013, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Counted from March.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + era * 400;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

fn two(value: u64) -> [u8; 2] {
    [digit(value / 10), digit(value)]
}

/// Returns the last digit.
fn digit(value: u64) -> u8 {
    b"0123456789"[(value % 10) as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::{self, Currency, Money};
    use crate::order::{
        Code, Hold, Items, Line, MilestoneName, NewOrder, Order, OrderId, OrderStatus, Reason, Reference,
    };
    use crate::portable_json::JsonText;
    use crate::time::Timestamp;

    fn printed(micros: i64) -> String {
        let instant = jiff::Timestamp::from_microsecond(micros).unwrap();
        format!("{instant:.6}")
    }

    fn instants() -> impl Strategy<Value = i64> {
        prop_oneof![0..JIFF_DAYS * 86_400_000_000, -1_000_000_i64..1_000_000,]
    }

    /// Whole days that jiff supports, to a day before the end.
    const JIFF_DAYS: i64 = 2_932_893;

    #[test]
    fn months_years_and_centuries_begin_at_the_right_day() {
        let day = 86_400_000_000_i64;
        for days in 0..4 * 366 {
            for start in [0, 10_957, 47_482, JIFF_DAYS - 4 * 366] {
                let micros = (start + days) * day;
                for micros in [micros, micros + day - 1] {
                    let text = usual(micros).unwrap();
                    assert_eq!(std::str::from_utf8(&text).unwrap(), printed(micros));
                }
            }
        }
        let last = usual(Timestamp::MAX.micros()).unwrap();
        assert_eq!(&last, b"9999-12-31T23:59:59.999999Z");
        assert_eq!(usual(-1), None);
        assert_eq!(usual(253_402_300_800_000_000), None);
    }

    proptest! {
        #[test]
        fn written_and_serialized_orders_are_equal(
            numbers in (any::<i64>(), any::<i64>(), any::<u32>(), any::<u32>(), 0..=money::max(0)),
            user in prop::option::of("[^\\p{C}]{1,20}x"),
            currency in prop::option::of(prop::sample::select(vec!["JPY", "EUR", "KWD", "CLF"])),
            has_lines in any::<bool>(),
            items in prop::collection::vec(1..=crate::order::INTEGER_MAX, 1..20),
            texts in prop::option::of(("[^\\p{C}]{1,20}", any::<String>())),
            json in prop::option::of(prop_oneof![Just("{ \"a\" : 1.10 }"), Just("{}"), Just("{\"\\u00e9\":[null]}")]),
            status in prop::sample::select(OrderStatus::ALL.to_vec()),
            created_at in instants(),
            later in prop::option::of(instants()),
        ) {
            let (order_id, user_id, version, attempts, minor_units) = numbers;
            let currency = currency.map(|code| Currency::parse(code).unwrap());
            let line = |id: &i64| Line {
                sku: Code::parse(&id.to_string()).unwrap(),
                quantity: 2,
                unit_price: None,
                name: texts.as_ref().map(|(name, _)| name.as_str().into()),
            };
            let lines: Vec<Line> = items.iter().map(line).collect();
            let (reference, last_error) = texts.unzip();
            let later = later.map(Timestamp::from_micros);
            let reason = last_error.as_deref().and_then(|text: &str| Reason::parse(text).ok());
            let order = Order {
                order_id: OrderId(order_id),
                request: NewOrder {
                    user_id: user.map_or(UserId::Number(user_id), |text| UserId::parse(&text).unwrap()),
                    items: if has_lines { Items::of_lines(&lines).unwrap() } else { Items::of_ids(&items).unwrap() },
                    total_amount: Money::from_minor_units(minor_units, Currency::decimals_of(currency)).unwrap(),
                    currency,
                    reference: reference.and_then(|text| Reference::parse(&text).ok()),
                    metadata: json.map(Into::into),
                    start_after: later,
                    deadline: later,
                    hold: later.map(|_| Hold { reason }),
                },
                status,
                version,
                attempts,
                generation: 0,
                created_at: Timestamp::from_micros(created_at),
                processing_at: later,
                finished_at: later,
                next_attempt_at: later,
                held_at: later,
                overdue: later.is_some(),
                milestone: later.map(|_| MilestoneName::parse("shipped").unwrap()),
                last_error,
                result: json.map(|json| JsonText::parse(json).unwrap()),
            };
            let mut written = Vec::new();
            OrderBody::from(&order).write(&mut written).unwrap();
            let serialized = serde_json::to_string(&OrderBody::from(&order)).unwrap();
            prop_assert_eq!(String::from_utf8(written).unwrap(), serialized);
        }
    }
}
