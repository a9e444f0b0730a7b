//! Values printed as Go prints them: the texts of errors quote values, and clients compare those texts.

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

/// The characters outside ASCII that occur in practice and that Go's `IsPrint` refuses: controls, separators, marks of
/// direction, private use.
pub(crate) fn unprintable(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}')
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

/// A list of texts as `%#v` prints it: `[]string{"a", "b"}`.
pub(crate) fn string_slice(items: &[&str]) -> String {
    let items: Vec<_> = items.iter().map(|item| quote(item)).collect();
    format!("[]string{{{}}}", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/STAT-07
    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        assert_eq!(
            quote("a\"b\\c\n\u{1}\u{e9}\u{2028}"),
            "\"a\\\"b\\\\c\\n\\x01\u{e9}\\u2028\""
        );
        assert_eq!(string_slice(&["a", "b"]), "[]string{\"a\", \"b\"}");
        assert_eq!(float(1e-7), "1e-07");
    }
}
