//! Values printed as Go prints them: the texts of errors quote values, and clients compare those texts.

use serde_json::Value;

/// `strconv.Quote`: a text in double quotes with Go's escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if unprintable(c) => {
                let code = c as u32;
                out.push_str(&if code > 0xffff {
                    format!("\\U{code:08x}")
                } else {
                    format!("\\u{code:04x}")
                });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The characters outside ASCII that occur in practice and that Go's `IsPrint` refuses: controls, separators, marks of direction, private use.
fn unprintable(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}')
}

/// A float as `%v` prints it: the shortest form, with an exponent below 1e-4 and from 1e21 on.
pub fn float(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() {
            "-0".to_owned()
        } else {
            "0".to_owned()
        };
    }
    let magnitude = value.abs();
    if (1e-4..1e21).contains(&magnitude) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, number) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{number:0>2}")
        }
        None => text,
    }
}

/// A decoded JSON value as `%v` prints it: `map[a:1 b:[x y]]`, keys sorted, `<nil>` for null.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => float(f),
            _ => n.to_string(),
        },
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by(|a, b| a.0.cmp(b.0));
            let members: Vec<_> = members
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", plain(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // covers: apiserver-http/FVAL-05
    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(
            plain(&json!({"unknown": {"x": 1}, "data": {"k": "2"}})),
            "map[data:map[k:2] unknown:map[x:1]]"
        );
        assert_eq!(
            plain(&json!([null, true, 1.5, 1e21, 1e-7, "a b", []])),
            "[<nil> true 1.5 1e+21 1e-07 a b []]"
        );
    }

    // covers: apiserver-http/STAT-07
    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        assert_eq!(
            quote("a\"b\\c\n\u{1}\u{e9}\u{2028}"),
            "\"a\\\"b\\\\c\\n\\x01\u{e9}\\u2028\""
        );
    }
}
