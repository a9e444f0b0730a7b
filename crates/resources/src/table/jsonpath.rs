//! The JSONPath of printer columns: fields, indexes, slices, wildcards, unions of names, filters and descent.

use std::fmt;

use serde_json::Value;

/// The path is not one that columns may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized column definition {path:?}: {reason} at {at}")]
pub struct JsonPathError {
    path: String,
    reason: &'static str,
    at: usize,
}

/// A parsed path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Fields(Vec<String>),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend,
    Filter(JsonPath, Option<(Compare, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path. The leading dot may be missing, and `{...}` around the whole is allowed.
    ///
    /// # Errors
    /// The path has a form that is not supported.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        let inner = path
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(path);
        let mut parser = Parser {
            whole: path,
            text: inner.as_bytes(),
            at: 0,
        };
        let steps = parser.steps()?;
        Ok(Self(steps))
    }

    /// All values at the path, in order. Missing keys give nothing.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.0.iter().fold(vec![value], |current, step| {
            current.into_iter().flat_map(|v| step.apply(v)).collect()
        })
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Fields(names), Value::Object(map)) => names.iter().filter_map(|name| map.get(name)).collect(),
            (Self::Index(index), Value::Array(items)) => at(items, *index).into_iter().collect(),
            (Self::Slice(from, to), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let clamp = |bound: i64| {
                    if bound < 0 {
                        (bound + length).max(0)
                    } else {
                        bound.min(length)
                    }
                };
                let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(length)));
                let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
                items.get(range).unwrap_or_default().iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Descend, value) => {
                let mut found = Vec::new();
                descend(value, &mut found);
                found
            }
            (Self::Filter(path, test), Value::Array(items)) => {
                items.iter().filter(|item| matches(path, test.as_ref(), item)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn at(items: &[Value], index: i64) -> Option<&Value> {
    let index = if index < 0 {
        index + i64::try_from(items.len()).ok()?
    } else {
        index
    };
    items.get(usize::try_from(index).ok()?)
}

fn descend<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, found)),
        Value::Object(map) => map.values().for_each(|item| descend(item, found)),
        _ => {}
    }
}

fn matches(path: &JsonPath, test: Option<&(Compare, Value)>, item: &Value) -> bool {
    let found = path.find(item);
    let Some((compare, wanted)) = test else {
        return !found.is_empty();
    };
    let Some(found) = found.first() else { return false };
    let order = match (found, wanted) {
        (Value::Number(l), Value::Number(r)) => l.as_f64().partial_cmp(&r.as_f64()),
        (Value::String(l), Value::String(r)) => Some(l.cmp(r)),
        (Value::Bool(l), Value::Bool(r)) => Some(l.cmp(r)),
        _ => None,
    };
    let Some(order) = order else { return false };
    match compare {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterOrEqual => order.is_ge(),
    }
}

struct Parser<'p> {
    whole: &'p str,
    text: &'p [u8],
    at: usize,
}

impl Parser<'_> {
    fn error(&self, reason: &'static str) -> JsonPathError {
        JsonPathError {
            path: self.whole.to_owned(),
            reason,
            at: self.at,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text.as_bytes());
        if found {
            self.at += text.len();
        }
        found
    }

    fn blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, JsonPathError> {
        let mut steps = Vec::new();
        let _ = self.take("$") || self.take("@");
        while let Some(byte) = self.peek() {
            match byte {
                b'.' if self.take("..") => steps.push(Step::Descend),
                b'.' => self.at += 1,
                b'[' => {
                    self.at += 1;
                    steps.push(self.bracket()?);
                    continue;
                }
                _ => {}
            }
            match self.peek() {
                Some(b'*') => {
                    self.at += 1;
                    steps.push(Step::All);
                }
                Some(b'[') | None => {}
                Some(_) => steps.push(Step::Field(self.name()?)),
            }
            if self.ends_operand() {
                break;
            }
        }
        Ok(steps)
    }

    /// Inside a filter a path ends at an operator or the closing parenthesis.
    fn ends_operand(&self) -> bool {
        matches!(self.peek(), Some(b' ' | b'=' | b'!' | b'<' | b'>' | b')'))
    }

    fn name(&mut self) -> Result<String, JsonPathError> {
        let mut name = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' => {
                    self.at += 1;
                    name.push(self.peek().ok_or_else(|| self.error("nothing after the backslash"))?);
                }
                b'.' | b'[' => break,
                _ if self.ends_operand() => break,
                b']' | b'}' | b'{' | b'(' | b'\'' | b'"' => return Err(self.error("unexpected character")),
                _ => name.push(byte),
            }
            self.at += 1;
        }
        if name.is_empty() {
            return Err(self.error("empty name"));
        }
        String::from_utf8(name).map_err(|_| self.error("no text"))
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        self.blanks();
        let step = match self.peek() {
            Some(b'*') => {
                self.at += 1;
                Step::All
            }
            Some(b'\'' | b'"') => {
                let mut names = vec![self.quoted()?];
                while self.take(",") {
                    self.blanks();
                    names.push(self.quoted()?);
                }
                match names.len() {
                    1 => Step::Field(names.swap_remove(0)),
                    _ => Step::Fields(names),
                }
            }
            Some(b'?') => self.filter()?,
            _ => {
                let from = self.integer()?;
                if self.take(":") {
                    Step::Slice(from, self.integer()?)
                } else {
                    Step::Index(from.ok_or_else(|| self.error("no index"))?)
                }
            }
        };
        self.blanks();
        if self.take("]") {
            Ok(step)
        } else {
            Err(self.error("no closing bracket"))
        }
    }

    fn quoted(&mut self) -> Result<String, JsonPathError> {
        let quote = self
            .peek()
            .filter(|byte| matches!(byte, b'\'' | b'"'))
            .ok_or_else(|| self.error("no quote"))?;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = self.peek().ok_or_else(|| self.error("no closing quote"))?;
            self.at += 1;
            match byte {
                b'\\' => {
                    text.push(self.peek().ok_or_else(|| self.error("nothing after the backslash"))?);
                    self.at += 1;
                }
                byte if byte == quote => return String::from_utf8(text).map_err(|_| self.error("no text")),
                byte => text.push(byte),
            }
        }
    }

    fn integer(&mut self) -> Result<Option<i64>, JsonPathError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some).map_err(|_| self.error("no number"))
        }
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        if !self.take("?(") {
            return Err(self.error("no filter"));
        }
        self.blanks();
        let path = JsonPath(self.steps()?);
        self.blanks();
        if self.take(")") {
            return Ok(Step::Filter(path, None));
        }
        let compare = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let found = compare.into_iter().find(|(text, _)| self.take(text));
        let (_, compare) = found.ok_or_else(|| self.error("unknown operator"))?;
        self.blanks();
        let value = self.operand()?;
        self.blanks();
        if self.take(")") {
            Ok(Step::Filter(path, Some((compare, value))))
        } else {
            Err(self.error("no closing parenthesis"))
        }
    }

    fn operand(&mut self) -> Result<Value, JsonPathError> {
        if matches!(self.peek(), Some(b'\'' | b'"')) {
            return self.quoted().map(Value::String);
        }
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'))
        {
            self.at += 1;
        }
        serde_json::from_slice(&self.text[start..self.at]).map_err(|_| self.error("no value to compare with"))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                other => write!(f, "[{other:?}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // covers: apiserver-http/TABH-04
    #[test]
    fn paths_find_values() {
        let value = json!({"a": {"b.c": 1, "list": [10, 20, 30]}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "n": 1}, {"type": "Other", "status": "False", "n": 5}]}});
        for (path, want) in [
            (".a.list[1]", json!([20])),
            ("a.list[-1]", json!([30])),
            (".a.list[0:2]", json!([10, 20])),
            (".a.list[*]", json!([10, 20, 30])),
            (".a['b.c']", json!([1])),
            (r".a.b\.c", json!([1])),
            ("{.a.list[0]}", json!([10])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (r#".status.conditions[?(@.type == 'Other')].status"#, json!(["False"])),
            (".status.conditions[?(@.n > 2)].type", json!(["Other"])),
            (".status.conditions[?(@.nothing)].type", json!([])),
            (".status.conditions[*]['type','n']", json!(["Ready", 1, "Other", 5])),
            ("..type", json!(["Ready", "Other"])),
            (".missing.further", json!([])),
            (".a.list.b", json!([])),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let got: Vec<_> = parsed.find(&value).into_iter().cloned().collect();
            assert_eq!(Value::Array(got), want, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[?(@.b ~ 1)]", ".a['b]", r".a\"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
