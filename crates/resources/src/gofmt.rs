//! Values printed as Go prints them: the texts of errors quote values, and clients compare those texts.

use serde_json::Value;

pub use apiserver_registry::gofmt::{float, quote};

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
}
