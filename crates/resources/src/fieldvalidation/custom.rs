//! Request bodies of custom kinds: metadata has a Go type, everything else a structural schema.

use serde_json::Value;

use crate::crd::{CustomKind, CustomVersion};
use crate::document::Node;
use crate::gofmt::quote;
use crate::types::TypeRegistry;

use super::{DecodeError, Decoded, interpret, typed};

/// Reads a request body as an object of a custom kind: pruned, with nulls and defaults settled.
///
/// `apiVersion` and `kind` must be in the body; another kind than expected is left to validation, as upstream does.
///
/// # Errors
/// The body is not JSON, says nothing of its kind, is of another version, or has metadata of the wrong type; the text is the whole
/// message for the client.
pub fn decode_custom(
    registry: &TypeRegistry,
    kind: &CustomKind,
    version: &CustomVersion,
    body: &[u8],
) -> Result<Decoded, DecodeError> {
    let expected = kind.names.kind.as_str();
    let (node, claim) = interpret(expected, body)?;
    if claim.kind.is_empty() {
        let reason = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
        return Err(DecodeError::unrecognized(expected, &reason, body));
    }
    if (claim.group.as_str(), claim.version.as_str()) != (kind.group.as_str(), version.name.as_str()) {
        let given = node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
        return Err(DecodeError::other(format!(
            "the API version in the data ({given}) does not match the expected API version ({}/{})",
            kind.group, version.name
        )));
    }
    read(registry, version, &node)
        .map_err(|reason| DecodeError::not_handled(&claim.kind, &claim.version, expected, &reason))
}

/// Reads a value (the result of a patch) as an object of a custom kind.
///
/// # Errors
/// Metadata of the wrong type; the text is the reason alone, to be put into an Invalid on field `patch`.
pub fn decode_custom_value(
    registry: &TypeRegistry,
    version: &CustomVersion,
    value: &Value,
) -> Result<Decoded, DecodeError> {
    read(registry, version, &Node::from(value)).map_err(DecodeError::other)
}

fn read(registry: &TypeRegistry, version: &CustomVersion, node: &Node) -> Result<Decoded, String> {
    let mut findings: Vec<_> = node
        .duplicates()
        .iter()
        .map(|path| format!("duplicate field {}", quote(path)))
        .collect();
    let metadata = match (node.get("metadata"), registry.by_name("meta.v1.ObjectMeta")) {
        (Some(metadata), Some(of)) => Some(typed::decode_at(registry, of, metadata, "metadata")?),
        _ => None,
    };
    let mut value = node.to_value();
    let unknown = version.schema.prune(&mut value);
    findings.extend(unknown.iter().map(|path| format!("unknown field {}", quote(path))));
    version.schema.apply_defaults(&mut value);
    if let (Some(metadata), Value::Object(map)) = (metadata, &mut value) {
        // Repeated keys were found above, in metadata as everywhere.
        findings.extend(
            metadata
                .findings
                .into_iter()
                .filter(|finding| !finding.starts_with("duplicate")),
        );
        map.insert("metadata".to_owned(), metadata.value);
    }
    Ok(Decoded { value, findings })
}
