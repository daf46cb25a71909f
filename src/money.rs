//! Exact amounts of money, as text and minor units, and the currencies with their decimals; no arithmetic.

use std::fmt;

/// Decimals of an amount without a currency.
pub const DECIMALS: u8 = 2;
/// Most decimals of any currency.
pub const DECIMALS_MAX: u8 = 4;
/// Digits before the decimal point.
const WHOLE_DIGITS_MAX: usize = 12;

/// An amount, held as an integer number of minor units (cents) and the number of decimals. As an order's total it is from 0 to
/// 999,999,999,999.99; a price may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    minor_units: i64,
    decimals: u8,
}

/// Reason why a text is not an amount; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("must be a decimal number such as 250.75, without exponent, plus sign or leading zeros")]
    Malformed,
    #[error("must not be negative")]
    Negative,
    #[error("must have {}", most_decimals(*.0))]
    TooManyDecimals(u8),
    #[error("must not exceed 999999999999.99")]
    TooLarge,
}

fn most_decimals(decimals: u8) -> String {
    match decimals {
        0 => "no decimals".to_owned(),
        2 => "at most two decimals".to_owned(),
        more => format!("at most {more} decimals"),
    }
}

impl Money {
    /// Parses the decimal text of a JSON number: digits without leading zeros, then at most this many decimals.
    pub fn parse(text: &str, decimals: u8) -> Result<Money, MoneyError> {
        if let Some(magnitude) = text.strip_prefix('-') {
            return Err(match Money::parse(magnitude, decimals) {
                Err(MoneyError::Malformed | MoneyError::Negative) => MoneyError::Malformed,
                Ok(_) | Err(_) => MoneyError::Negative,
            });
        }
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(MoneyError::Malformed),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || leading_zero || !all_digits(whole) || !all_digits(fraction) {
            return Err(MoneyError::Malformed);
        }
        let Some(missing) = usize::from(decimals).checked_sub(fraction.len()) else {
            return Err(MoneyError::TooManyDecimals(decimals));
        };
        if whole.len() > WHOLE_DIGITS_MAX {
            return Err(MoneyError::TooLarge);
        }
        let parsed = |digits: &str| {
            digits
                .bytes()
                .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        };
        let unit = 10_i64.pow(decimals.into());
        let minor_units = parsed(whole) * unit + parsed(fraction) * ten_to(missing);
        Money::from_minor_units(minor_units, decimals).ok_or(MoneyError::TooLarge)
    }

    /// Parses the decimal text of a price, which may be negative.
    pub fn parse_signed(text: &str, decimals: u8) -> Result<Money, MoneyError> {
        let Some(magnitude) = text.strip_prefix('-') else {
            return Money::parse(text, decimals);
        };
        match Money::parse(magnitude, decimals) {
            Ok(amount) => Ok(Money {
                minor_units: -amount.minor_units,
                ..amount
            }),
            Err(MoneyError::Negative) => Err(MoneyError::Malformed),
            Err(error) => Err(error),
        }
    }

    /// Returns `None` outside 0 … 999,999,999,999.99.
    pub fn from_minor_units(minor_units: i64, decimals: u8) -> Option<Money> {
        (0..=max(decimals)).contains(&minor_units).then_some(Money {
            minor_units,
            decimals,
        })
    }

    pub fn minor_units(self) -> i64 {
        self.minor_units
    }

    pub fn decimals(self) -> u8 {
        self.decimals
    }
}

fn ten_to(power: usize) -> i64 {
    (0..power).fold(1, |number, _| number * 10)
}

/// Returns the largest amount with this many decimals, in minor units.
pub fn max(decimals: u8) -> i64 {
    const HUNDREDTHS: i64 = 99_999_999_999_999;
    match decimals.checked_sub(DECIMALS) {
        Some(more) => HUNDREDTHS * 10_i64.pow(more.into()),
        None => HUNDREDTHS / 10_i64.pow((DECIMALS - decimals).into()),
    }
}

impl fmt::Display for Money {
    /// Always all decimals: `250.75`, `0.30`, `100.00`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor_units < 0 { "-" } else { "" };
        let magnitude = self.minor_units.unsigned_abs();
        let unit = 10_u64.pow(self.decimals.into());
        write!(formatter, "{sign}{}", magnitude / unit)?;
        match usize::from(self.decimals) {
            0 => Ok(()),
            decimals => write!(formatter, ".{:0decimals$}", magnitude % unit),
        }
    }
}

/// A currency of ISO 4217 that has minor units, or whole units only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency {
    code: &'static str,
    decimals: u8,
}

/// The message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the code of a currency (ISO 4217), such as \"EUR\"")]
pub struct CurrencyError;

impl Currency {
    /// Reads a code in capitals. Codes for metals, tests and units of account are none: they have no decimals.
    pub fn parse(code: &str) -> Result<Currency, CurrencyError> {
        let known = iso_currency::Currency::from_code(code).filter(|known| !known.is_special());
        let known = known.ok_or(CurrencyError)?;
        let decimals = known.exponent().and_then(|decimals| u8::try_from(decimals).ok());
        Ok(Currency {
            code: known.code(),
            decimals: decimals.ok_or(CurrencyError)?,
        })
    }

    /// Returns all currencies, by trying every code.
    pub fn all() -> Vec<Currency> {
        let letters = || 'A'..='Z';
        let pairs = letters().flat_map(|first| letters().map(move |second| (first, second)));
        let codes =
            pairs.flat_map(|(first, second)| letters().map(move |third| format!("{first}{second}{third}")));
        codes.filter_map(|code| Currency::parse(&code).ok()).collect()
    }

    pub fn code(self) -> &'static str {
        self.code
    }

    pub fn decimals(self) -> u8 {
        self.decimals
    }

    /// Returns the decimals of amounts in this currency, or of those without one.
    pub fn decimals_of(currency: Option<Currency>) -> u8 {
        currency.map_or(DECIMALS, Currency::decimals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_come_back_exact() {
        for (given, decimals, shown) in [
            ("250.75", 2, "250.75"),
            ("0.1", 2, "0.10"),
            ("0.30", 2, "0.30"),
            ("100", 2, "100.00"),
            ("0", 2, "0.00"),
            ("999999999999.99", 2, "999999999999.99"),
            ("1000", 0, "1000"),
            ("999999999999", 0, "999999999999"),
            ("1.5", 3, "1.500"),
            ("0.001", 3, "0.001"),
            ("999999999999.99", 4, "999999999999.9900"),
        ] {
            assert_eq!(Money::parse(given, decimals).unwrap().to_string(), shown);
        }
        assert_eq!(Money::parse_signed("-0.5", 2).unwrap().to_string(), "-0.50");
        assert_eq!(Money::parse_signed("-7", 0).unwrap().to_string(), "-7");
    }

    #[test]
    fn an_invalid_amount_is_refused_with_its_reason() {
        for (given, reason) in [
            ("-1", MoneyError::Negative),
            ("-0.001", MoneyError::Negative),
            ("1.005", MoneyError::TooManyDecimals(2)),
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
            assert_eq!(Money::parse(given, 2), Err(reason), "{given}");
        }
        assert_eq!(Money::parse("250.75", 0), Err(MoneyError::TooManyDecimals(0)));
        assert_eq!(Money::parse("999999999999.991", 3), Err(MoneyError::TooLarge));
        assert_eq!(Money::parse_signed("--1", 2), Err(MoneyError::Malformed));
        assert_eq!(
            Money::parse_signed("-1.001", 2),
            Err(MoneyError::TooManyDecimals(2))
        );
        assert_eq!(
            MoneyError::TooManyDecimals(2).to_string(),
            "must have at most two decimals"
        );
        assert_eq!(
            MoneyError::TooManyDecimals(0).to_string(),
            "must have no decimals"
        );
    }

    #[test]
    fn currencies_have_their_decimals() {
        for (code, decimals) in [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("XOF", 0)] {
            let currency = Currency::parse(code).unwrap();
            assert_eq!((currency.code(), currency.decimals()), (code, decimals));
        }
        for bad in ["eur", "EURO", "", "XXX", "XAU", "ABC"] {
            assert_eq!(Currency::parse(bad), Err(CurrencyError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_survives_a_round_trip(decimals in 0_u8..=4, number in 0..=i64::MAX) {
            let amount = Money::from_minor_units(number % (max(decimals) + 1), decimals).unwrap();
            prop_assert_eq!(Money::parse(&amount.to_string(), decimals), Ok(amount));
        }
    }

    /// Stored amounts are minor units, so no currency may ever change its decimals, and none with stored orders may disappear.
    #[test]
    fn the_table_of_currencies_is_the_one_that_stored_amounts_rely_on() {
        let with = |decimals: u8| {
            let all = Currency::all().into_iter();
            let codes = all
                .filter(|currency| currency.decimals() == decimals)
                .map(Currency::code);
            codes.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            with(0),
            "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
        );
        assert_eq!(with(3), "BHD IQD JOD KWD LYD OMR TND");
        assert_eq!(with(4), "CLF UYW");
        assert_eq!(
            with(2),
            "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF \
             CHE CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD \
             GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL \
             MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN \
             QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY \
             TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG ZWL"
        );
        assert_eq!(with(1), "");
    }
}
