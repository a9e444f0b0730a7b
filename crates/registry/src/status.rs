//! `Status`, the body of every failed request and of some successful ones, as a Rust type.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What happened to a request, in the form that every Kubernetes client reads. Serializes in Go's order of fields.
///
/// Upstream: k8s.io/apimachinery pkg/apis/meta/v1 (types.go, Status).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Always `Status`.
    pub kind: Cow<'static, str>,
    /// Always `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: Cow<'static, str>,
    /// Where a paged list can go on.
    #[serde(default)]
    pub metadata: StatusMeta,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub status: Cow<'static, str>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs; empty when there is none.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// What the reason is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status code; zero when the transport decides.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The list metadata of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusMeta {
    /// With `Expired`: a token that goes on at the latest state, inconsistent with earlier pages.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<String>,
}

/// What a status is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct StatusDetails {
    /// The name of the object, or of the operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group; empty for the core group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource, for `Invalid` the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The uid of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The faults one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Try again after so many seconds; zero when there is nothing to say.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

/// One of several faults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StatusCause {
    /// For programs.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl StatusCause {
    /// A cause.
    pub fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>, field: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        }
    }
}

impl StatusDetails {
    /// Details that name an object of a resource (or kind).
    pub fn of(group: impl Into<String>, kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            name: name.into(),
            ..Self::default()
        }
    }
}

impl Status {
    /// The request was done; what it was about is in the details (`apiserver-http/STAT-21`).
    pub fn success(details: Option<StatusDetails>) -> Self {
        Self {
            kind: Cow::Borrowed("Status"),
            api_version: Cow::Borrowed("v1"),
            metadata: StatusMeta::default(),
            status: Cow::Borrowed("Success"),
            message: String::new(),
            reason: Cow::Borrowed(""),
            details,
            code: 0,
        }
    }

    /// The request failed.
    pub fn failure(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let mut status = Self::success(None);
        status.status = Cow::Borrowed("Failure");
        status.code = code;
        status.reason = reason.into();
        status.message = message.into();
        status
    }

    /// The JSON as Go writes it: the same order of fields, the same escapes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut out = Vec::with_capacity(json.len() + json.len() / 8);
        let mut rest = json.as_slice();
        // These stand nowhere in JSON but in strings, so that replacing them blindly is right.
        while let Some((&first, tail)) = rest.split_first() {
            let (escape, skip): (&[u8], usize) = match (first, tail) {
                (b'<', _) => (b"\\u003c", 0),
                (b'>', _) => (b"\\u003e", 0),
                (b'&', _) => (b"\\u0026", 0),
                (0xe2, [0x80, 0xa8, ..]) => (b"\\u2028", 2),
                (0xe2, [0x80, 0xa9, ..]) => (b"\\u2029", 2),
                (ref other, _) => {
                    out.push(*other);
                    rest = tail;
                    continue;
                }
            };
            out.extend_from_slice(escape);
            rest = tail.get(skip..).unwrap_or_default();
        }
        out
    }
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero_u32(seconds: &u32) -> bool {
    *seconds == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/STAT-01, apiserver-http/STAT-21
    #[test]
    fn fields_stand_in_gos_order_and_empty_ones_are_left_out() {
        let mut status = Status::failure(409, "Conflict", "a <b> & \u{2028}");
        let mut details = StatusDetails::of("apps", "deployments", "a");
        details.uid = "u".into();
        details.causes = vec![StatusCause::new("R", "m", "f")];
        details.retry_after_seconds = 2;
        status.details = Some(details);
        let want = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\
                    \"message\":\"a \\u003cb\\u003e \\u0026 \\u2028\",\"reason\":\"Conflict\",\"details\":{\"name\":\"a\",\
                    \"group\":\"apps\",\"kind\":\"deployments\",\"uid\":\"u\",\"causes\":[{\"reason\":\"R\",\
                    \"message\":\"m\",\"field\":\"f\"}],\"retryAfterSeconds\":2},\"code\":409}";
        assert_eq!(String::from_utf8(status.to_bytes()).unwrap(), want);
        let success = Status::success(Some(StatusDetails::of("", "configmaps", "a")));
        let want = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Success\",\
                    \"details\":{\"name\":\"a\",\"kind\":\"configmaps\"}}";
        assert_eq!(String::from_utf8(success.to_bytes()).unwrap(), want);
    }
}
