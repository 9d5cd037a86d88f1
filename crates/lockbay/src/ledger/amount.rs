//! Money: currencies, amounts that a caller names, and exact sums of them.
//!
//! An [`Amount`] is what somebody asks to move: above zero, within the scale of its currency, and
//! below a limit. A [`Sum`] is what adding amounts up gives: it may be zero or negative. Both are
//! exact, both are shown as text with all the decimals of the currency, and no float is ever near
//! them. Nothing here knows an account.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;

/// Currencies without a number in ISO 4217, with the decimals of their smallest unit.
const CRYPTO: &[(&str, u32)] = &[
    ("ADA", 6),
    ("AVAX", 9),
    ("BCH", 8),
    ("BNB", 18),
    ("BTC", 8),
    ("DAI", 18),
    ("DASH", 8),
    ("DOGE", 8),
    ("DOT", 10),
    ("ETC", 18),
    ("ETH", 18),
    ("LINK", 18),
    ("LTC", 8),
    ("SOL", 9),
    ("TON", 9),
    ("TRX", 6),
    ("USDC", 6),
    ("USDT", 6),
    ("XLM", 7),
    ("XMR", 12),
    ("XRP", 6),
    ("ZEC", 8),
];

/// The largest amount and balance: 10^15 units of the currency.
const LIMIT_DIGITS: u32 = 15;
/// And at most 10^27 of its smallest unit, because a decimal has 96 bits: 10^9 units where the
/// currency has 18 decimals.
const LIMIT_PLACES: u32 = 27;
/// The longest text of a number that is looked at.
const LONGEST: usize = 128;

/// A currency: its code, and the decimals of its smallest unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: &'static str,
    scale: u32,
}

impl Currency {
    /// The currency of this code: ISO 4217, or one of the cryptocurrencies of `docs/ledger.md`.
    ///
    /// # Errors
    /// `Invalid` for an unknown code, one in lower case, or one that is no money to pay with, such
    /// as gold.
    pub fn parse(code: &str) -> Result<Self> {
        if let Some((code, scale)) = CRYPTO.iter().find(|(known, _)| *known == code) {
            return Ok(Currency { code, scale: *scale });
        }
        // The length keeps hostile text out of the message.
        if code.is_empty() || code.len() > 8 || !code.chars().all(|c| c.is_ascii_alphanumeric()) {
            let length = code.len();
            return Err(Error::invalid(format!(
                "a currency is a code such as USD or BTC, this has {length} bytes of something else"
            )));
        }
        if code.chars().any(|letter| letter.is_ascii_lowercase()) {
            let upper = code.to_ascii_uppercase();
            return Err(Error::invalid(format!(
                "a currency code is in upper case, such as {upper}, not {code:?}"
            )));
        }
        let known = iso_currency::Currency::from_code(code);
        let Some((known, scale)) = known.and_then(|known| Some((known, known.exponent()?))) else {
            return Err(Error::invalid(format!("no currency that is known here: {code:?}")));
        };
        Ok(Currency { code: known.code(), scale: u32::from(scale) })
    }

    /// Its code, such as `USD`.
    pub fn code(self) -> &'static str {
        self.code
    }

    /// How many decimals its smallest unit has.
    pub fn scale(self) -> u32 {
        self.scale
    }

    /// The largest amount and balance, in its smallest unit.
    pub(super) fn limit(self) -> i128 {
        10_i128.pow((LIMIT_DIGITS + self.scale).min(LIMIT_PLACES))
    }

    /// [`limit`](Currency::limit), to be shown.
    pub(super) fn limit_sum(self) -> Sum {
        Sum { minor: self.limit(), currency: self }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

/// An exact amount of money above zero. Shown, and written as JSON, as text with all the decimals
/// of its currency: `1000.00`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amount {
    /// Scaled to the currency.
    value: Decimal,
    currency: Currency,
}

impl Amount {
    /// Reads decimal text such as `1000.00`, `1000` or `1e3`. Zeros behind the decimals of the
    /// currency say nothing and are taken; other digits there are refused, never rounded.
    ///
    /// ```
    /// use lockbay::ledger::{Amount, Currency};
    ///
    /// let usd = Currency::parse("USD")?;
    /// assert_eq!(Amount::parse("1e3", usd)?.to_string(), "1000.00");
    /// assert!(Amount::parse("0.001", usd).is_err(), "a tenth of a cent cannot be paid");
    /// # Ok::<(), lockbay::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` for what is no decimal number, is zero or negative, has more decimals than the
    /// currency, or is over the limit: 10^15 units, or 10^27 of the smallest unit where that is
    /// less (10^9 ETH).
    pub fn parse(text: &str, currency: Currency) -> Result<Self> {
        if text.len() > LONGEST {
            let length = text.len();
            return Err(Error::invalid(format!(
                "an amount has at most {LONGEST} bytes, this has {length}"
            )));
        }
        let (places, scale) = (currency.limit().to_string().len(), currency.scale);
        let plain = match plain(text, usize::try_from(scale).unwrap_or(usize::MAX), places) {
            Ok(plain) => plain,
            Err(Fault::NotANumber) => {
                return Err(Error::invalid(format!(
                    "an amount is a decimal number such as 1000.00, not {text:?}"
                )));
            }
            Err(Fault::NotPositive) => return Err(not_positive(text)),
            Err(Fault::TooFine) => {
                return Err(Error::invalid(format!(
                    "an amount of {currency} has at most {scale} decimals, this has more: {text}"
                )));
            }
            Err(Fault::TooLarge) => return Err(too_large(text, currency)),
        };
        let mut value = Decimal::from_str_exact(&plain).map_err(|_| too_large(text, currency))?;
        value.rescale(scale);
        if value.scale() != scale || value.mantissa() > currency.limit() {
            return Err(too_large(text, currency));
        }
        Ok(Amount { value, currency })
    }

    /// Reads a JSON number by its text, or the text in a JSON string.
    ///
    /// # Errors
    /// As [`parse`](Amount::parse), and `Invalid` for any other JSON.
    pub fn from_json(json: &Json, currency: Currency) -> Result<Self> {
        let text = json.text();
        match text.as_bytes().first() {
            Some(b'"') => Amount::parse(&json.to_value::<String>()?, currency),
            Some(b'-' | b'0'..=b'9') => Amount::parse(text, currency),
            Some(_) | None => Err(Error::invalid("an amount is a JSON number or string")),
        }
    }

    /// An amount from the exact decimals of Rust code.
    ///
    /// # Errors
    /// As [`parse`](Amount::parse).
    pub fn from_decimal(value: Decimal, currency: Currency) -> Result<Self> {
        Amount::parse(&value.to_string(), currency)
    }

    /// Its value, at the scale of its currency.
    pub fn value(&self) -> Decimal {
        self.value
    }

    /// Its currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// As a sum, to add up or to compare.
    pub fn sum(&self) -> Sum {
        Sum { minor: self.value.mantissa(), currency: self.currency }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.sum(), f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}", self.currency)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An exact sum of money: a balance, a leg of a movement, a total. Shown as [`Amount`]s are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum {
    /// In the smallest unit. Wide enough for ten thousand million accounts at their limit.
    minor: i128,
    currency: Currency,
}

impl Sum {
    /// Nothing.
    pub fn zero(currency: Currency) -> Self {
        Sum { minor: 0, currency }
    }

    /// Reads what [`Sum`] shows.
    pub(super) fn parse(text: &str, currency: Currency) -> Result<Self> {
        let wrong = || defect(format!("a stored sum of {currency} is {text:?}"));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let scale = usize::try_from(currency.scale).unwrap_or(usize::MAX);
        if fraction.len() != scale || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(wrong());
        }
        let minor = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        Ok(Sum { minor, currency })
    }

    /// Its currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// Whether it is exactly zero.
    pub fn is_zero(&self) -> bool {
        self.minor == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.minor < 0
    }

    /// As an amount, if it is above zero and within the limit.
    ///
    /// # Errors
    /// `Invalid` otherwise.
    pub fn amount(&self) -> Result<Amount> {
        Amount::parse(&self.to_string(), self.currency)
    }

    /// Whether it is above zero.
    pub fn is_positive(&self) -> bool {
        self.minor > 0
    }

    /// Whether it is at least this amount, of the same currency.
    pub fn covers(&self, amount: &Amount) -> bool {
        self.currency == amount.currency() && self.minor >= amount.sum().minor
    }

    pub(super) fn over_limit(&self) -> bool {
        self.minor > self.currency.limit()
    }

    pub(super) fn negated(self) -> Self {
        Sum { minor: -self.minor, ..self }
    }

    /// Both together.
    ///
    /// # Errors
    /// `Internal` for sums of two currencies, or beyond what 128 bits hold: neither can be asked
    /// for from outside.
    pub(super) fn plus(self, other: Sum) -> Result<Self> {
        if self.currency != other.currency {
            let (one, two) = (self.currency, other.currency);
            return Err(defect(format!("{one} and {two} cannot be added up")));
        }
        let minor = self.minor.checked_add(other.minor);
        let minor = minor.ok_or_else(|| defect(format!("{self} and {other} overflow")))?;
        Ok(Sum { minor, ..self })
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor < 0 { "-" } else { "" };
        let scale = usize::try_from(self.currency.scale).unwrap_or(0);
        let digits = format!("{:0>width$}", self.minor.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}", self.currency)
    }
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no amount.
enum Fault {
    NotANumber,
    NotPositive,
    TooFine,
    TooLarge,
}

/// The same number without an exponent and without needless zeros, if it is above zero and has no
/// more than `scale` decimals and `longest` digits before them. By text, so that nothing rounds.
fn plain(text: &str, scale: usize, longest: usize) -> std::result::Result<String, Fault> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let sign_off = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    for digits in [whole, fraction, sign_off] {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Fault::NotANumber);
        }
    }
    let digits = format!("{whole}{fraction}");
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let digits = digits.trim_matches('0');
    if negative || digits.is_empty() {
        return Err(Fault::NotPositive);
    }
    let exponent: i32 = match exponent.parse() {
        Ok(exponent) => exponent,
        Err(_) if exponent.starts_with('-') => return Err(Fault::TooFine),
        Err(_) => return Err(Fault::TooLarge),
    };
    // Where the point stands, counted from the first digit that is not zero. The text is short.
    let before = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(leading).unwrap_or(0);
    let point = before + i64::from(exponent);
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if length - point > i64::try_from(scale).unwrap_or(0) {
        return Err(Fault::TooFine);
    }
    if point > i64::try_from(longest).unwrap_or(0) {
        return Err(Fault::TooLarge);
    }
    Ok(match usize::try_from(point) {
        Ok(point) if point >= digits.len() => format!("{digits:0<point$}"),
        Ok(0) => format!("0.{digits}"),
        Ok(point) => format!("{}.{}", &digits[..point], &digits[point..]),
        Err(_) => {
            let zeros = usize::try_from(-point).unwrap_or(0);
            format!("0.{}{digits}", "0".repeat(zeros))
        }
    })
}

fn not_positive(text: &str) -> Error {
    Error::invalid(format!("an amount is above zero, not {text}"))
}

fn too_large(text: &str, currency: Currency) -> Error {
    let limit = currency.limit_sum();
    Error::invalid(format!("an amount of {currency} is at most {limit}, not {text}"))
}

/// What cannot come from a caller.
pub(super) fn defect(message: String) -> Error {
    Error::new(ErrorKind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn currency(code: &str) -> Currency {
        Currency::parse(code).unwrap()
    }

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        for (code, text, shown) in [
            ("USD", "1000.00", "1000.00"),
            ("USD", "1000", "1000.00"),
            ("USD", "1000.0", "1000.00"),
            ("USD", "1000.000", "1000.00"),
            ("USD", "1e3", "1000.00"),
            ("USD", "1E+3", "1000.00"),
            ("USD", "0.1", "0.10"),
            ("USD", "1e-2", "0.01"),
            ("USD", "10e-3", "0.01"),
            ("USD", "0001.50", "1.50"),
            ("USD", "9007199254740993.01", ""),
            ("USD", "900719925474099.31", "900719925474099.31"),
            ("USD", "1000000000000000", "1000000000000000.00"),
            ("USD", "1000000000000000.01", ""),
            ("JPY", "100", "100"),
            ("JPY", "100.0", "100"),
            ("JPY", "100.5", ""),
            ("BHD", "1.234", "1.234"),
            ("BTC", "0.00000001", "0.00000001"),
            ("BTC", "0.000000001", ""),
            ("ETH", "0.000000000000000001", "0.000000000000000001"),
            ("ETH", "1000000000", "1000000000.000000000000000000"),
            ("ETH", "1000000000.000000000000000001", ""),
            ("ETH", "123456789.123456789012345678", "123456789.123456789012345678"),
            ("USD", "1e-3", ""),
            ("USD", "1.001", ""),
            ("USD", "0", ""),
            ("USD", "0.00", ""),
            ("USD", "-0", ""),
            ("USD", "-1", ""),
            ("USD", "1e16", ""),
            ("USD", "1e999999999999", ""),
            ("USD", "1e-999999999999", ""),
            ("USD", "1e2147483647", ""),
            ("USD", "1e-2147483648", ""),
        ] {
            let read = Amount::parse(text, currency(code));
            match shown {
                "" => {
                    let error = read.expect_err(text);
                    assert_eq!(error.kind(), ErrorKind::Invalid);
                    assert!(error.message().ends_with(text), "{error}");
                }
                shown => assert_eq!(read.unwrap().to_string(), shown, "{text}"),
            }
        }
        for text in [
            "", " ", "NaN", "nan", "inf", "Infinity", "-inf", "1,000", "1_000", " 1", "1 ", "+1",
            ".5", "5.", "1e", "e3", "1e1.5", "0x10", "1.2.3", "--1", "١", "1\0", "null",
        ] {
            let error = Amount::parse(text, currency("USD")).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text:?}");
        }
        assert!(Amount::parse(&"1".repeat(10_000), currency("USD")).is_err());
    }

    #[test]
    fn a_json_number_counts_by_its_text() {
        let read =
            |text: &str| Amount::from_json(&Json::parse(text).unwrap(), currency("USD")).ok();
        for (text, shown) in [("1000.0", "1000.00"), ("0.1", "0.10"), (r#""1000.0""#, "1000.00")] {
            assert_eq!(read(text).unwrap().to_string(), shown);
        }
        for text in ["1e-3", "0", "-5", "null", "true", "[1]", "{}", r#""NaN""#, r#""""#] {
            assert_eq!(read(text), None, "{text}");
        }
        let exact = Json::parse("900719925474099.31").unwrap();
        let amount = Amount::from_json(&exact, currency("USD")).unwrap();
        assert_eq!(amount.to_string(), "900719925474099.31");
        let huge = Json::parse("9007199254740993.01").unwrap();
        let sol = Amount::from_json(&huge, currency("USD")).unwrap_err();
        assert!(sol.message().contains("at most 1000000000000000.00"), "{sol}");
    }

    #[test]
    fn currencies_have_the_decimals_of_their_smallest_unit() {
        for (code, scale) in
            [("USD", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("BTC", 8), ("ETH", 18), ("USDT", 6)]
        {
            assert_eq!(currency(code).scale(), scale, "{code}");
        }
        for code in ["usd", "Usd", "", "XAU", "XXX", "ZZZ", "US", "USD ", "USD/X", "€", "BTCBTCBTC"]
        {
            assert_eq!(Currency::parse(code).unwrap_err().kind(), ErrorKind::Invalid, "{code}");
        }
        assert!(Currency::parse("usd").unwrap_err().message().contains("USD"));
        for (code, _) in CRYPTO {
            let iso = iso_currency::Currency::from_code(code);
            assert!(iso.is_none(), "{code} is in ISO 4217");
        }
    }

    #[test]
    fn every_limit_fits_a_decimal() {
        for (code, scale) in CRYPTO {
            let limit = currency(code).limit();
            let decimal = Decimal::try_from_i128_with_scale(limit, *scale).unwrap();
            assert!(Amount::parse(&decimal.to_string(), currency(code)).is_ok(), "{code}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_read_back_from_what_it_shows(minor in 1..10_i128.pow(17), code in 0..4usize) {
            let currency = currency(["USD", "JPY", "BTC", "ETH"][code]);
            let minor = minor.min(currency.limit());
            let sum = Sum { minor, currency };
            let amount = Amount::parse(&sum.to_string(), currency).unwrap();
            prop_assert_eq!(amount.sum(), sum);
            prop_assert_eq!(amount.to_string(), sum.to_string());
            prop_assert_eq!(amount.value().to_string(), sum.to_string());
            for sum in [sum, sum.negated()] {
                prop_assert_eq!(Sum::parse(&sum.to_string(), currency).unwrap(), sum);
            }
        }

        #[test]
        fn no_text_makes_reading_an_amount_panic(text in "[-+0-9.eE]{0,40}", code in 0..3usize) {
            let currency = currency(["USD", "JPY", "ETH"][code]);
            if let Ok(amount) = Amount::parse(&text, currency) {
                prop_assert!(amount.value() > Decimal::ZERO);
                prop_assert!(!amount.sum().over_limit());
            }
        }
    }
}
