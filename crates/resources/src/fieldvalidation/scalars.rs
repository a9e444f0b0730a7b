//! Values with a text form: times, bytes, quantities. Read with the errors of Go's packages.

use base64::Engine as _;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::gofmt::quote;

/// Layout of whole seconds, as Go names it in errors.
pub(super) const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
/// Layout with exactly six digits of fraction.
pub(super) const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads a time in one of the two layouts and gives it in UTC, to the grain of the layout.
pub(super) fn time(text: &str, micros: bool) -> Result<String, String> {
    let (at, zero) = read_time(text, micros)?;
    if zero {
        return Ok(if micros {
            "0001-01-01T00:00:00.000000Z"
        } else {
            "0001-01-01T00:00:00Z"
        }
        .to_owned());
    }
    let format = if micros {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(at.strftime(format).to_string())
}

/// Reads an RFC 3339 time with or without fraction.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let (at, _) = read_time(text, false).ok()?;
    at.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

struct Cursor<'a> {
    whole: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl<'a> Cursor<'a> {
    fn refused(&self, element: &str) -> String {
        let (whole, rest) = (quote(self.whole), quote(self.rest));
        format!(
            "parsing time {whole} as {}: cannot parse {rest} as {}",
            quote(self.layout),
            quote(element)
        )
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quote(self.whole))
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i64, String> {
        let taken = self
            .rest
            .get(..digits)
            .filter(|taken| taken.bytes().all(|b| b.is_ascii_digit()));
        let Some(taken) = taken else {
            return Err(self.refused(element));
        };
        self.rest = &self.rest[digits..];
        taken.parse().map_err(|_| self.refused(element))
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.refused(literal)),
        }
    }

    /// Digits after a point, as nanoseconds; digits beyond the ninth are dropped.
    fn fraction(&mut self) -> i32 {
        let Some(after) = self.rest.strip_prefix('.') else {
            return 0;
        };
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return 0;
        }
        let mut nanos = 0;
        for place in 0..9 {
            let digit = after
                .as_bytes()
                .get(place)
                .filter(|_| place < digits)
                .map_or(0, |b| i32::from(b - b'0'));
            nanos = nanos * 10 + digit;
        }
        self.rest = &after[digits..];
        nanos
    }

    /// Offset from UTC in seconds.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let refused = self.refused("Z07:00");
        let bytes = self.rest.as_bytes();
        if bytes.len() < 6 || !matches!(bytes[0], b'+' | b'-') || bytes[3] != b':' {
            return Err(refused);
        }
        let part = |range: std::ops::Range<usize>| self.rest.get(range).and_then(|s| s.parse::<u8>().ok());
        let (Some(hours), Some(minutes)) = (part(1..3), part(4..6)) else {
            return Err(refused);
        };
        if hours > 24 || minutes > 60 {
            return Err(self.out_of_range(if hours > 24 {
                "time zone offset hour"
            } else {
                "time zone offset minute"
            }));
        }
        let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60;
        let seconds = if bytes[0] == b'-' { -seconds } else { seconds };
        self.rest = &self.rest[6..];
        Ok(seconds)
    }
}

/// A time in UTC, and whether it is the one that Go calls zero.
fn read_time(text: &str, micros: bool) -> Result<(DateTime, bool), String> {
    let mut c = Cursor {
        whole: text,
        rest: text,
        layout: if micros { MICROS } else { SECONDS },
    };
    let year = c.number(4, "2006")?;
    c.literal("-")?;
    let month = c.number(2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(c.out_of_range("month"));
    }
    c.literal("-")?;
    let day = c.number(2, "02")?;
    c.literal("T")?;
    let hour = c.number(2, "15")?;
    if hour > 23 {
        return Err(c.out_of_range("hour"));
    }
    c.literal(":")?;
    let minute = c.number(2, "04")?;
    if minute > 59 {
        return Err(c.out_of_range("minute"));
    }
    c.literal(":")?;
    let second = c.number(2, "05")?;
    if second > 59 {
        return Err(c.out_of_range("second"));
    }
    let nanos = if micros {
        let point = c.refused(".000000");
        c.rest = c.rest.strip_prefix('.').ok_or(point.as_str())?;
        i32::try_from(c.number(6, ".000000").map_err(|_| point)?).unwrap_or(0) * 1000
    } else {
        c.fraction()
    };
    let offset = c.zone()?;
    if !c.rest.is_empty() {
        let (whole, rest) = (quote(c.whole), quote(c.rest));
        return Err(format!("parsing time {whole}: extra text: {rest}"));
    }
    let small = |value: i64| i8::try_from(value).unwrap_or_default();
    let date = i16::try_from(year)
        .ok()
        .and_then(|year| Date::new(year, small(month), small(day)).ok());
    let date = date.ok_or_else(|| c.out_of_range("day"))?;
    let local = date.at(small(hour), small(minute), small(second), nanos);
    // Civil time reaches to the last second of the year 9999; timestamps end a day before.
    let at = local
        .checked_sub(SignedDuration::from_secs(offset))
        .map_err(|_| c.out_of_range("year"))?;
    let zero = (year, month, day, hour, minute, second, nanos, offset) == (1, 1, 1, 0, 0, 0, 0, 0);
    Ok((at, zero))
}

/// Reads standard base64 as Go does (line breaks are passed over) and gives its canonical text.
pub(super) fn base64_text(text: &str) -> Result<String, String> {
    let bytes = decode_base64(text.as_bytes()).map_err(|at| format!("illegal base64 data at input byte {at}"))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn decode_base64(text: &[u8]) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut at = 0;
    let skip = |mut at: usize| {
        while matches!(text.get(at), Some(b'\n' | b'\r')) {
            at += 1;
        }
        at
    };
    loop {
        let mut group = [0u8; 4];
        let mut filled = 0;
        while filled < 4 {
            let Some(&byte) = text.get(at) else {
                return if filled == 0 { Ok(out) } else { Err(at - filled) };
            };
            at += 1;
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'\n' | b'\r' => continue,
                b'=' if filled >= 2 => {
                    at = skip(at);
                    if filled == 2 {
                        match text.get(at) {
                            None => return Err(text.len()),
                            Some(b'=') => at += 1,
                            Some(_) => return Err(at - 1),
                        }
                        at = skip(at);
                    }
                    if at < text.len() {
                        return Err(at);
                    }
                    out.push(group[0] << 2 | group[1] >> 4);
                    if filled == 3 {
                        out.push(group[1] << 4 | group[2] >> 2);
                    }
                    return Ok(out);
                }
                _ => return Err(at - 1),
            };
            group[filled] = digit;
            filled += 1;
        }
        out.extend([
            group[0] << 2 | group[1] >> 4,
            group[1] << 4 | group[2] >> 2,
            group[2] << 6 | group[3],
        ]);
    }
}

/// The text of the one error that quantities have.
pub(super) const NO_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Whether a text is a quantity: a decimal number with a known suffix or an exponent.
pub(super) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(unsigned);
    let rest = &unsigned[whole..];
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => (digits(after), &after[digits(after)..]),
        None => (0, rest),
    };
    if whole + fraction == 0 {
        return false;
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        return !exponent.is_empty() && exponent.len() <= 9 && exponent.bytes().all(|b| b.is_ascii_digit());
    }
    matches!(
        suffix,
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/BODY-12
    #[test]
    fn times_are_read_with_the_errors_of_go() {
        let cannot = |text: &str, rest: &str, element: &str| {
            Err(format!(
                "parsing time \"{text}\" as \"{SECONDS}\": cannot parse \"{rest}\" as \"{element}\""
            ))
        };
        for (text, want) in [
            ("2024-01-02T03:04:05Z", Ok("2024-01-02T03:04:05Z".to_owned())),
            (
                "2024-01-02T03:04:05.123456789-02:30",
                Ok("2024-01-02T05:34:05Z".to_owned()),
            ),
            ("0001-01-01T00:00:00Z", Ok("0001-01-01T00:00:00Z".to_owned())),
            ("9999-12-31T23:59:59Z", Ok("9999-12-31T23:59:59Z".to_owned())),
            ("x", cannot("x", "x", "2006")),
            ("", cannot("", "", "2006")),
            ("2020-01-01", cannot("2020-01-01", "", "T")),
            ("2020-01-01T00:00:00", cannot("2020-01-01T00:00:00", "", "Z07:00")),
            (
                "2020-13-01T00:00:00Z",
                Err("parsing time \"2020-13-01T00:00:00Z\": month out of range".to_owned()),
            ),
            (
                "2020-02-30T00:00:00Z",
                Err("parsing time \"2020-02-30T00:00:00Z\": day out of range".to_owned()),
            ),
        ] {
            assert_eq!(time(text, false), want, "{text}");
        }
        assert_eq!(
            time("2024-01-02T03:04:05.000001Z", true),
            Ok("2024-01-02T03:04:05.000001Z".to_owned())
        );
        let want = format!("parsing time \"2020-01-01T00:00:00Z\" as \"{MICROS}\": cannot parse \"Z\" as \".000000\"");
        assert_eq!(time("2020-01-01T00:00:00Z", true), Err(want));
    }

    // covers: apiserver-http/BODY-12
    #[test]
    fn bytes_are_read_with_the_errors_of_go() {
        for (text, want) in [
            ("YWJj", Ok("YWJj")),
            ("YW\nJj", Ok("YWJj")),
            ("", Ok("")),
            ("YQ==", Ok("YQ==")),
            ("YWI=", Ok("YWI=")),
            ("%%", Err(0)),
            ("YQ", Err(0)),
            ("YWJj=A", Err(4)),
            ("YQ=", Err(3)),
            ("YQ==x", Err(4)),
            ("YWJjY", Err(4)),
        ] {
            let want = want
                .map(str::to_owned)
                .map_err(|at| format!("illegal base64 data at input byte {at}"));
            assert_eq!(base64_text(text), want, "{text}");
        }
    }

    // covers: apiserver-http/BODY-12
    #[test]
    fn quantities_have_a_number_and_a_known_suffix() {
        for good in ["1", "-1.5", "+.5", "5.", "500m", "8Gi", "1e3", "1E-3", "1E", "12k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", ".", "1x", "1ki", "1e", "1e+", "1 Gi", "1.2.3", "0x1"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
