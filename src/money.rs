//! Exact amounts of money with two decimals, as text and minor units; no currencies and no arithmetic.

use std::fmt;

/// An amount from 0.00 to 999,999,999,999.99, held as an integer number of minor units (cents).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money {
    minor_units: i64,
}

/// Reason why a text is not an amount; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("must be a decimal number such as 250.75, without exponent, sign or leading zeros")]
    Malformed,
    #[error("must not be negative")]
    Negative,
    #[error("must have at most two decimals")]
    TooManyDecimals,
    #[error("must not exceed 999999999999.99")]
    TooLarge,
}

impl Money {
    pub const MAX: Money = Money {
        minor_units: 99_999_999_999_999,
    };

    /// Parses the decimal text of a JSON number: digits without leading zeros, then at most two decimals.
    pub fn parse(text: &str) -> Result<Money, MoneyError> {
        if let Some(magnitude) = text.strip_prefix('-') {
            return Err(match Money::parse(magnitude) {
                Err(MoneyError::Malformed | MoneyError::Negative) => MoneyError::Malformed,
                Ok(_) | Err(_) => MoneyError::Negative,
            });
        }
        let (whole, decimals) = match text.split_once('.') {
            Some((_, "")) => return Err(MoneyError::Malformed),
            Some((whole, decimals)) => (whole, decimals),
            None => (text, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || leading_zero || !all_digits(whole) || !all_digits(decimals) {
            return Err(MoneyError::Malformed);
        }
        let hundredths = match decimals.as_bytes() {
            [] => 0,
            [tenth] => i64::from(tenth - b'0') * 10,
            [tenth, hundredth] => i64::from(tenth - b'0') * 10 + i64::from(hundredth - b'0'),
            _ => return Err(MoneyError::TooManyDecimals),
        };
        whole
            .parse::<i64>()
            .ok()
            .and_then(|units| units.checked_mul(100))
            .and_then(|units| units.checked_add(hundredths))
            .and_then(Money::from_minor_units)
            .ok_or(MoneyError::TooLarge)
    }

    /// Returns `None` outside 0 … [`Money::MAX`].
    pub fn from_minor_units(minor_units: i64) -> Option<Money> {
        (0..=Money::MAX.minor_units)
            .contains(&minor_units)
            .then_some(Money { minor_units })
    }

    pub fn minor_units(self) -> i64 {
        self.minor_units
    }
}

impl fmt::Display for Money {
    /// Always two decimals: `250.75`, `0.30`, `100.00`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}.{:02}",
            self.minor_units / 100,
            self.minor_units % 100
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_come_back_exact() {
        for (given, shown) in [
            ("250.75", "250.75"),
            ("0.1", "0.10"),
            ("0.30", "0.30"),
            ("100", "100.00"),
            ("0", "0.00"),
            ("999999999999.99", "999999999999.99"),
        ] {
            assert_eq!(Money::parse(given).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn an_invalid_amount_is_refused_with_its_reason() {
        for (given, reason) in [
            ("-1", MoneyError::Negative),
            ("-0.001", MoneyError::Negative),
            ("1.005", MoneyError::TooManyDecimals),
            ("1000000000000", MoneyError::TooLarge),
            ("99999999999999999999999999", MoneyError::TooLarge),
            ("", MoneyError::Malformed),
            ("--1", MoneyError::Malformed),
            ("1.", MoneyError::Malformed),
            (".5", MoneyError::Malformed),
            ("01", MoneyError::Malformed),
            ("1e2", MoneyError::Malformed),
            ("1e400", MoneyError::Malformed),
            ("NaN", MoneyError::Malformed),
            ("+1", MoneyError::Malformed),
            ("1,5", MoneyError::Malformed),
            (" 1", MoneyError::Malformed),
            ("١", MoneyError::Malformed),
        ] {
            assert_eq!(Money::parse(given), Err(reason), "{given}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_survives_a_round_trip(minor_units in 0..=Money::MAX.minor_units) {
            let amount = Money::from_minor_units(minor_units).unwrap();
            prop_assert_eq!(Money::parse(&amount.to_string()), Ok(amount));
        }
    }
}
