//! Reading request bodies as Go's decoder reads them: wrong types are errors, unknown and repeated fields are findings.
//!
//! [`decode_typed`] reads the body of a built-in kind along its type, [`decode_custom`] that of a custom kind along its structural
//! schema, [`decode_value`] the result of a patch. All give the value without unknown fields, and the findings as texts in the
//! order in which the server reports them; what to do about findings is the [`FieldValidation`] directive of the request:
//! refuse ([`strict_text`]), warn (one `Warning` header each), or ignore.

mod custom;
mod scalars;
mod typed;

use std::str::FromStr;

use serde_json::Value;

use crate::document::{self, Node};
use crate::gofmt;
use crate::types::{Gvk, Type, TypeRegistry};

pub use custom::{decode_custom, decode_custom_value};
pub(crate) use scalars::parse_time;

/// What a request wants done about unknown and repeated fields (query parameter `fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Do not look, the last of repeated fields wins.
    Ignore,
    /// Accept, and send a warning for each finding.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// The query parameter has none of the known values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown field validation directive: {0:?}")]
pub struct UnknownDirective(pub String);

impl FromStr for FieldValidation {
    type Err = UnknownDirective;

    fn from_str(text: &str) -> Result<Self, UnknownDirective> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(UnknownDirective(other.to_owned())),
        }
    }
}

/// A body that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object: fields of the type only, no nulls where Go would have none.
    pub value: Value,
    /// One text per unknown or repeated field (`unknown field "spec.foo"`), at most 100 of a kind.
    pub findings: Vec<String>,
}

/// The body is no object of the expected kind: answer 400 with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    /// The kind of the body was recognised, its content was not accepted.
    #[must_use]
    pub fn not_handled(kind: &str, version: &str, expected: &str, reason: &str) -> Self {
        let version = gofmt::quote(version);
        Self(format!(
            "{kind} in version {version} cannot be handled as a {expected}: {reason}"
        ))
    }

    /// Not even the kind of the body was recognised.
    #[must_use]
    pub fn unrecognized(expected: &str, reason: &str, body: &[u8]) -> Self {
        let summary = summary(body);
        Self(format!(
            "the object provided is unrecognized (must be of type {expected}): {reason} ({summary})"
        ))
    }

    /// Strict validation found something.
    #[must_use]
    pub fn strict(gvk: Gvk<'_>, findings: &[String]) -> Self {
        Self::not_handled(gvk.kind, gvk.version, gvk.kind, &strict_text(findings))
    }

    /// An error with a text of its own.
    pub(crate) fn other(text: String) -> Self {
        Self(text)
    }
}

/// Findings as one text, as strict validation refuses them.
#[must_use]
pub fn strict_text(findings: &[String]) -> String {
    format!("strict decoding error: {}", findings.join(", "))
}

/// The first 30 bytes of a body: as text when it looks like JSON, in hexadecimal otherwise.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(SHOWN)];
    let mut text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if body.len() > SHOWN {
        text.push_str(" ...");
    }
    text
}

/// What a body says about its own kind.
pub(crate) struct Claim {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

/// Reads a body as far as its kind.
pub(crate) fn interpret(expected: &str, body: &[u8]) -> Result<(Node, Claim), DecodeError> {
    let no_kind = |reason: String| {
        let reason = format!("couldn't get version/kind; json parse error: {reason}");
        DecodeError::unrecognized(expected, &reason, body)
    };
    let node = document::parse(body).map_err(|e| no_kind(e.to_string()))?;
    match &node {
        Node::Object(_) | Node::Null => {}
        other => {
            return Err(no_kind(format!(
                "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                other.go_kind()
            )));
        }
    }
    let text = |name: &str| match node.get(name) {
        None | Some(Node::Null) => Ok(String::new()),
        Some(Node::String(text)) => Ok(text.clone()),
        Some(other) => Err(no_kind(format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            other.go_kind()
        ))),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let mut parts = api_version.split('/');
    let (group, version) = match (parts.next(), parts.next(), parts.next()) {
        (Some(version), None, None) => ("", version),
        (Some(group), Some(version), None) => (group, version),
        _ => {
            let reason = format!("unexpected GroupVersion string: {api_version}");
            return Err(DecodeError::unrecognized(expected, &reason, body));
        }
    };
    let claim = Claim {
        group: group.to_owned(),
        version: version.to_owned(),
        kind,
    };
    Ok((node, claim))
}

/// Reads a request body as an object of a built-in kind.
///
/// `apiVersion` and `kind` may be missing; the answer always has them.
///
/// # Errors
/// The body is not JSON, of another kind, or has a value of the wrong type; the text is the whole message for the client.
pub fn decode_typed(registry: &TypeRegistry, expected: Gvk<'_>, body: &[u8]) -> Result<Decoded, DecodeError> {
    let Some(of) = registry.by_gvk(expected) else {
        let reason = format!(
            "no kind {} is registered for version {}",
            gofmt::quote(expected.kind),
            gofmt::quote(&expected.api_version())
        );
        return Err(DecodeError::not_handled(
            expected.kind,
            expected.version,
            expected.kind,
            &reason,
        ));
    };
    let (node, mut claim) = interpret(expected.kind, body)?;
    if claim.kind.is_empty() {
        claim.kind = expected.kind.to_owned();
    }
    if claim.version.is_empty() && (claim.group.is_empty() || claim.group == expected.group) {
        claim.group = expected.group.to_owned();
        claim.version = expected.version.to_owned();
    }
    let claimed = Gvk::new(&claim.group, &claim.version, &claim.kind);
    let not_handled = |reason: &str| DecodeError::not_handled(&claim.kind, &claim.version, expected.kind, reason);
    if claimed != expected {
        let reason = match registry.by_gvk(claimed) {
            Some(other) => format!(
                "converting ({}) to ({}.{}): unknown conversion",
                typed::go_name(other),
                of.name.split('.').next().unwrap_or_default(),
                expected.kind
            ),
            None => format!(
                "no kind {} is registered for version {}",
                gofmt::quote(&claim.kind),
                gofmt::quote(&claimed.api_version())
            ),
        };
        return Err(not_handled(&reason));
    }
    let mut decoded = typed::decode(registry, of, &node).map_err(|reason| not_handled(&reason))?;
    name_kind(&mut decoded.value, expected);
    Ok(decoded)
}

/// Reads a value (the result of a patch) as an object of a built-in type.
///
/// # Errors
/// A value of the wrong type; the text is the reason alone, to be put into an Invalid on field `patch`.
pub fn decode_value(registry: &TypeRegistry, of: &Type, value: &Value) -> Result<Decoded, DecodeError> {
    typed::decode(registry, of, &Node::from(value)).map_err(DecodeError)
}

fn name_kind(value: &mut Value, gvk: Gvk<'_>) {
    if let Value::Object(map) = value {
        map.insert("apiVersion".to_owned(), Value::String(gvk.api_version()));
        map.insert("kind".to_owned(), Value::String(gvk.kind.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(kind: &str, body: &str) -> Result<Decoded, String> {
        let group = if kind == "Deployment" { "apps" } else { "" };
        decode_typed(TypeRegistry::builtin(), Gvk::new(group, "v1", kind), body.as_bytes()).map_err(|e| e.to_string())
    }

    // covers: apiserver-http/FVAL-01
    #[test]
    fn directives_are_exact() {
        assert_eq!("".parse(), Ok(FieldValidation::Warn));
        assert_eq!("Strict".parse(), Ok(FieldValidation::Strict));
        assert_eq!(
            "strict".parse::<FieldValidation>(),
            Err(UnknownDirective("strict".to_owned()))
        );
    }

    // covers: apiserver-http/FVAL-02, apiserver-http/FVAL-03, apiserver-http/FVAL-08, apiserver-http/FVAL-09
    #[test]
    fn findings_come_in_document_order_with_their_paths() {
        for (kind, body, want) in [
            (
                "ConfigMap",
                r#"{"metadata":{"name":"a","nolabels":{}},"data":{"k":"v"},"unknown":1,"other":{"x":1,"x":2}}"#,
                vec![
                    r#"unknown field "metadata.nolabels""#,
                    r#"unknown field "unknown""#,
                    r#"unknown field "other""#,
                ],
            ),
            (
                "ConfigMap",
                r#"{"data":{"k":"1","k":"2"},"metadata":{"name":"a","name":"b"}}"#,
                vec![r#"duplicate field "data.k""#, r#"duplicate field "metadata.name""#],
            ),
            (
                "Pod",
                r#"{"spec":{"containers":[{"name":"c","imagee":"x","ports":[{"containerPort":80,"protocl":"TCP"}]}],"nodeNam":"n"}}"#,
                vec![
                    r#"unknown field "spec.containers[0].imagee""#,
                    r#"unknown field "spec.containers[0].ports[0].protocl""#,
                    r#"unknown field "spec.nodeNam""#,
                ],
            ),
            (
                "Pod",
                r#"{"spec":{"volumes":[{"name":"v","emptyDir":{"x":1}}]},"Spec":{}}"#,
                vec![
                    r#"unknown field "spec.volumes[0].emptyDir.x""#,
                    r#"unknown field "Spec""#,
                ],
            ),
        ] {
            assert_eq!(decode(kind, body).unwrap().findings, want, "{body}");
        }
        let got = decode("ConfigMap", r#"{"data":{"k":"1","k":"2"},"unknown":1}"#)
            .unwrap()
            .value;
        assert_eq!(
            got,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "2"}})
        );
        let findings = [r#"unknown field "a""#.to_owned(), r#"duplicate field "b""#.to_owned()];
        assert_eq!(
            DecodeError::strict(Gvk::new("", "v1", "ConfigMap"), &findings).to_string(),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "a", duplicate field "b""#
        );
    }

    // covers: apiserver-http/BODY-03, apiserver-http/BODY-04
    #[test]
    fn a_value_of_the_wrong_type_is_an_error() {
        for (kind, body, want) in [
            (
                "ConfigMap",
                r#"{"data":"text"}"#,
                "json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                "ConfigMap",
                r#"{"data":{"k":1}}"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
            (
                "ConfigMap",
                r#"{"metadata":{"labels":{"x":5}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                "ConfigMap",
                r#"{"metadata":"x"}"#,
                "json: cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta",
            ),
            (
                "ConfigMap",
                r#"{"metadata":{"generation":1.5}}"#,
                "json: cannot unmarshal number 1.5 into Go struct field ObjectMeta.metadata.generation of type int64",
            ),
            (
                "ConfigMap",
                r#"{"metadata":{"finalizers":{"x":1}}}"#,
                "json: cannot unmarshal object into Go struct field ObjectMeta.metadata.finalizers of type []string",
            ),
            (
                "ConfigMap",
                r#"{"metadata":{"creationTimestamp":"nope"}}"#,
                "parsing time \"nope\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"nope\" as \"2006\"",
            ),
            (
                "ConfigMap",
                r#"{"metadata":{"creationTimestamp":5}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
            ),
            (
                "ConfigMap",
                r#"{"data":{"a":1},"metadata":{"creationTimestamp":"x"}}"#,
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (
                "ConfigMap",
                r#"{"binaryData":{"x":5}}"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.binaryData of type []uint8",
            ),
            (
                "Secret",
                r#"{"data":{"a":"%%"}}"#,
                "illegal base64 data at input byte 0",
            ),
            (
                "Secret",
                r#"{"data":{"a":"YWJj=A"}}"#,
                "illegal base64 data at input byte 4",
            ),
            (
                "Pod",
                r#"{"spec":{"containers":["x"]}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
            ),
            (
                "Pod",
                r#"{"spec":{"containers":[{"ports":[{"containerPort":8000000000}]}]}}"#,
                "json: cannot unmarshal number 8000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                "Pod",
                r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                "Service",
                r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
                "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
            ),
            (
                "Deployment",
                r#"{"spec":{"replicas":"x"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
        ] {
            let want = format!("{kind} in version \"v1\" cannot be handled as a {kind}: {want}");
            assert_eq!(decode(kind, body).map(|d| d.value), Err(want), "{body}");
        }
    }

    // covers: apiserver-http/BODY-03, apiserver-http/BODY-04, apiserver-http/BODY-05, apiserver-http/BODY-06
    #[test]
    fn a_body_of_another_kind_or_of_none_is_an_error() {
        let unrecognized = "the object provided is unrecognized (must be of type ConfigMap): ";
        for (body, want) in [
            ("", format!("{unrecognized}couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)")),
            ("{\"metadata\":{\"name\":\"a\"", format!("{unrecognized}couldn't get version/kind; json parse error: unexpected end of JSON input ({{\"metadata\":{{\"name\":\"a\")")),
            ("not json at all", format!("{unrecognized}couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u') (6e6f74206a736f6e20617420616c6c)")),
            ("[1,2]", format!("{unrecognized}couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }} (5b312c325d)")),
            ("{\"kind\":1}", format!("{unrecognized}couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string ({{\"kind\":1}})")),
            ("{\"apiVersion\":\"a/b/c\",\"kind\":\"ConfigMap\"}", format!("{unrecognized}unexpected GroupVersion string: a/b/c ({{\"apiVersion\":\"a/b/c\",\"kind\":\" ...)")),
            ("{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}", "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion".to_owned()),
            ("{\"kind\":\"Nonsense\"}", "Nonsense in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nonsense\" is registered for version \"v1\"".to_owned()),
            ("{\"apiVersion\":\"apps/v1\"}", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"apps/v1\"".to_owned()),
        ] {
            assert_eq!(decode("ConfigMap", body).map(|d| d.value), Err(want), "{body}");
        }
        assert_eq!(
            decode("ConfigMap", "null").unwrap().value,
            json!({"apiVersion": "v1", "kind": "ConfigMap"})
        );
    }

    // covers: apiserver-http/BODY-12, apiserver-http/BODY-14
    #[test]
    fn nulls_and_text_forms_are_read_as_go_reads_them() {
        for (kind, body, want) in [
            (
                "ConfigMap",
                r#"{"metadata":{"labels":null,"finalizers":[null]},"data":{"x":null},"immutable":null}"#,
                json!({"metadata": {"finalizers": [""]}, "data": {"x": ""}}),
            ),
            (
                "Secret",
                r#"{"data":{"a":"YW\nJj","n":null,"l":[97,98]}}"#,
                json!({"data": {"a": "YWJj", "n": null, "l": "YWI="}}),
            ),
            (
                "Pod",
                r#"{"status":{"startTime":"2024-01-02T03:04:05.9+01:00"}}"#,
                json!({"status": {"startTime": "2024-01-02T02:04:05Z"}}),
            ),
            (
                "Service",
                r#"{"spec":{"ports":[{"port":80,"targetPort":"web"},{"port":81,"targetPort":9}]}}"#,
                json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 9}]}}),
            ),
            (
                "Pod",
                r#"{"spec":{"containers":[{"name":"a"}],"containers":[{"image":"i"}]}}"#,
                json!({"spec": {"containers": [{"name": "a", "image": "i"}]}}),
            ),
        ] {
            let mut got = decode(kind, body).unwrap().value;
            let map = got.as_object_mut().unwrap();
            map.remove("apiVersion");
            map.remove("kind");
            assert_eq!(got, want, "{body}");
        }
    }
}
