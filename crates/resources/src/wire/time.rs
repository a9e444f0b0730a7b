//! Points in time as Kubernetes writes them: RFC 3339 in UTC, whole seconds (`Time`) or six digits (`MicroTime`).
//!
//! Time libraries end before the last seconds of the year 9999 that RFC 3339 can write and that clusters do hold, so the
//! calendar is worked out here.

use apiserver_storage_api::json::write_string;

/// How many digits a fraction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Seconds,
    Micros,
}

/// Seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// The instant that Go calls zero and JSON shows as null: the first second of the year 1.
const GO_ZERO_SECOND: i64 = -62_135_596_800;
/// The first second of the year 0.
const FIRST: i64 = -62_167_219_200;
/// The last second of the year 9999.
const LAST: i64 = 253_402_300_799;

impl Instant {
    /// Whether this is Go's zero time.
    pub(crate) fn is_zero(self) -> bool {
        self.seconds == GO_ZERO_SECOND && self.nanos == 0
    }

    /// Reads RFC 3339 text; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() < 20 || !has_form(&bytes[..19], b"0000-00-00T00:00:00") {
            return None;
        }
        let (year, month, day) = (number(&bytes[..4]), number(&bytes[5..7]), number(&bytes[8..10]));
        let (hour, minute, second) = (number(&bytes[11..13]), number(&bytes[14..16]), number(&bytes[17..19]));
        let in_calendar = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if !in_calendar || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (nanos, zone) = fraction(&bytes[19..])?;
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
        Some(Self { seconds, nanos })
    }

    /// Appends the text, or answers `None` for an instant outside the years that RFC 3339 can write.
    pub(crate) fn write(self, out: &mut Vec<u8>, precision: Precision) -> Option<()> {
        if !(FIRST..=LAST).contains(&self.seconds) {
            return None;
        }
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(86_400));
        let second = self.seconds.rem_euclid(86_400);
        let parts = [
            (year, 4),
            (month, 2),
            (day, 2),
            (second / 3600, 2),
            (second / 60 % 60, 2),
            (second % 60, 2),
        ];
        for ((part, width), separator) in parts.into_iter().zip(*b"--T::.") {
            digits(out, part, width);
            out.push(separator);
        }
        out.pop();
        if precision == Precision::Micros {
            out.push(b'.');
            digits(out, i64::from(self.nanos / 1000), 6);
        }
        out.push(b'Z');
        Some(())
    }

    /// The text, where there is one.
    pub(crate) fn text(self, precision: Precision) -> Option<String> {
        let mut out = Vec::with_capacity(27);
        self.write(&mut out, precision)?;
        String::from_utf8(out).ok()
    }
}

/// Writes the JSON of a time; `None` when the text is none.
pub(crate) fn write_json(out: &mut Vec<u8>, text: &str, precision: Precision) -> Option<()> {
    if is_canonical(text, precision) {
        write_string(text, out);
        return Some(());
    }
    let instant = Instant::parse(text)?;
    if instant.is_zero() {
        out.extend_from_slice(b"null");
        return Some(());
    }
    out.push(b'"');
    instant.write(out, precision)?;
    out.push(b'"');
    Some(())
}

/// Whether the text is what [`Instant::write`] would give. The zero time has no text.
pub(crate) fn is_canonical(text: &str, precision: Precision) -> bool {
    let bytes = text.as_bytes();
    let form: &[u8] = match precision {
        Precision::Seconds => b"0000-00-00T00:00:00Z",
        Precision::Micros => b"0000-00-00T00:00:00.000000Z",
    };
    if !has_form(bytes, form) {
        return false;
    }
    let (year, month) = (number(&bytes[..4]), number(&bytes[5..7]));
    let within = |at: usize, from: i64, to: i64| (from..=to).contains(&number(&bytes[at..at + 2]));
    within(5, 1, 12)
        && within(8, 1, days_in(year, month))
        && within(11, 0, 23)
        && within(14, 0, 59)
        && within(17, 0, 59)
        && (year != 1 || Instant::parse(text).is_some_and(|instant| !instant.is_zero()))
}

/// Whether the text has a digit wherever the form has a zero, and the form's character elsewhere.
fn has_form(text: &[u8], form: &[u8]) -> bool {
    text.len() == form.len()
        && text.iter().zip(form).all(|(have, want)| {
            if *want == b'0' {
                have.is_ascii_digit()
            } else {
                have == want
            }
        })
}

fn number(digits: &[u8]) -> i64 {
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + i64::from(digit.wrapping_sub(b'0')))
}

fn digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        // A remainder of ten fits a byte.
        out.push(b'0' + (number / 10_i64.pow(place) % 10) as u8);
    }
}

/// Splits off a fraction; nanoseconds and the rest.
fn fraction(rest: &[u8]) -> Option<(u32, &[u8])> {
    let Some(digits) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, at| {
        let digit = if at < count { digits[at] - b'0' } else { 0 };
        nanos * 10 + u32::from(digit)
    });
    Some((nanos, &digits[count..]))
}

/// Seconds east of Greenwich.
fn offset(zone: &[u8]) -> Option<i64> {
    if zone == b"Z" {
        return Some(0);
    }
    let sign = match zone.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if !has_form(&zone[1..], b"00:00") {
        return None;
    }
    let (hours, minutes) = (number(&zone[1..3]), number(&zone[4..6]));
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970, counting years from March so that the leap day is the last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_in_their_precision() {
        for (text, seconds, micros) in [
            (
                "2026-01-02T03:04:05Z",
                Some("2026-01-02T03:04:05Z"),
                Some("2026-01-02T03:04:05.000000Z"),
            ),
            (
                "2026-01-02T03:04:05.6789+02:00",
                Some("2026-01-02T01:04:05Z"),
                Some("2026-01-02T01:04:05.678900Z"),
            ),
            (
                "1969-12-31T23:59:59.5Z",
                Some("1969-12-31T23:59:59Z"),
                Some("1969-12-31T23:59:59.500000Z"),
            ),
            (
                "9999-12-31T23:59:59Z",
                Some("9999-12-31T23:59:59Z"),
                Some("9999-12-31T23:59:59.000000Z"),
            ),
            (
                "2024-02-29T23:59:59-23:59",
                Some("2024-03-01T23:58:59Z"),
                Some("2024-03-01T23:58:59.000000Z"),
            ),
            ("9999-12-31T23:59:59-01:00", None, None),
            ("2023-02-29T00:00:00Z", None, None),
            ("2026-01-02 03:04:05Z", None, None),
            ("2026-01-02T03:04:05", None, None),
            ("2026-01-02T03:04:05.Z", None, None),
            ("2026-01-02T03:04:05+2:00", None, None),
            ("2026-01-02T24:00:00Z", None, None),
            ("2026-01-02T03:04:05Z ", None, None),
            ("", None, None),
        ] {
            let read = Instant::parse(text);
            assert_eq!(
                read.and_then(|at| at.text(Precision::Seconds)).as_deref(),
                seconds,
                "{text}"
            );
            assert_eq!(
                read.and_then(|at| at.text(Precision::Micros)).as_deref(),
                micros,
                "{text}"
            );
        }
    }

    #[test]
    fn every_day_reads_back() {
        for day in FIRST / 86_400..=LAST / 86_400 {
            let (year, month, date) = civil_from_days(day);
            assert!(
                (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&date),
                "{day}"
            );
            assert_eq!(days_from_civil(year, month, date), day);
        }
    }

    #[test]
    fn json_is_null_for_the_zero_time_and_canonical_for_the_rest() {
        for (text, want) in [
            ("0001-01-01T00:00:00Z", Some("null")),
            ("0001-01-01T00:00:01Z", Some("\"0001-01-01T00:00:01Z\"")),
            ("2026-01-28T23:59:59Z", Some("\"2026-01-28T23:59:59Z\"")),
            ("2026-01-31T23:59:59+00:00", Some("\"2026-01-31T23:59:59Z\"")),
            ("2026-13-01T00:00:00Z", None),
            ("2024-02-29T00:00:00Z", Some("\"2024-02-29T00:00:00Z\"")),
            ("2023-02-29T00:00:00Z", None),
            ("2026-02-30T00:00:00Z", None),
        ] {
            let mut out = Vec::new();
            let written = write_json(&mut out, text, Precision::Seconds);
            assert_eq!(
                written.map(|()| String::from_utf8_lossy(&out).into_owned()).as_deref(),
                want,
                "{text}"
            );
        }
    }
}
