//! Custom kinds: the model made of a CustomResourceDefinition.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use apiserver_registry::{ApiError, FieldError, FieldPath};
use apiserver_resources::crd::{CustomKind, CustomVersion};
use apiserver_resources::fieldvalidation::{DecodeError, decode_custom, decode_custom_value};
use apiserver_resources::table::{Cell, TablePrinter};
use apiserver_resources::types::{Gvk, TypeRegistry};

use crate::http::negotiate::Offer;
use crate::http::options::FieldValidation;
use crate::kinds::model::{
    BodyFormat, Decoded, Model, Patched, judge, next_id, unknown_field, with_api_version, yaml_to_json,
};

/// A custom kind in one served version.
pub(crate) struct Custom {
    kind: Arc<CustomKind>,
    version: CustomVersion,
    api_version: String,
    /// What tells the objects in this version from others, unless they are stored in this very version.
    form: Option<u64>,
    id: u64,
    printer: TablePrinter,
}

impl Custom {
    /// The kind in this version.
    pub(crate) fn new(kind: Arc<CustomKind>, version: CustomVersion) -> Self {
        let api_version = format!("{}/{}", kind.group, version.name);
        let id = next_id();
        let form = (!version.storage).then_some(id);
        // A column whose path is not understood leaves the name alone, as upstream does.
        let printer = TablePrinter::custom(&version).unwrap_or_default();
        Self {
            kind,
            version,
            api_version,
            form,
            id,
            printer,
        }
    }

    fn decode_json(&self, body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
        let decoded = decode_custom(TypeRegistry::builtin(), &self.kind, &self.version, body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok((decoded.value, decoded.findings))
    }

    /// Another kind is a fault of the object, not of the body (`apiserver-http/BODY-04`, as recorded).
    fn check_kind(&self, object: &Value) -> Result<(), ApiError> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, want) = (text("/kind"), &self.kind.names.kind);
        if kind == want {
            return Ok(());
        }
        let fault = FieldError::invalid(&FieldPath::new("kind"), kind, format!("must be {want}"));
        Err(ApiError::invalid(
            &self.kind.group,
            kind,
            text("/metadata/name"),
            vec![fault],
        ))
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom")
            .field("name", &self.kind.name)
            .field("version", &self.version.name)
            .finish_non_exhaustive()
    }
}

impl Model for Custom {
    fn decode(&self, body: &[u8], format: BodyFormat, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let (object, findings) = match format {
            BodyFormat::Json => self.decode_json(body)?,
            BodyFormat::Yaml => {
                let (json, doubled) = yaml_to_json(body)?;
                let (object, findings) = self.decode_json(&json)?;
                (object, doubled.into_iter().chain(findings).collect())
            }
            BodyFormat::Protobuf => {
                return Err(ApiError::unsupported_media_type(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json, application/yaml",
                ));
            }
        };
        let gvk = Gvk::new(&self.kind.group, &self.version.name, &self.kind.names.kind);
        let warnings = judge(findings, validation, |findings| {
            ApiError::bad_request(DecodeError::strict(gvk, findings).to_string())
        })?;
        self.check_kind(&object)?;
        Ok(Decoded { object, warnings })
    }

    fn check_patched(&self, patched: Patched<'_>, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let decoded = decode_custom_value(TypeRegistry::builtin(), &self.version, &patched.object)
            .map_err(|error| patched.refuse(&error.to_string()))?;
        let warnings = patched.judge(decoded.findings, validation)?;
        self.check_kind(&decoded.value)?;
        Ok(Decoded {
            object: decoded.value,
            warnings,
        })
    }

    fn apply_defaults(&self, object: &mut Value) {
        self.version.schema.apply_defaults(object);
    }

    fn strategic_merge(&self, _: Value, _: &Value) -> Option<Result<Value, ApiError>> {
        None
    }

    fn offer(&self) -> &'static Offer {
        &Offer::CUSTOM
    }

    fn served(&self, stored: &Bytes) -> Result<Bytes, ApiError> {
        match self.form {
            None => Ok(stored.clone()),
            Some(_) => with_api_version(stored, &self.api_version),
        }
    }

    fn form(&self) -> Option<u64> {
        self.form
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn protobuf(&self, _: &Value) -> Option<Vec<u8>> {
        None
    }

    fn message(&self, _: &Value) -> Option<Vec<u8>> {
        None
    }

    fn columns(&self) -> &[Value] {
        self.printer.columns()
    }

    fn cells(&self, object: &Value) -> Vec<Cell> {
        self.printer.timeless_cells(object)
    }

    fn custom_kind(&self) -> Option<&CustomKind> {
        Some(&self.kind)
    }

    fn check_field(&self, label: &str) -> Result<(), ApiError> {
        let known = matches!(label, "metadata.name" | "metadata.namespace")
            || self.version.selectable_fields.iter().any(|field| field == label);
        if known { Ok(()) } else { Err(unknown_field(label)) }
    }
}
