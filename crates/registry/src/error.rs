//! Why a request failed: a Kubernetes Status as a Rust error, with upstream's texts. No HTTP type is involved.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{ContinueToken, Revision};
use serde_json::Value;

use crate::field_error::{FieldError, aggregate};
use crate::gofmt::quote;
use crate::status::{Status, StatusCause, StatusDetails};

/// The result of registry calls.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Why a request failed, in the words that clients get to see. One pointer wide; cheap to hand around.
///
/// Upstream: k8s.io/apimachinery pkg/api/errors (errors.go).
#[derive(Clone)]
pub struct ApiError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    status: Status,
    mismatch: Option<Mismatch>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What a conflict is about, for callers in the same process that decide without reading texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The uid or resourceVersion that the request expected.
    pub expected: Option<String>,
    /// The uid or resourceVersion that is stored.
    pub stored: Option<String>,
}

/// `pods`, `deployments.apps`; a kind is joined with its group in the same way.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

/// `resource "name"`.
fn named(group: &str, resource: &str, name: &str) -> String {
    format!("{} {}", qualified(group, resource), quote(name))
}

impl ApiError {
    /// Any status.
    pub fn from_status(status: Status) -> Self {
        Self(Box::new(Inner {
            status,
            mismatch: None,
            source: None,
        }))
    }

    /// An error without details.
    pub fn generic(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::from_status(Status::failure(code, reason, message))
    }

    fn about(code: u16, reason: &'static str, message: String, details: StatusDetails) -> Self {
        let mut status = Status::failure(code, reason, message);
        status.details = Some(details);
        Self::from_status(status)
    }

    /// 404: there is no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} not found", named(group, resource, name));
        Self::about(404, "NotFound", message, StatusDetails::of(group, resource, name))
    }

    /// 409: there is such an object already.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} already exists", named(group, resource, name));
        Self::about(409, "AlreadyExists", message, StatusDetails::of(group, resource, name))
    }

    /// 409: every generated name was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{} already exists, the server was not able to generate a unique name for the object",
            named(group, resource, name)
        );
        let error = Self::about(409, "AlreadyExists", message, StatusDetails::of(group, resource, name));
        error.with_retry_after(retry_after_seconds)
    }

    /// 409: the stored state is not what the request expects; `text` says why.
    pub fn conflict(group: &str, resource: &str, name: &str, text: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {}: {text}",
            named(group, resource, name)
        );
        Self::about(409, "Conflict", message, StatusDetails::of(group, resource, name))
    }

    /// 409: other managers own fields that the apply wants to change; only causes (`apiserver-http/STAT-06`).
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<StatusCause>) -> Self {
        Self::about(
            409,
            "Conflict",
            message.into(),
            StatusDetails {
                causes,
                ..StatusDetails::default()
            },
        )
    }

    /// 422: the object has faults.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let mut message = format!("{} is invalid", named(group, kind, name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(&errors));
        }
        let cause = |error: FieldError| StatusCause::new(error.kind.reason(), error.message(), error.field);
        let causes = errors.into_iter().map(cause).collect();
        let details = StatusDetails {
            causes,
            ..StatusDetails::of(group, kind, name)
        };
        Self::about(422, "Invalid", message, details)
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::generic(400, "BadRequest", message)
    }

    /// 401: who is asking could not be found out.
    pub fn unauthorized(message: &str) -> Self {
        Self::generic(
            401,
            "Unauthorized",
            if message.is_empty() { "Unauthorized" } else { message },
        )
    }

    /// 403: who is asking may not do this.
    pub fn forbidden(group: &str, resource: &str, name: &str, text: impl fmt::Display) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {text}"),
            (_, "") => format!("{} is forbidden: {text}", qualified(group, resource)),
            _ => format!("{} is forbidden: {text}", named(group, resource, name)),
        };
        Self::about(403, "Forbidden", message, StatusDetails::of(group, resource, name))
    }

    /// 405: the resource has no such verb.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {}",
            quote(&qualified(group, resource))
        );
        Self::about(405, "MethodNotAllowed", message, StatusDetails::of(group, resource, ""))
    }

    /// 406: nothing that the client accepts can be answered.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::generic(406, "NotAcceptable", message)
    }

    /// 415: the body is of a type that nobody reads here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::generic(415, "UnsupportedMediaType", message)
    }

    /// 413: the body, or the object, is too large.
    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::generic(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    /// 429: try again later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::generic(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// 503: the server cannot answer at the moment.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::generic(503, "ServiceUnavailable", message)
    }

    /// 500 with reason `ServerTimeout`: the operation was not done and may be repeated.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        let error = Self::about(
            500,
            "ServerTimeout",
            message,
            StatusDetails::of(group, resource, operation),
        );
        error.with_retry_after(retry_after_seconds)
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        let error = Self::about(504, "Timeout", format!("Timeout: {message}"), StatusDetails::default());
        error.with_retry_after(retry_after_seconds)
    }

    /// 410 with reason `Expired`: history is gone. `token` goes on at the latest state.
    pub fn expired(message: impl Into<String>, token: Option<&ContinueToken>) -> Self {
        let mut error = Self::generic(410, "Expired", message);
        error.0.status.metadata.continue_token = token.map(ContinueToken::encode);
        error
    }

    /// 410 with reason `Gone`: what was there is gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::generic(410, "Gone", message)
    }

    /// 500: a fault of the server.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let cause = cause.to_string();
        let message = format!("Internal error occurred: {cause}");
        let causes = vec![StatusCause::new("", cause, "")];
        Self::about(
            500,
            "InternalError",
            message,
            StatusDetails {
                causes,
                ..StatusDetails::default()
            },
        )
    }

    /// 504: the asked version lies ahead of the store (`storage-api/ERR-06`).
    pub fn too_large_resource_version(asked: Revision, current: Revision, retry_after_seconds: u32) -> Self {
        let mut error = Self::timeout(
            format!("Too large resource version: {asked}, current: {current}"),
            retry_after_seconds,
        );
        if let Some(details) = &mut error.0.status.details {
            details.causes = vec![StatusCause::new(
                "ResourceVersionTooLarge",
                "Too large resource version",
                "",
            )];
        }
        error
    }

    /// 500 with reason `StorageReadError`: objects that nobody can read, one cause each
    /// (`storage-api/LIST-45`).
    pub fn store_read_error(group: &str, resource: &str, operation: &str, causes: Vec<StatusCause>) -> Self {
        let message = format!(
            "failed to read one or more {} from the storage",
            qualified(group, resource)
        );
        let details = StatusDetails {
            causes,
            ..StatusDetails::of(group, resource, operation)
        };
        Self::about(500, "StorageReadError", message, details)
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.status.code
    }

    /// For programs: `NotFound`, `Conflict`; empty when there is none.
    pub fn reason(&self) -> &str {
        &self.0.status.reason
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.0.status.message
    }

    /// What the error is about.
    pub fn details(&self) -> Option<&StatusDetails> {
        self.0.status.details.as_ref()
    }

    /// When to try again, if the server has an opinion.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details()
            .map(|details| details.retry_after_seconds)
            .filter(|&seconds| seconds > 0)
    }

    /// With `Expired`: the token that goes on at the latest state.
    pub fn continue_token(&self) -> Option<&str> {
        self.0.status.metadata.continue_token.as_deref()
    }

    /// With `Conflict`: what was expected and what is stored, where known.
    pub fn mismatch(&self) -> Option<&Mismatch> {
        self.0.mismatch.as_ref()
    }

    /// The whole status.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The status as a value.
    pub fn to_status_json(&self) -> Value {
        serde_json::to_value(&self.0.status).unwrap_or_default()
    }

    /// The status as bytes, in Go's order of fields and with Go's escapes.
    pub fn to_status_bytes(&self) -> Vec<u8> {
        self.0.status.to_bytes()
    }

    /// The same with another message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.status.message = message.into();
        self
    }

    /// The same with another reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.status.reason = reason.into();
        self
    }

    /// The same with one more cause.
    #[must_use]
    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.details_mut().causes.push(cause);
        self
    }

    /// The same with a hint when to try again; zero takes it away.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        if seconds > 0 || self.0.status.details.is_some() {
            self.details_mut().retry_after_seconds = seconds;
        }
        self
    }

    /// The same with what the conflict is about.
    #[must_use]
    pub fn with_mismatch(mut self, expected: Option<String>, stored: Option<String>) -> Self {
        self.0.mismatch = Some(Mismatch { expected, stored });
        self
    }

    /// The same with a cause for logs; clients never see it.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    fn details_mut(&mut self) -> &mut StatusDetails {
        self.0.status.details.get_or_insert_default()
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// There is such an object already.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The stored state is not what the request expects.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    /// The object has faults.
    pub fn is_invalid(&self) -> bool {
        self.reason() == "Invalid"
    }

    /// History is gone.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }
}

/// Whole seconds of a hint, at least one for anything above zero.
pub(crate) fn seconds(hint: Duration) -> u32 {
    let up = hint.as_secs() + u64::from(hint.subsec_nanos() > 0);
    u32::try_from(up).unwrap_or(u32::MAX)
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.status.message)
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiError")
            .field("code", &self.code())
            .field("reason", &self.reason())
            .field("message", &self.message())
            .finish_non_exhaustive()
    }
}

impl std::error::Error for ApiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

const _: () = assert!(size_of::<ApiError>() == size_of::<usize>());
