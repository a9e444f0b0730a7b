//! What the HTTP front must know of a kind beside its store: how bodies are read and how objects are shown.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use apiserver_registry::{ApiError, FieldError, FieldPath};
use apiserver_resources::crd::CustomKind;
use apiserver_resources::fieldvalidation::strict_text;
use apiserver_resources::gofmt;
use apiserver_resources::table::Cell;

use crate::http::negotiate::Offer;
use crate::http::options::FieldValidation;

/// What Go's YAML library puts before its findings.
const YAML_TITLE: &str = "yaml: unmarshal errors:\n";

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

/// An object that a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    /// The object with apiVersion and kind, before defaults.
    pub(crate) object: Value,
    /// Unknown and duplicate fields, in upstream's words, for Warning headers.
    pub(crate) warnings: Vec<String>,
}

/// The [`Model`] of a served resource, as the resource map carries it.
#[derive(Debug, Clone)]
pub(crate) struct ModelHandle(pub(crate) std::sync::Arc<dyn Model>);

/// One kind in one served version. Pure: no I/O, no waiting.
pub(crate) trait Model: fmt::Debug + Send + Sync + 'static {
    /// Reads an object from a body. Strict findings are an error under `Strict`, warnings under `Warn`.
    fn decode(&self, body: &[u8], format: BodyFormat, validation: FieldValidation) -> Result<Decoded, ApiError>;

    /// Checks the result of a patch: like [`decode`](Self::decode), but the faults are those of a patch (422).
    fn check_patched(&self, patched: Patched<'_>, validation: FieldValidation) -> Result<Decoded, ApiError>;

    /// Fills in what the kind's version defaults.
    fn apply_defaults(&self, object: &mut Value);

    /// Merges a strategic patch; `None` where the kind has no such thing.
    fn strategic_merge(&self, current: Value, patch: &Value) -> Option<Result<Value, ApiError>>;

    /// What the kind can be shown as.
    fn offer(&self) -> &'static Offer;

    /// The served JSON of a stored object in this version.
    fn served(&self, stored: &Bytes) -> Result<Bytes, ApiError>;

    /// A number for what [`served`](Self::served) makes, its own in this process; `None` where it returns what it is given.
    fn form(&self) -> Option<u64> {
        None
    }

    /// A number for this model, its own in this process: for what depends on more than the served object, such as columns.
    fn id(&self) -> u64;

    /// The protobuf envelope of a served object; `None` where the kind has none.
    fn protobuf(&self, object: &Value) -> Option<Vec<u8>>;

    /// The protobuf message of a served object of this very kind, as envelopes and lists hold it; `None` where the kind has
    /// none.
    fn message(&self, object: &Value) -> Option<Vec<u8>>;

    /// `columnDefinitions` of a Table.
    fn columns(&self) -> &[Value];

    /// The cells of one row.
    fn cells(&self, object: &Value) -> Vec<Cell>;

    /// The definition behind a custom kind.
    fn custom_kind(&self) -> Option<&CustomKind> {
        None
    }

    /// Refuses a field that objects cannot be selected by.
    fn check_field(&self, label: &str) -> Result<(), ApiError>;
}

/// A number that no other model of this process has.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Turns what was found in a body into warnings, or refuses it under `Strict`.
pub(crate) fn judge(
    findings: Vec<String>,
    validation: FieldValidation,
    refuse: impl FnOnce(&[String]) -> ApiError,
) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !findings.is_empty() => Err(refuse(&findings)),
        FieldValidation::Warn | FieldValidation::Strict => {
            // A header takes one line: the title of YAML's findings goes.
            let lines = findings
                .into_iter()
                .map(|finding| match finding.strip_prefix(YAML_TITLE) {
                    Some(line) => line.trim_start().to_owned(),
                    None => finding,
                });
            Ok(lines.collect())
        }
    }
}

/// The result of a patch, not looked at yet.
#[derive(Debug)]
pub(crate) struct Patched<'a> {
    pub(crate) object: Value,
    /// Strict findings of the patch itself.
    pub(crate) findings: &'a [String],
    /// The patch, where messages show it instead of the whole document.
    pub(crate) patch: Option<&'a Value>,
}

impl Patched<'_> {
    /// The document is no object of its kind: 422 on the field `patch` (`apiserver-http/PAT-13`).
    pub(crate) fn refuse(&self, reason: &str) -> ApiError {
        let shown = match self.patch {
            Some(patch) => gofmt::plain(patch),
            None => String::from_utf8_lossy(&apiserver_storage_api::codec::json::to_vec(&self.object)).into_owned(),
        };
        let fault = FieldError::invalid(&FieldPath::new("patch"), shown, reason);
        ApiError::invalid("", "", "", vec![fault])
    }

    /// Findings of the patch and of its result as warnings, or the refusal.
    pub(crate) fn judge(&self, found: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, ApiError> {
        let all = self.findings.iter().cloned().chain(found).collect();
        judge(all, validation, |findings| self.refuse(&strict_text(findings)))
    }
}

/// A field that the kind does not select by, in the words of most kinds.
pub(crate) fn unknown_field(label: &str) -> ApiError {
    ApiError::bad_request(format!("field label not supported: {label}"))
}

/// A body in YAML, brought into JSON, and the findings of strict reading. Of a key that is there twice the last counts.
pub(crate) fn yaml_to_json(body: &[u8]) -> Result<(Bytes, Vec<String>), ApiError> {
    let refuse = |error: &dyn fmt::Display| ApiError::bad_request(format!("error converting YAML to JSON: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| refuse(&error))?;
    let (value, findings) = match serde_saphyr::from_str::<Value>(text) {
        Ok(value) => (value, Vec::new()),
        Err(error) => {
            let finding = doubled_key(&error).ok_or_else(|| refuse(&error))?;
            let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
            let value = serde_saphyr::from_str_with_options(text, options).map_err(|error| refuse(&error))?;
            (value, vec![finding])
        }
    };
    Ok((apiserver_storage_api::codec::json::to_vec(&value).into(), findings))
}

/// The finding about a key that is there twice, in the words of Go's YAML library, of which the first line is a title.
fn doubled_key(error: &serde_saphyr::Error) -> Option<String> {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let key = gofmt::quote(key.as_deref().unwrap_or_default());
            let line = location.line();
            Some(format!("{YAML_TITLE}  line {line}: key {key} already set in map"))
        }
        _ => None,
    }
}

/// The served JSON in another version of the same schema: only `apiVersion` differs.
pub(crate) fn with_api_version(json: &Bytes, api_version: &str) -> Result<Bytes, ApiError> {
    let mut value: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    if value.get("apiVersion").and_then(Value::as_str) == Some(api_version) {
        return Ok(json.clone());
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".into(), api_version.into());
    }
    Ok(apiserver_storage_api::codec::json::to_vec(&value).into())
}

/// `DeleteOptions` in protobuf, whatever the kind of the object is.
pub(crate) fn delete_options_of_protobuf(body: &[u8]) -> Result<Value, ApiError> {
    use apiserver_resources::types::Gvk;
    use apiserver_resources::wire::protobuf;
    let refuse = |error: &dyn fmt::Display| ApiError::bad_request(error.to_string());
    let envelope = protobuf::Envelope::parse(body).map_err(|error| refuse(&error))?;
    // Any group version of the options is taken; the message is the same in all.
    let gvk = Gvk::new("", "v1", "DeleteOptions");
    let mut value = protobuf::decode_as(gvk, envelope.raw).map_err(|error| refuse(&error))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".into(), envelope.gvk().kind.into());
    }
    Ok(value)
}

/// The form of time that tables take.
pub(crate) fn timestamp(now: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/FVAL-02, apiserver-http/FVAL-08
    #[test]
    fn a_key_that_stands_twice_in_yaml_is_a_finding_and_the_last_counts() {
        let (json, findings) = yaml_to_json(b"kind: A\ndata:\n  k: \"1\"\n  k: \"2\"\n").unwrap();
        assert_eq!(json, r#"{"data":{"k":"2"},"kind":"A"}"#);
        let warnings = judge(findings.clone(), FieldValidation::Warn, |_| ApiError::internal("")).unwrap();
        assert_eq!(warnings, [r#"line 4: key "k" already set in map"#]);
        let refused = judge(findings, FieldValidation::Strict, |findings| {
            ApiError::bad_request(strict_text(findings))
        });
        let want = "strict decoding error: yaml: unmarshal errors:\n  line 4: key \"k\" already set in map";
        assert_eq!(refused.unwrap_err().message(), want);
        assert!(yaml_to_json(b"a: [").is_err());
    }
}
