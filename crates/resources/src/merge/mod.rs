//! Patches: JSON merge patch (RFC 7386) and strategic merge patch, the two that Kubernetes merges by value.
//!
//! Both work on whole values and know nothing of requests. [`parse_merge`] and [`parse_strategic`] read a body with the errors that
//! the server reports for them and name the keys that appear twice (for field validation); [`json_merge`] and [`strategic`] apply it.
//! JSON patch (RFC 6902) is not here: it needs no knowledge of types, and a crate does it well.

mod json;
mod order;
mod strategic;

use serde_json::{Map, Value};

use crate::document::{self, Node};

pub use json::json_merge;
pub use strategic::{Member, PatchSchema, strategic, strategic_with};

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The body is no patch of its kind: answer 400 with this text.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed but cannot be applied to this object: answer 422 with this text.
    #[error("{0}")]
    NotApplicable(String),
    /// The kind has no merge metadata (custom kinds): answer 415 and list the patch types that it takes.
    #[error("strategic merge patch format is not supported")]
    NotSupported,
}

impl PatchError {
    /// The HTTP status that belongs to the error.
    pub fn status(&self) -> u16 {
        match self {
            PatchError::Malformed(_) => 400,
            PatchError::NotApplicable(_) => 422,
            PatchError::NotSupported => 415,
        }
    }
}

/// A patch body that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedPatch {
    /// The members of the patch.
    pub patch: Map<String, Value>,
    /// Texts of strict findings (`duplicate field "data.k"`), in the order of the document.
    pub findings: Vec<String>,
}

/// Reads the body of a JSON merge patch.
///
/// # Errors
/// [`PatchError::Malformed`] when the body is not a JSON object.
pub fn parse_merge(body: &[u8]) -> Result<ParsedPatch, PatchError> {
    match read(body) {
        Ok(Some(parsed)) => Ok(parsed),
        Ok(None) => Err(PatchError::Malformed("Invalid JSON Patch".to_owned())),
        Err(text) => Err(PatchError::Malformed(format!("error decoding patch: {text}"))),
    }
}

/// Reads the body of a strategic merge patch. `null` is an empty patch.
///
/// # Errors
/// [`PatchError::Malformed`] when the body is neither a JSON object nor `null`.
pub fn parse_strategic(body: &[u8]) -> Result<ParsedPatch, PatchError> {
    match read(body) {
        Ok(parsed) => Ok(parsed.unwrap_or_else(|| ParsedPatch {
            patch: Map::new(),
            findings: Vec::new(),
        })),
        Err(text) => Err(PatchError::Malformed(text)),
    }
}

fn read(body: &[u8]) -> Result<Option<ParsedPatch>, String> {
    let node = document::parse(body).map_err(|e| e.to_string())?;
    match &node {
        Node::Null => Ok(None),
        Node::Object(_) => {
            let findings = node
                .duplicates()
                .iter()
                .map(|path| format!("duplicate field {}", crate::gofmt::quote(path)))
                .collect();
            match node.to_value() {
                Value::Object(patch) => Ok(Some(ParsedPatch { patch, findings })),
                _ => Ok(None),
            }
        }
        other => Err(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            other.go_kind()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/PAT-03, apiserver-http/JPAT-07, apiserver-http/SMP-11
    #[test]
    fn a_body_that_is_no_object_is_malformed() {
        for (body, merge, strategic) in [
            (
                "[1]",
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
                Some("json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ),
            (
                "nope",
                "error decoding patch: invalid character 'o' in literal null (expecting 'u')",
                Some("invalid character 'o' in literal null (expecting 'u')"),
            ),
            (
                "",
                "error decoding patch: unexpected end of JSON input",
                Some("unexpected end of JSON input"),
            ),
            ("null", "Invalid JSON Patch", None),
        ] {
            assert_eq!(
                parse_merge(body.as_bytes()),
                Err(PatchError::Malformed(merge.to_owned())),
                "{body}"
            );
            let got = parse_strategic(body.as_bytes()).err();
            assert_eq!(
                got,
                strategic.map(|text| PatchError::Malformed(text.to_owned())),
                "{body}"
            );
        }
    }

    // covers: apiserver-http/FVAL-02, apiserver-http/FVAL-05
    #[test]
    fn repeated_keys_of_a_patch_are_findings() {
        let parsed = parse_merge(br#"{"data":{"k":"1","k":"2"}}"#).unwrap();
        assert_eq!(parsed.findings, [r#"duplicate field "data.k""#]);
    }
}
