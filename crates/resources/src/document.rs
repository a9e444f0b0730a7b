//! A JSON reader that keeps what `serde_json::Value` forgets: document order and repeated keys.
//!
//! Strict field validation reports findings in the order of the document and names keys that appear twice, so request bodies
//! are read with this reader first and turned into a `Value` afterwards. Syntax errors carry the texts of Go's JSON scanner,
//! which is what clients of a Kubernetes API are used to see.
//!
//! Documents nested deeper than [`MAX_DEPTH`] are refused: every other reader of the stored bytes would refuse them later.

use serde_json::{Map, Number, Value};

/// The deepest nesting that is read. Below the limit of `serde_json` (128) by enough to wrap an object in lists and events.
pub const MAX_DEPTH: usize = 120;

/// The body is not JSON. The text is the one of Go's scanner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(String);

/// One value of a document, with members in the order of the text and repeated keys kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    /// A text, unescaped.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// An object.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// What Go's decoder calls this kind of value in its errors.
    pub fn go_kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::Array(_) => "array",
            Node::Object(_) => "object",
        }
    }

    /// The last member of that name, when this is an object.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Object(members) => members.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text, when this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value without order and repetition: of members with the same name the last one wins.
    pub fn to_value(&self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Number(text) => number(text).map_or(Value::Null, Value::Number),
            Node::String(text) => Value::String(text.clone()),
            Node::Array(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Node::Object(members) => {
                let mut map = Map::new();
                for (key, node) in members {
                    map.insert(key.clone(), node.to_value());
                }
                Value::Object(map)
            }
        }
    }

    /// Paths of members that repeat a key, in the order of the document, each once and 100 at most.
    pub fn duplicates(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_duplicates(self, &mut String::new(), &mut found);
        found
    }
}

impl From<&Value> for Node {
    /// The same value as a document: members in the order of the map.
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => Node::Number(number.to_string()),
            Value::String(text) => Node::String(text.clone()),
            Value::Array(items) => Node::Array(items.iter().map(Node::from).collect()),
            Value::Object(map) => Node::Object(
                map.iter()
                    .map(|(key, value)| (key.clone(), Node::from(value)))
                    .collect(),
            ),
        }
    }
}

/// An untyped number as the server keeps it: 64-bit integers exactly, everything else as a float. `None` when it overflows.
pub(crate) fn number(text: &str) -> Option<Number> {
    if !text.contains('.')
        && let Ok(integer) = text.parse::<i64>()
    {
        return Some(Number::from(integer));
    }
    let float = text.parse::<f64>().ok().filter(|f| f.is_finite())?;
    Number::from_f64(float)
}

/// Findings per document: enough to correct a manifest, not enough to fill a response.
pub(crate) const MAX_FINDINGS: usize = 100;

fn collect_duplicates(node: &Node, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match node {
        Node::Object(members) => {
            let mut seen = std::collections::HashSet::new();
            for (key, child) in members {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                if !seen.insert(key) && found.len() < MAX_FINDINGS && !found.contains(path) {
                    found.push(path.clone());
                }
                collect_duplicates(child, path, found);
                path.truncate(length);
            }
        }
        Node::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                collect_duplicates(item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Reads one JSON document.
///
/// # Errors
/// The text is not JSON, something follows it, or it is nested deeper than [`MAX_DEPTH`].
pub fn parse(text: &[u8]) -> Result<Node, SyntaxError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.blanks();
    let node = reader.value()?;
    reader.blanks();
    match reader.peek() {
        None => Ok(node),
        Some(byte) => Err(unexpected(byte, "after top-level value")),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

fn unexpected(byte: u8, context: &str) -> SyntaxError {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = crate::gofmt::quote(&char::from(byte).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    };
    SyntaxError(format!("invalid character {shown} {context}"))
}

fn ended() -> SyntaxError {
    SyntaxError("unexpected end of JSON input".to_owned())
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn need(&self) -> Result<u8, SyntaxError> {
        self.peek().ok_or_else(ended)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        let first = self.need()?;
        match first {
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(unexpected(first, "exceeded max depth"));
                }
                self.at += 1;
                let node = if first == b'{' { self.object() } else { self.array() };
                self.depth -= 1;
                node
            }
            b'"' => {
                self.at += 1;
                Ok(Node::String(self.string()?))
            }
            b't' => self.word("true", Node::Bool(true)),
            b'f' => self.word("false", Node::Bool(false)),
            b'n' => self.word("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            other => Err(unexpected(other, "looking for beginning of value")),
        }
    }

    fn word(&mut self, word: &str, node: Node) -> Result<Node, SyntaxError> {
        self.at += 1;
        for expected in word.bytes().skip(1) {
            let byte = self.need()?;
            if byte != expected {
                return Err(unexpected(
                    byte,
                    &format!("in literal {word} (expecting '{}')", char::from(expected)),
                ));
            }
            self.at += 1;
        }
        Ok(node)
    }

    fn digits(&mut self, context: &str) -> Result<(), SyntaxError> {
        let first = self.need()?;
        if !first.is_ascii_digit() {
            return Err(unexpected(first, context));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Node::Number(
            String::from_utf8_lossy(&self.text[start..self.at]).into_owned(),
        ))
    }

    fn array(&mut self) -> Result<Node, SyntaxError> {
        let mut items = Vec::new();
        self.blanks();
        if self.need()? == b']' {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            self.blanks();
            items.push(self.value()?);
            self.blanks();
            match self.need()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                other => return Err(unexpected(other, "after array element")),
            }
        }
    }

    fn object(&mut self) -> Result<Node, SyntaxError> {
        let mut members = Vec::new();
        self.blanks();
        if self.need()? == b'}' {
            self.at += 1;
            return Ok(Node::Object(members));
        }
        loop {
            self.blanks();
            match self.need()? {
                b'"' => self.at += 1,
                other => return Err(unexpected(other, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            self.blanks();
            match self.need()? {
                b':' => self.at += 1,
                other => return Err(unexpected(other, "after object key")),
            }
            self.blanks();
            members.push((key, self.value()?));
            self.blanks();
            match self.need()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Node::Object(members));
                }
                other => return Err(unexpected(other, "after object key:value pair")),
            }
        }
    }

    /// Reads up to and over the closing quote. Bytes that are no UTF-8 become U+FFFD, as Go's decoder has it.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let mut out = Vec::new();
        loop {
            let byte = self.need()?;
            self.at += 1;
            match byte {
                b'"' => {
                    return Ok(String::from_utf8(out)
                        .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()));
                }
                b'\\' => self.escape(&mut out)?,
                0..=0x1f => return Err(unexpected(byte, "in string literal")),
                _ => out.push(byte),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let byte = self.need()?;
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut unit = self.hex()?;
                if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xdc00..0xe000).contains(&low) {
                        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    } else {
                        self.at = back;
                    }
                }
                let mut buffer = [0; 4];
                let text = char::from_u32(unit)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
                    .encode_utf8(&mut buffer);
                out.extend_from_slice(text.as_bytes());
                return Ok(());
            }
            other => return Err(unexpected(other, "in string escape code")),
        };
        out.push(plain);
        Ok(())
    }

    fn hex(&mut self) -> Result<u32, SyntaxError> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.need()?;
            let digit = char::from(byte)
                .to_digit(16)
                .ok_or_else(|| unexpected(byte, "in \\u hexadecimal character escape"))?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // covers: apiserver-http/BODY-12, apiserver-http/PAT-03
    #[test]
    fn syntax_errors_have_the_texts_of_go() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"data\":", "unexpected end of JSON input"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            (
                "{a}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 x}", "invalid character 'x' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("[01]", "invalid character '1' after array element"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(
                parse(text.as_bytes()).map_err(|e| e.to_string()),
                Err(want.to_owned()),
                "{text}"
            );
        }
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(
            parse(deep.as_bytes()).unwrap_err().to_string(),
            "invalid character '[' exceeded max depth"
        );
    }

    // covers: apiserver-http/BODY-12
    #[test]
    fn integers_stay_exact_and_texts_are_unescaped() {
        let node =
            parse(br#"{"i":9007199254740993,"f":1.5,"e":1e3,"s":"a\u00e9\ud83d\ude00\n","n":null,"b":[true,false]}"#)
                .unwrap();
        let want = json!({"i": 9007199254740993_i64, "f": 1.5, "e": 1000.0, "s": "a\u{e9}\u{1f600}\n", "n": null, "b": [true, false]});
        assert_eq!(node.to_value(), want);
    }

    // covers: apiserver-http/FVAL-02
    #[test]
    fn repeated_keys_are_found_once_in_document_order() {
        let node = parse(br#"{"b":{"k":1,"k":2,"k":3},"a":[{"x":1,"x":1}],"b":1}"#).unwrap();
        assert_eq!(node.duplicates(), ["b.k", "a[0].x", "b"]);
        assert_eq!(node.to_value()["b"], json!(1));
    }
}
