//! Durations as Go writes them: `3s`, `1m30s`, `1.5h`, `-2ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// The units and their length in nanoseconds. Both spellings of the micro sign are in use.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration in nanoseconds, which may be negative, so that validation can say what is wrong with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    /// So many seconds.
    pub const fn from_secs(seconds: i32) -> Self {
        Self(seconds as i64 * NANOS_PER_SECOND)
    }

    /// The length in nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The same as a [`Duration`]; zero when negative.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

/// The text is not a duration. The message is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("time: {problem} duration {text:?}")]
pub struct ParseDurationError {
    problem: String,
    text: String,
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).map_err(|problem| ParseDurationError {
            problem,
            text: text.to_owned(),
        })
    }
}

/// Accepts and refuses what Go's `time.ParseDuration` does, overflow included.
fn parse(text: &str) -> Result<i64, String> {
    let invalid = || "invalid".to_owned();
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = take_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => take_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err("missing unit in".to_owned());
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, nanos) = known.ok_or_else(|| format!("unknown unit {unit:?} in"))?;
        total = component(whole, fraction, *nanos)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(invalid)?;
        rest = after;
    }
    // The negative range is one larger.
    let signed = if negative {
        0i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    };
    signed.ok_or_else(invalid)
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn component(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit as f64;
    let mut part = 0.0;
    for digit in fraction.bytes() {
        place /= 10.0;
        part += f64::from(digit - b'0') * place;
    }
    // The digits of a fraction sum up to less than one unit, which is far below 2^53 nanoseconds.
    nanos = nanos.checked_add((part + 1e-6) as u64)?;
    Some(nanos)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let trim = |value: f64, unit: &str| format!("{value}{unit}");
        let (seconds, below) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let text = match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => trim(nanos as f64 / 1e3, "\u{b5}s"),
            1_000_000..1_000_000_000 => trim(nanos as f64 / 1e6, "ms"),
            _ => {
                let last = trim((seconds % 60) as f64 + below as f64 / 1e9, "s");
                match (seconds / 3600, seconds / 60 % 60) {
                    (0, 0) => last,
                    (0, minutes) => format!("{minutes}m{last}"),
                    (hours, minutes) => format!("{hours}h{minutes}m{last}"),
                }
            }
        };
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<i64>) {
        assert_eq!(
            text.parse::<GoDuration>().ok().map(GoDuration::as_nanos),
            want,
            "{text:?}"
        );
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        check("3s", Some(3_000_000_000));
        check("0", Some(0));
        check("-0", Some(0));
        check("1m30s", Some(90_000_000_000));
        check("1.5h", Some(5_400_000_000_000));
        check(".5s", Some(500_000_000));
        check("1.s", Some(1_000_000_000));
        check("0.1s", Some(100_000_000));
        check("2us", Some(2_000));
        check("2\u{b5}s", Some(2_000));
        check("-2ms", Some(-2_000_000));
        check("+1ns", Some(1));
        check("9223372036854775807ns", Some(i64::MAX));
        check("-9223372036854775808ns", Some(i64::MIN));
        for bad in [
            "",
            "3",
            ".",
            "s",
            "-",
            "3 s",
            " 3s",
            "1x",
            "1s ",
            "0x1s",
            "1e3s",
            "9223372036854775808ns",
            "99999999h",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_words_that_people_know() {
        for (text, want) in [
            ("soon", "time: invalid duration \"soon\""),
            ("3", "time: missing unit in duration \"3\""),
            ("3x", "time: unknown unit \"x\" in duration \"3x\""),
        ] {
            assert_eq!(
                text.parse::<GoDuration>().map_err(|error| error.to_string()),
                Err(want.to_owned())
            );
        }
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for text in ["0s", "3s", "1m0s", "1h0m1.5s", "-3s", "1.5ms", "7ns", "2h46m40s"] {
            assert_eq!(text.parse::<GoDuration>().expect("valid").to_string(), text);
        }
    }
}
