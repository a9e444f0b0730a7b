//! JSON indented for people, straight from compact bytes: the order of fields stays.

/// Indents compact JSON by two spaces, as Go's encoder does.
pub(crate) fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut bytes = compact.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                match bytes.peek() {
                    Some(b'}' | b']') => out.extend(bytes.next()),
                    _ => {
                        depth += 1;
                        new_line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            other => out.push(other),
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/ENC-02
    #[test]
    fn indents_without_touching_strings_or_order() {
        let compact = br#"{"b":[1,{"a":"x,{}:\"y"}],"a":{},"c":[]}"#;
        let want =
            "{\n  \"b\": [\n    1,\n    {\n      \"a\": \"x,{}:\\\"y\"\n    }\n  ],\n  \"a\": {},\n  \"c\": []\n}";
        assert_eq!(String::from_utf8(indent(compact)).unwrap(), want);
    }
}
