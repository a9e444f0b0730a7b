//! Resource quantities: `500m`, `8Gi`, `1e3`.
//!
//! Go keeps the text of a quantity that fits its fast path, so most quantities are stored as the client wrote them.
//! Resource lists are the exception: a defaulting function rounds them up to thousandths, which makes them canonical:
//! no fraction, the largest suffix that allows it.

/// The families of suffixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// `mantissa * 10^exponent`, always exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parsed {
    mantissa: i128,
    exponent: i32,
    format: Format,
    /// Go would keep the text.
    keeps_text: bool,
}

/// The most digits that are read. Go reads any number; more than this is no quantity of anything.
const MOST_DIGITS: usize = 30;
/// The finest grain.
const NANO: i32 = -9;
/// The largest value of a binary quantity.
const MOST_BINARY: i128 = i64::MAX as i128;

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

/// The text under which Go stores the quantity, `None` when it is the given one.
pub(crate) fn stored_text(text: &str) -> Result<Option<String>, NotAQuantity> {
    let parsed = parse(text)?;
    if parsed.keeps_text {
        return Ok(None);
    }
    Ok(Some(canonical(parsed)))
}

/// The text after rounding up to thousandths, `None` when it is the given one. This is what resource lists get.
pub(crate) fn rounded_to_milli(text: &str) -> Result<Option<String>, NotAQuantity> {
    let rounded = canonical(round_up(parse(text)?, -3));
    Ok((rounded != text).then_some(rounded))
}

fn parse(text: &str) -> Result<Parsed, NotAQuantity> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
        None => return Err(NotAQuantity),
    };
    let digits = |from: &str| from.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(digits(unsigned));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > MOST_DIGITS {
        return Err(NotAQuantity);
    }
    let (base, power, format) = suffix_value(suffix).ok_or(NotAQuantity)?;
    // Leading zeros count for nothing in Go's precision.
    let whole = whole.trim_start_matches('0');
    let joined = [whole, fraction].concat();
    let mut mantissa: i128 = if joined.is_empty() {
        0
    } else {
        joined.parse().map_err(|_| NotAQuantity)?
    };
    // Both are bounded by MOST_DIGITS.
    let (wholes, fractions) = (whole.len().max(1) as i32, fraction.len() as i32);
    let mut exponent = -fractions;
    let keeps_text = match base {
        10 => {
            exponent += power;
            18 - (wholes + fractions) >= 0 && exponent >= NANO
        }
        _ => {
            mantissa = mantissa.checked_mul(1 << power).ok_or(NotAQuantity)?;
            fractions == 0 && 15 - wholes - power * 3 / 10 > 0 && mantissa <= MOST_BINARY
        }
    };
    if negative {
        mantissa = -mantissa;
    }
    let parsed = Parsed {
        mantissa,
        exponent,
        format,
        keeps_text,
    };
    Ok(if keeps_text { parsed } else { bounded(parsed) })
}

/// What Go does on its slow path: nothing finer than a billionth, nothing binary above 64 bits.
fn bounded(parsed: Parsed) -> Parsed {
    let mut parsed = round_up(parsed, NANO);
    if parsed.format == Format::BinarySi {
        let most = 10_i128
            .checked_pow(parsed.exponent.unsigned_abs())
            .and_then(|scale| MOST_BINARY.checked_mul(scale));
        if let Some(most) = most.filter(|most| parsed.exponent <= 0 && parsed.mantissa.abs() > *most) {
            parsed.mantissa = most * parsed.mantissa.signum();
        }
    }
    parsed
}

/// Rounds away from zero to a multiple of `10^exponent`.
fn round_up(mut parsed: Parsed, exponent: i32) -> Parsed {
    if parsed.exponent >= exponent {
        return parsed;
    }
    let dropped = exponent.abs_diff(parsed.exponent);
    parsed.exponent = exponent;
    match 10_i128.checked_pow(dropped) {
        Some(divisor) => {
            let (quotient, remainder) = (parsed.mantissa / divisor, parsed.mantissa % divisor);
            parsed.mantissa = quotient + if remainder == 0 { 0 } else { parsed.mantissa.signum() };
        }
        None => parsed.mantissa = parsed.mantissa.signum(),
    }
    parsed
}

fn canonical(parsed: Parsed) -> String {
    let Parsed {
        mut mantissa,
        mut exponent,
        mut format,
        ..
    } = parsed;
    if mantissa == 0 {
        return "0".to_owned();
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    if format == Format::BinarySi {
        let whole = u32::try_from(exponent)
            .ok()
            .and_then(|power| 10_i128.checked_pow(power)?.checked_mul(mantissa));
        match whole {
            // Below 1024 a binary suffix says nothing, and a fraction has none.
            Some(mut whole) if whole.abs() >= 1024 => {
                let mut steps = 0;
                while whole % 1024 == 0 && steps < BINARY.len() {
                    whole /= 1024;
                    steps += 1;
                }
                return format!("{whole}{}", if steps == 0 { "" } else { BINARY[steps - 1] });
            }
            _ => format = Format::DecimalSi,
        }
    }
    // Suffixes go in steps of a thousand, and the largest is 10^18.
    let most = if format == Format::DecimalSi { 18 } else { i32::MAX };
    let target = exponent.div_euclid(3).saturating_mul(3).min(most);
    let zeros = "0".repeat(exponent.abs_diff(target) as usize);
    match format {
        Format::DecimalExponent if target == 0 => format!("{mantissa}{zeros}"),
        Format::DecimalExponent => format!("{mantissa}{zeros}e{target}"),
        _ => format!("{mantissa}{zeros}{}", decimal_suffix(target)),
    }
}

const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

fn decimal_suffix(power: i32) -> &'static str {
    DECIMAL
        .iter()
        .find(|(_, known)| *known == power)
        .map_or("", |(suffix, _)| suffix)
}

/// Base, power and family of a suffix.
fn suffix_value(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((10, *power, Format::DecimalSi));
    }
    if let Some(index) = BINARY.iter().position(|known| *known == suffix) {
        return Some((2, (index as i32 + 1) * 10, Format::BinarySi));
    }
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    (power.abs() <= 1000).then_some((10, power, Format::DecimalExponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_makes_resource_lists_canonical() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("100Ki", "100Ki"),
            ("0.0001", "1m"),
            ("10n", "1m"),
            ("1000", "1k"),
            ("120000", "120k"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("0Gi", "0"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("-1500m", "-1500m"),
            ("100E", "100E"),
        ] {
            let rounded = rounded_to_milli(text).expect(text);
            assert_eq!(rounded.as_deref().unwrap_or(text), want, "{text}");
        }
    }

    #[test]
    fn other_quantities_keep_their_text() {
        for (text, want) in [
            ("0.5", None),
            ("1024Mi", None),
            ("1.5Gi", Some("1536Mi")),
            ("1.00000000001", Some("1000000001n")),
        ] {
            assert_eq!(stored_text(text).expect(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "1x",
            "x",
            "1 ",
            "1.2.3",
            "1e",
            "1e99999999999",
            &"9".repeat(40),
        ] {
            assert_eq!(stored_text(text), Err(NotAQuantity), "{text}");
        }
    }
}
