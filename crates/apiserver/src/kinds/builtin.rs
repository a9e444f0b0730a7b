//! Built-in kinds, by data: one model serves them all.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use apiserver_registry::ApiError;
use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::fieldvalidation::{DecodeError, decode_typed, decode_value};
use apiserver_resources::gofmt;
use apiserver_resources::merge::{self, PatchError};
use apiserver_resources::table::{Cell, TablePrinter};
use apiserver_resources::types::{Gvk, ResourceEntry, TypeRegistry};
use apiserver_resources::wire::protobuf;
use apiserver_storage_api::GroupVersionKind;

use crate::http::negotiate::Offer;
use crate::http::options::FieldValidation;
use crate::kinds::model::{BodyFormat, Decoded, Model, Patched, judge, next_id, unknown_field, yaml_to_json};

/// A built-in kind in one version.
pub(crate) struct Builtin {
    gvk: GroupVersionKind,
    printer: TablePrinter,
    fields: Vec<String>,
    id: u64,
}

impl Builtin {
    /// The kind of a resource; `fields` are what it can be selected by beside name and namespace.
    pub(crate) fn new(entry: &'static ResourceEntry, fields: Vec<String>) -> Self {
        let gvk = GroupVersionKind::new(&*entry.group, &*entry.version, &*entry.kind);
        Self {
            gvk,
            printer: TablePrinter::builtin(entry),
            fields,
            id: next_id(),
        }
    }

    /// A kind that is no resource of its own, such as a Scale.
    pub(crate) fn of_type(group: &str, version: &str, kind: &str) -> Self {
        Self {
            gvk: GroupVersionKind::new(group, version, kind),
            printer: TablePrinter::default(),
            fields: Vec::new(),
            id: next_id(),
        }
    }

    fn gvk(&self) -> Gvk<'_> {
        Gvk::new(&self.gvk.group, &self.gvk.version, &self.gvk.kind)
    }

    fn decode_json(&self, body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
        let decoded = decode_typed(TypeRegistry::builtin(), self.gvk(), body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok((decoded.value, decoded.findings))
    }
}

impl fmt::Debug for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builtin")
            .field("gvk", &self.gvk)
            .finish_non_exhaustive()
    }
}

impl Model for Builtin {
    fn decode(&self, body: &[u8], format: BodyFormat, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let (mut object, findings) = match format {
            BodyFormat::Json => self.decode_json(body)?,
            BodyFormat::Yaml => {
                let (json, doubled) = yaml_to_json(body)?;
                let (object, findings) = self.decode_json(&json)?;
                (object, doubled.into_iter().chain(findings).collect())
            }
            BodyFormat::Protobuf => {
                let object = protobuf::decode(body).map_err(|error| ApiError::bad_request(error.to_string()))?;
                let json = apiserver_storage_api::codec::json::to_vec(&object);
                // Through the same door as JSON: kind and version are checked there. Protobuf has no unknown fields.
                (self.decode_json(&json)?.0, Vec::new())
            }
        };
        let warnings = judge(findings, validation, |findings| {
            ApiError::bad_request(DecodeError::strict(self.gvk(), findings).to_string())
        })?;
        self.name_kind(&mut object);
        Ok(Decoded { object, warnings })
    }

    fn check_patched(&self, patched: Patched<'_>, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let registry = TypeRegistry::builtin();
        let Some(of) = registry.by_gvk(self.gvk()) else {
            return Err(ApiError::internal(format!("no type for kind {}", self.gvk.kind)));
        };
        let text = |name: &str| patched.object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version != self.gvk.api_version() || kind != self.gvk.kind {
            let expected = self.gvk.api_version();
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({api_version}, kind {kind}) does not match the expected API version \
                 ({expected}, kind {})",
                self.gvk.kind
            )));
        }
        let decoded =
            decode_value(registry, of, &patched.object).map_err(|error| patched.refuse(&error.to_string()))?;
        let warnings = patched.judge(decoded.findings, validation)?;
        let mut object = decoded.value;
        self.name_kind(&mut object);
        Ok(Decoded { object, warnings })
    }

    fn apply_defaults(&self, object: &mut Value) {
        apply_defaults(self.gvk(), object);
    }

    fn strategic_merge(&self, current: Value, patch: &Value) -> Option<Result<Value, ApiError>> {
        let registry = TypeRegistry::builtin();
        let of = registry.by_gvk(self.gvk())?;
        let Value::Object(patch) = patch else {
            return Some(Ok(current));
        };
        Some(merge::strategic(registry, of, current, patch).map_err(|error| patch_error(&error)))
    }

    fn offer(&self) -> &'static Offer {
        &Offer::BUILTIN
    }

    fn served(&self, stored: &Bytes) -> Result<Bytes, ApiError> {
        Ok(stored.clone())
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn protobuf(&self, object: &Value) -> Option<Vec<u8>> {
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        protobuf::encode(Gvk::of(api_version, kind), object).ok()
    }

    fn message(&self, object: &Value) -> Option<Vec<u8>> {
        protobuf::encode_message(self.gvk(), object).ok()
    }

    fn columns(&self) -> &[Value] {
        self.printer.columns()
    }

    fn cells(&self, object: &Value) -> Vec<Cell> {
        self.printer.timeless_cells(object)
    }

    fn check_field(&self, label: &str) -> Result<(), ApiError> {
        let known = matches!(label, "metadata.name" | "metadata.namespace");
        if known || self.fields.iter().any(|field| field == label) {
            return Ok(());
        }
        if self.fields.is_empty() {
            let label = gofmt::quote(label);
            return Err(ApiError::bad_request(format!(
                "{label} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )));
        }
        Err(unknown_field(label))
    }
}

impl Builtin {
    /// A body may leave out what the URL says.
    fn name_kind(&self, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("apiVersion".into(), self.gvk.api_version().into());
            object.insert("kind".into(), self.gvk.kind.clone().into());
        }
    }
}

/// A patch that cannot be read or applied.
pub(crate) fn patch_error(error: &PatchError) -> ApiError {
    match error.status() {
        422 => ApiError::generic(422, "Invalid", error.to_string()),
        415 => ApiError::unsupported_media_type(error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}
