//! The format of the scenario files: themes, scenarios, steps; places inside of values, and variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// One scenario, with the options of its file filled in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) ids: Vec<String>,
    #[serde(default, rename = "needs")]
    _needs: Vec<String>,
    pub(crate) steps: Vec<Value>,
    /// Objects are compared whole.
    #[serde(default)]
    pub(crate) exact: bool,
    /// Further fields to compare where `exact` is not set.
    #[serde(default)]
    pub(crate) also: Vec<String>,
    /// Objects are compared whole, with defaults.
    #[serde(default)]
    pub(crate) defaults: bool,
    /// All columns of tables are compared.
    #[serde(default)]
    pub(crate) columns: bool,
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    #[serde(default)]
    pub(crate) managed_fields: bool,
    #[serde(default = "one")]
    pub(crate) namespaces: usize,
    #[serde(default)]
    pub(crate) message: String,
}

fn one() -> usize {
    1
}

/// One step, variables filled in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) request: Option<String>,
    /// Headers to send; null keeps one from being sent.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "present")]
    pub(crate) body: Option<Value>,
    pub(crate) text: Option<String>,
    pub(crate) base64: Option<String>,
    pub(crate) repeat: Option<(String, String, usize, String)>,
    #[serde(default)]
    pub(crate) capture: BTreeMap<String, String>,
    #[serde(default, rename = "assert")]
    pub(crate) relations: Vec<String>,
    pub(crate) only: Option<Vec<String>>,
    pub(crate) pick: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) compare_headers: Vec<String>,
    #[serde(default)]
    pub(crate) compare_layout: bool,
    #[serde(default, rename = "eventually")]
    _eventually: f64,
    #[serde(default)]
    pub(crate) sleep: f64,
    pub(crate) watch: Option<String>,
    pub(crate) events: Option<String>,
    pub(crate) count: Option<usize>,
    pub(crate) within: Option<f64>,
    pub(crate) settle: Option<f64>,
    #[serde(default)]
    pub(crate) until_end: bool,
    pub(crate) between: Option<(f64, f64)>,
    #[serde(default)]
    pub(crate) bookmarks: Value,
    #[serde(default, rename = "ignore")]
    _ignore: Value,
}

/// A body that is null is a body.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A file of recorded data.
pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Reads a JSON file of recorded data.
pub(crate) fn read(name: &str) -> Value {
    let bytes = std::fs::read(data(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The scenarios of a theme.
pub(crate) fn theme(name: &str) -> Vec<Scenario> {
    let file = read(&format!("http/{name}.json"));
    let options = file["options"].as_object().cloned().unwrap_or_default();
    let scenarios = file["scenarios"].as_array().expect("a theme has scenarios");
    let complete = |scenario: &Value| {
        let mut all = options.clone();
        all.extend(scenario.as_object().expect("a scenario is an object").clone());
        serde_json::from_value(Value::Object(all)).unwrap_or_else(|error| panic!("{name}: {error}: {scenario}"))
    };
    scenarios.iter().map(complete).collect()
}

/// The value at `a.b[0].c`, `a["x.y/z"]` or `a[name=x].b`.
pub(crate) fn look<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = Some(value);
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            if let Some(quoted) = inner.strip_prefix('"') {
                let (key, tail) = quoted.split_once("\"]")?;
                (at, rest) = (at.and_then(|value| value.get(key)), tail);
                continue;
            }
            let (inner, tail) = inner.split_once(']')?;
            rest = tail;
            at = match inner.split_once('=') {
                Some((field, want)) => at.and_then(Value::as_array).and_then(|items| {
                    items
                        .iter()
                        .find(|item| look(item, field).is_some_and(|value| text(value) == want))
                }),
                None => at.and_then(|value| value.get(inner.parse::<usize>().ok()?)),
            };
        } else if let Some(tail) = rest.strip_prefix('.') {
            rest = tail;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, tail) = rest.split_at(end);
            (at, rest) = (at.and_then(|value| value.get(key)), tail);
        }
    }
    at.filter(|value| !value.is_null())
}

/// A value as a variable.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Replaces `${name}` and `${name+5}` everywhere.
pub(crate) fn fill(value: &Value, variables: &BTreeMap<String, String>) -> Result<Value, String> {
    Ok(match value {
        Value::Object(fields) => {
            let filled = fields
                .iter()
                .map(|(key, value)| Ok((fill_text(key, variables)?, fill(value, variables)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        Value::Array(items) => items
            .iter()
            .map(|item| fill(item, variables))
            .collect::<Result<_, _>>()?,
        Value::String(text) => Value::String(fill_text(text, variables)?),
        other => other.clone(),
    })
}

fn fill_text(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after
            .split_once('}')
            .ok_or_else(|| format!("no end of a variable in {text}"))?;
        out.push_str(before);
        let (name, offset) = match name.find(['+', '-']) {
            Some(at) => (
                &name[..at],
                name[at..].parse::<i64>().map_err(|error| error.to_string())?,
            ),
            None => (name, 0),
        };
        let value = variables
            .get(name)
            .ok_or_else(|| format!("variable {name} is unknown"))?;
        match offset {
            0 => out.push_str(value),
            offset => {
                let number: i64 = value
                    .parse()
                    .map_err(|_| format!("variable {name} is no number: {value}"))?;
                out.push_str(&(number + offset).to_string());
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_and_variables_are_found() {
        let value = json!({ "a": [{ "name": "x", "b": 1 }, { "name": "y", "b": 2 }], "k.l/m": true });
        assert_eq!(look(&value, "a[1].b"), Some(&json!(2)));
        assert_eq!(look(&value, "a[name=y].b"), Some(&json!(2)));
        assert_eq!(look(&value, "[\"k.l/m\"]"), Some(&json!(true)));
        assert_eq!(look(&value, "a[7].b"), None);
        let variables = BTreeMap::from([("rv".to_owned(), "41".to_owned())]);
        assert_eq!(fill(&json!(["${rv}/${rv+1}"]), &variables), Ok(json!(["41/42"])));
        assert!(fill(&json!("${x}"), &variables).is_err());
    }
}
