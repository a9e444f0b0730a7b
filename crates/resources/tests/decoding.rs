//! Request bodies with random faults, against what a real server said about them under strict field validation.

use apiserver_resources::fieldvalidation::{DecodeError, decode_typed};
use apiserver_resources::types::{Gvk, TypeRegistry};
use serde_json::Value;

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn answer(case: &Value) -> String {
    let gvk = Gvk::new(text(case, "group"), text(case, "version"), text(case, "kind"));
    match decode_typed(TypeRegistry::builtin(), gvk, text(case, "body").as_bytes()) {
        Err(error) => error.to_string(),
        Ok(decoded) if decoded.findings.is_empty() => String::new(),
        Ok(decoded) => DecodeError::strict(gvk, &decoded.findings).to_string(),
    }
}

/// A message without the names of types that only Go's sources know: `v1.RestartPolicy` is a text.
fn essence(message: &str) -> String {
    let Some((message, of)) = message.split_once(" of type ") else {
        return message.to_owned();
    };
    let plain = ["bool", "int32", "int64", "float64", "[]uint8"].contains(&of) || of.contains(['[', '{']);
    format!("{message} of type {}", if plain { of } else { "a text or a struct" })
}

// covers: apiserver-http/FVAL-02, apiserver-http/FVAL-03, apiserver-http/BODY-04, apiserver-http/BODY-12
#[test]
fn faults_are_those_that_a_real_server_finds() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/decoding.json")).expect("the recording is JSON");
    let mut differences = Vec::new();
    for case in &cases {
        let (got, want) = (answer(case), text(case, "message"));
        if essence(&got) != essence(want) {
            differences.push(format!(
                "{} {}\n  got  {got}\n  want {want}",
                text(case, "kind"),
                text(case, "body")
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {}\n{}",
        differences.len(),
        cases.len(),
        differences.join("\n")
    );
    assert!(cases.len() > 100);
}
