//! JSON indented for people, straight from compact bytes: the order of fields stays, and nothing is kept back.

/// Indents a compact document by two spaces, as Go's encoder does.
pub(crate) fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    Indenter::default().write(compact, &mut out);
    out
}

/// Indents a document that comes in parts, cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A bracket was opened, and whether it closes at once is not known yet.
    opened: bool,
}

impl Indenter {
    /// Writes the next part.
    pub(crate) fn write(&mut self, compact: &[u8], out: &mut Vec<u8>) {
        let mut rest = compact;
        while let Some((&byte, tail)) = rest.split_first() {
            if !self.in_string {
                rest = tail;
                if !byte.is_ascii_whitespace() {
                    self.outside_of_strings(byte, out);
                }
                continue;
            }
            if std::mem::take(&mut self.escaped) {
                rest = tail;
                out.push(byte);
                continue;
            }
            // Strings are most of a document: they are copied up to what ends them.
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\'))
                .unwrap_or(rest.len());
            let (text, behind) = rest.split_at(plain);
            out.extend_from_slice(text);
            rest = behind;
            if let Some((&mark, behind)) = rest.split_first() {
                out.push(mark);
                rest = behind;
                self.escaped = mark == b'\\';
                self.in_string = self.escaped;
            }
        }
    }

    fn outside_of_strings(&mut self, byte: u8, out: &mut Vec<u8>) {
        let closes = matches!(byte, b'}' | b']');
        match (std::mem::take(&mut self.opened), closes) {
            // Empty brackets stay together.
            (true, true) => return out.push(byte),
            (true, false) => {
                self.depth += 1;
                self.new_line(out);
            }
            (false, true) => {
                self.depth = self.depth.saturating_sub(1);
                self.new_line(out);
            }
            (false, false) => {}
        }
        out.push(byte);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.opened = true,
            b',' => self.new_line(out),
            b':' => out.push(b' '),
            _ => {}
        }
    }

    fn new_line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/ENC-02
    #[test]
    fn indents_without_touching_strings_or_order_wherever_it_is_cut() {
        let compact = br#"{"b":[1,{"a":"x,{}:\"y"}],"a":{},"c":[]}"#;
        let want =
            "{\n  \"b\": [\n    1,\n    {\n      \"a\": \"x,{}:\\\"y\"\n    }\n  ],\n  \"a\": {},\n  \"c\": []\n}";
        for at in 0..compact.len() {
            let (mut indenter, mut out) = (Indenter::default(), Vec::new());
            let (start, end) = compact.split_at(at);
            indenter.write(start, &mut out);
            indenter.write(end, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want, "cut at {at}");
        }
        assert_eq!(indent(compact), want.as_bytes());
    }
}
