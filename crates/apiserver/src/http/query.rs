//! Query parameters, read leniently as Kubernetes does: the first value wins, unknown names are ignored.

use percent_encoding::percent_decode_str;

/// The decoded query of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query text. Broken escapes are kept as they are.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, or the empty string.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Whether a parameter is there at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A boolean: anything that is there and not `0` or `false` is true, the empty string too
    /// (`apiserver-http/QRY-02`).
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or_default()
    }

    /// A boolean that may be unset (`apiserver-http/QRY-03`).
    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.get(name)
            .map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A strict integer (`apiserver-http/QRY-01`); the error is Go's text.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|error: std::num::ParseIntError| {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            format!("strconv.ParseInt: parsing {value:?}: {why}")
        })
    }
}

/// Reads Go's duration text (`1h2m3.5s`) into seconds; `None` where it is none.
pub(crate) fn go_duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|char: char| char.is_ascii_digit() || char == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    std::time::Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // covers: apiserver-http/QRY-01, apiserver-http/QRY-02, apiserver-http/QRY-03
    #[test]
    fn parameters_are_read_leniently() {
        let query = Query::parse("watch&a=1&a=2&b=FALSE&c=0&d=&n=x&m=7&s=a%2Cb+c");
        assert!(query.flag("watch") && query.flag("a") && query.flag("d") && !query.flag("b") && !query.flag("c"));
        assert_eq!(query.optional_flag("z"), None);
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("a"), ["1", "2"]);
        assert_eq!(query.integer("m"), Ok(Some(7)));
        assert_eq!(
            query.integer("n"),
            Err("strconv.ParseInt: parsing \"x\": invalid syntax".into())
        );
        assert_eq!(query.text("s"), "a,b c");
    }

    // covers: apiserver-http/QRY-14
    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("15s", Some(Duration::from_secs(15))),
            ("1h", Some(Duration::from_secs(3600))),
            ("1m30.5s", Some(Duration::from_millis(90_500))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("5", None),
            ("x", None),
        ] {
            assert_eq!(go_duration(text), want, "{text}");
        }
    }
}
