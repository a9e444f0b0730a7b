//! What the HTTP front must know of a kind beside its store: how bodies are read and how objects are shown.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::Value;

use apiserver_registry::{ApiError, FieldError, FieldPath};
use apiserver_resources::crd::CustomKind;

use crate::http::negotiate::Offer;
use crate::http::options::FieldValidation;

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
    /// `findings` are those of the patch itself.
    fn check_patched(
        &self,
        patched: Value,
        validation: FieldValidation,
        findings: &[String],
    ) -> Result<Decoded, ApiError>;

    /// Fills in what the kind's version defaults.
    fn apply_defaults(&self, object: &mut Value);

    /// Merges a strategic patch; `None` where the kind has no such thing.
    fn strategic_merge(&self, current: &Value, patch: &Value) -> Option<Result<Value, ApiError>>;

    /// What the kind can be shown as.
    fn offer(&self) -> &'static Offer;

    /// The served JSON of a stored object in this version.
    fn served(&self, stored: &Bytes) -> Result<Bytes, ApiError>;

    /// The protobuf envelope of a served object; `None` where the kind has none.
    fn protobuf(&self, object: &Value) -> Option<Vec<u8>>;

    /// `columnDefinitions` of a Table.
    fn columns(&self) -> &[Value];

    /// The cells of one row.
    fn cells(&self, object: &Value, now: SystemTime) -> Vec<Value>;

    /// The definition behind a custom kind.
    fn custom_kind(&self) -> Option<&CustomKind> {
        None
    }

    /// Whether objects can be selected by this field.
    fn knows_field(&self, label: &str) -> bool;
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
        FieldValidation::Warn | FieldValidation::Strict => Ok(findings),
    }
}

/// A patched document that is no object of its kind: 422 on the field `patch` (`apiserver-http/PAT-13`).
pub(crate) fn bad_patch(patched: &Value, reason: &str) -> ApiError {
    let document = String::from_utf8_lossy(&apiserver_storage_api::codec::json::to_vec(patched)).into_owned();
    let fault = FieldError::invalid(&FieldPath::new("patch"), document, reason);
    ApiError::invalid("", "", "", vec![fault])
}

/// Other formats than JSON, brought into JSON.
pub(crate) fn yaml_to_json(body: &[u8]) -> Result<Bytes, ApiError> {
    let refuse = |error: &dyn fmt::Display| ApiError::bad_request(format!("error converting YAML to JSON: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| refuse(&error))?;
    let value: Value = serde_saphyr::from_str(text).map_err(|error| refuse(&error))?;
    Ok(apiserver_storage_api::codec::json::to_vec(&value).into())
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
