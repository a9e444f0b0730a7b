//! From stored bytes to served bytes and back: the one place where a value is parsed on its way in.
//!
//! A [`Normalizer`] belongs to a kind. It reads whatever somebody stored (our own canonical form, pretty-printed JSON,
//! CBOR, for built-in kinds protobuf) and answers with the canonical served JSON and what was learned on the way, or
//! says why the value cannot be read. It never guesses: a value of another kind or without structure is
//! [`Malformed`]. The other way it makes the canonical stored form, Go's bytes.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::attributes::{Attributes, Fields, Labels};
use crate::codec::{self, MediaType};
use crate::object::Encoded;
use crate::resource::{GroupVersionKind, SelectableField};
use crate::revision::Revision;
use crate::room::Room;
use crate::scan::{AnyText, Anything, Guide, Scanned, learn, scan};
use crate::shape::{Seen, Shapes};

/// Reads and writes the stored values of one kind. Pure and cheap to share; called on every read of the backend.
pub trait Normalizer: fmt::Debug + Send + Sync + 'static {
    /// Turns a decrypted stored value into its served form with `revision` as `metadata.resourceVersion`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the value cannot be served as this kind.
    fn normalize(&self, stored: &[u8], revision: Revision, fields: &[SelectableField])
    -> Result<Normalized, Malformed>;

    /// As [`normalize`](Self::normalize), of one of several values that are read together, with the served form in
    /// `room` where a normalizer can.
    ///
    /// # Errors
    ///
    /// As of it.
    fn normalize_into(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        room: &mut Room,
    ) -> Result<Normalized, Malformed> {
        let _ = room;
        self.normalize(stored, revision, fields)
    }

    /// Makes the canonical stored form: no resourceVersion, no selfLink, deterministic bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when the value is no object of this kind.
    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed>;

    /// Makes the stored form, and reads it back as of `revision`: what [`encode`](Self::encode) and
    /// [`normalize`](Self::normalize) come to one after the other, in one pass where a normalizer can.
    ///
    /// # Errors
    ///
    /// As of either.
    fn encode_and_normalize(
        &self,
        object: &Encoded,
        media_type: MediaType,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<(Bytes, Normalized), Malformed> {
        let stored = self.encode(object, media_type)?;
        let normalized = self.normalize(&stored, revision, fields)?;
        Ok((stored, normalized))
    }

    /// Changes whenever the schema behind this normalizer does; entries made under another generation are stale views.
    fn generation(&self) -> u64;
}

/// A stored value in served form, with what the scan learned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Normalized {
    /// Canonical served JSON: compact, one line, resourceVersion in.
    pub json: Bytes,
    /// Where in `json` the digits of the resourceVersion stand.
    pub resource_version: Range<usize>,
    /// Metadata, labels and selectable fields.
    pub attributes: Attributes,
    /// How the value was stored.
    pub media_type: MediaType,
}

impl Normalized {
    /// Puts the parts together.
    pub fn new(json: Bytes, resource_version: Range<usize>, attributes: Attributes, media_type: MediaType) -> Self {
        debug_assert!(
            json.get(resource_version.clone())
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
        );
        Self {
            json,
            resource_version,
            attributes,
            media_type,
        }
    }
}

// deviates: storage-api/VER-10: an object that no revision can be put into (its metadata is no object) is unreadable for
// every verb; none is served without one.
/// Why a stored value cannot be read, or an object not be stored. Names fields, never shows content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// The normalizer of a kind without a schema: checks, compacts, sorts the keys.
///
/// Custom resources are stored like this by Kubernetes: keys sorted by bytes, a final newline. What was stored in another
/// version of the group is served in the kind's own: without a schema, versions differ in nothing but their name.
#[derive(Debug, Clone)]
pub struct JsonNormalizer {
    gvk: GroupVersionKind,
    /// No other normalizer has it, unless it is a clone of this one.
    id: u64,
}

thread_local! {
    /// The last shapes of kinds, by their normalizers.
    static SHAPES: RefCell<Shapes<u64, AnyText>> = RefCell::default();
}

impl JsonNormalizer {
    /// For objects of this kind.
    pub fn new(gvk: GroupVersionKind) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { gvk, id }
    }

    /// Reads a document that is in canonical form and in the kind's own version; `None` for any other.
    fn scan<'a>(&self, document: &'a [u8], fields: &[SelectableField], guide: impl Guide) -> Option<Scanned<'a>> {
        let scanned = scan(document, fields, guide)?;
        let (group, version) = (self.gvk.group.as_bytes(), self.gvk.version.as_bytes());
        let has_group = match scanned.api_version.strip_suffix(version) {
            Some(b"") => group.is_empty(),
            Some([found @ .., b'/']) => found == group && !group.is_empty(),
            _ => false,
        };
        (has_group && scanned.kind == self.gvk.kind.as_bytes()).then_some(scanned)
    }

    /// The served form of a value in canonical form; `None` for any other.
    pub(crate) fn verify(&self, stored: &[u8], revision: Revision, fields: &[SelectableField]) -> Option<Normalized> {
        self.verify_guided(stored, revision, fields, Anything)
    }

    /// As [`verify`](Self::verify), at less cost for a value like the last one.
    #[inline]
    fn compare(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        room: &mut Room,
    ) -> Option<Normalized> {
        let mut served = None;
        match SHAPES.with_borrow_mut(|shapes| shapes.serve(self.id, stored, revision, fields, room, &mut served)) {
            Seen::Served => served,
            Seen::Ignored => self.verify(stored, revision, fields),
            Seen::Strange => {
                let verified = self.verify(stored, revision, fields);
                let shape = verified.as_ref().and_then(|_| learn(stored, fields));
                SHAPES.with_borrow_mut(|shapes| shapes.keep(self.id, fields, shape));
                verified
            }
        }
    }

    /// The served form of a value that is in canonical form and as a guide wants it; `None` for any other, which has to be
    /// decoded.
    pub fn verify_guided(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        guide: impl Guide,
    ) -> Option<Normalized> {
        let scanned = self.scan(stored, fields, guide)?;
        let (json, at) = scanned.with_revision(stored, revision.digits(&mut [0; 20]))?;
        Some(Normalized::new(json.into(), at, scanned.attributes, MediaType::Json))
    }

    /// The served form of any value, by decoding it.
    pub(crate) fn rewrite(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let mut value = codec::decode_value(stored, media_type)?;
        let object = value
            .as_object_mut()
            .ok_or_else(|| Malformed("expected an object".into()))?;
        self.in_version(object)?;
        finish(value, revision, fields, media_type)
    }

    /// The stored form of an object in canonical form; `None` for any other.
    pub fn keep(&self, object: &Encoded) -> Option<Bytes> {
        let scanned = self.scan(object.json(), &[], Anything)?;
        Some(stored_form(&scanned, object))
    }

    /// The stored form of an object that is in canonical form and as a guide wants it, and its served form; `None` for any
    /// other.
    pub fn keep_guided(
        &self,
        object: &Encoded,
        revision: Revision,
        fields: &[SelectableField],
        guide: impl Guide,
    ) -> Option<(Bytes, Normalized)> {
        let scanned = self.scan(object.json(), fields, guide)?;
        let (json, at) = scanned.with_revision(object.json(), revision.digits(&mut [0; 20]))?;
        let stored = stored_form(&scanned, object);
        Some((
            stored,
            Normalized::new(json.into(), at, scanned.attributes, MediaType::Json),
        ))
    }

    /// The stored form of any object, by decoding it.
    pub(crate) fn encode_value(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let mut value = codec::decode_value(object.json(), MediaType::Json)?;
        let fields = value
            .as_object_mut()
            .ok_or_else(|| Malformed("expected an object".into()))?;
        self.in_version(fields)?;
        strip_server_fields(fields);
        encode_untyped(&value, media_type)
    }

    /// Makes sure that this is an object of the kind, in whatever version of its group, and brings it to the kind's own.
    fn in_version(&self, object: &mut Map<String, Value>) -> Result<(), Malformed> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        if kind != self.gvk.kind || group != self.gvk.group {
            return Err(Malformed(format!(
                "expected kind {:?} of group {:?}, found kind {kind:?} of apiVersion {api_version:?}",
                self.gvk.kind, self.gvk.group
            )));
        }
        if version != self.gvk.version {
            object.insert("apiVersion".into(), self.gvk.api_version().into());
        }
        Ok(())
    }
}

/// What is stored of an object in canonical form: shared where nothing has to be changed.
fn stored_form(scanned: &Scanned<'_>, object: &Encoded) -> Bytes {
    let document = object.json();
    scanned
        .without_revision(document)
        .map_or_else(|| document.clone(), Bytes::from)
}

/// What is stored of a document in canonical form that is served like this, with a newline behind it: the document
/// itself, shared, or what it is without the revision that it came with.
fn stored_of(served: &Normalized, document: &Bytes) -> Option<Bytes> {
    const NAME: &[u8] = b"\"resourceVersion\":\"";
    let (json, digits) = (&served.json, &served.resource_version);
    let was_put_in = json.len() >= document.len() + NAME.len() + digits.len();
    if was_put_in {
        return Some(document.clone());
    }
    let (before, behind) = (json.get(..digits.start)?, json.get(digits.end..)?);
    let (before, behind) = (before.strip_suffix(NAME)?, behind.strip_prefix(b"\"")?);
    // It goes with the comma before it; the first one with that behind it.
    let (before, behind) = match before.strip_suffix(b",") {
        Some(before) => (before, behind),
        None => (before, behind.strip_prefix(b",").unwrap_or(behind)),
    };
    Some([before, behind, b"\n"].concat().into())
}

impl Normalizer for JsonNormalizer {
    fn normalize(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<Normalized, Malformed> {
        self.normalize_into(stored, revision, fields, &mut Room::apart())
    }

    fn normalize_into(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        room: &mut Room,
    ) -> Result<Normalized, Malformed> {
        match self.compare(stored, revision, fields, room) {
            Some(normalized) => Ok(normalized),
            None => self.rewrite(stored, revision, fields),
        }
    }

    fn encode(&self, object: &Encoded, media_type: MediaType) -> Result<Bytes, Malformed> {
        let kept = (media_type == MediaType::Json).then(|| self.keep(object)).flatten();
        kept.map_or_else(|| self.encode_value(object, media_type), Ok)
    }

    fn encode_and_normalize(
        &self,
        object: &Encoded,
        media_type: MediaType,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<(Bytes, Normalized), Malformed> {
        if media_type == MediaType::Json {
            let document = object.json();
            let both = if document.ends_with(b"\n") {
                // As it is stored, perhaps but for its revision: the served form is that of a stored value.
                let normalized = self.compare(document, revision, fields, &mut Room::apart());
                normalized.and_then(|normalized| Some((stored_of(&normalized, document)?, normalized)))
            } else {
                self.keep_guided(object, revision, fields, Anything)
            };
            if let Some(both) = both {
                return Ok(both);
            }
        }
        let stored = self.encode_value(object, media_type)?;
        let normalized = self.normalize(&stored, revision, fields)?;
        Ok((stored, normalized))
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// The stored form of an object without a Go type: sorted keys, in JSON with a final newline.
///
/// # Errors
///
/// [`Malformed`] for a media type that cannot be written without a schema.
pub fn encode_untyped(object: &Value, media_type: MediaType) -> Result<Bytes, Malformed> {
    match media_type {
        MediaType::Json => {
            let mut json = codec::json::to_vec(object);
            json.push(b'\n');
            Ok(json.into())
        }
        #[cfg(feature = "cbor")]
        MediaType::Cbor => Ok(codec::cbor::to_vec(object).into()),
        other => Err(Malformed(format!("cannot store as {other} without a schema"))),
    }
}

/// Takes out what is never stored: resourceVersion and selfLink (`storage-api/VER-06`).
pub fn strip_server_fields(object: &mut Map<String, Value>) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
}

/// Writes a decoded object in sorted order with its resourceVersion, and extracts the attributes.
///
/// # Errors
///
/// [`Malformed`] when `metadata` or a label is not of the shape.
pub fn finish(
    mut value: Value,
    revision: Revision,
    fields: &[SelectableField],
    media_type: MediaType,
) -> Result<Normalized, Malformed> {
    let attributes = attributes_of(&value, fields)?;
    let object = value
        .as_object_mut()
        .ok_or_else(|| Malformed("expected an object".into()))?;
    strip_server_fields(object);
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let metadata = metadata
        .as_object_mut()
        .ok_or_else(|| Malformed("metadata: expected an object".into()))?;
    metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    let mut json = Vec::new();
    let at = codec::json::write_object_with_revision(&value, &mut json)
        .ok_or_else(|| Malformed("metadata: expected an object".into()))?;
    // The bytes are kept, for long perhaps; room to grow would be kept with them.
    json.shrink_to_fit();
    Ok(Normalized::new(json.into(), at, attributes, media_type))
}

/// Reads name, namespace, uid, labels and the selectable fields of a decoded object.
///
/// # Errors
///
/// [`Malformed`] naming the field when something is not of the shape.
pub fn attributes_of(object: &Value, fields: &[SelectableField]) -> Result<Attributes, Malformed> {
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => &Value::Null,
        Some(metadata @ Value::Object(_)) => metadata,
        Some(_) => return Err(Malformed("metadata: expected an object".into())),
    };
    let text = |name: &str| match metadata.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(Malformed(format!("metadata.{name}: expected a string"))),
    };
    let labels = match metadata.get("labels") {
        None | Some(Value::Null) => Labels::default(),
        Some(Value::Object(labels)) => labels
            .iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key.as_str(), value.as_str())),
                Value::Null => Ok((key.as_str(), "")),
                _ => Err(Malformed(format!("metadata.labels[{key:?}]: expected a string"))),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Malformed("metadata.labels: expected an object".into())),
    };
    let fields = fields.iter().map(|field| {
        let found = field
            .path
            .iter()
            .try_fold(object, |value, name| value.get(name.as_str()));
        let text = match found {
            None | Some(Value::Null) => field.default.to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(Malformed(format!("{}: expected a scalar", field.label)));
            }
        };
        Ok((std::sync::Arc::clone(&field.label), text))
    });
    Ok(Attributes {
        name: text("name")?.into(),
        namespace: text("namespace")?.into(),
        uid: text("uid")?.into(),
        labels,
        fields: fields.collect::<Result<Fields, Malformed>>()?,
        deleting: !matches!(metadata.get("deletionTimestamp"), None | Some(Value::Null)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gvk() -> GroupVersionKind {
        GroupVersionKind::new("example.com", "v1", "Widget")
    }

    fn fields() -> Vec<SelectableField> {
        vec![
            SelectableField::new("spec.color"),
            SelectableField::with_path("size", ["spec".to_owned(), "size".to_owned()], "0"),
            SelectableField::new("status"),
        ]
    }

    /// Whether a value is served without being decoded; in any case as the decoder would have it.
    #[track_caller]
    fn is_verified(stored: &[u8]) -> bool {
        let normalizer = JsonNormalizer::new(gvk());
        let verified = normalizer.verify(stored, Revision::MIN, &fields());
        let text = String::from_utf8_lossy(stored);
        if let Some(verified) = &verified {
            let decoded = normalizer.rewrite(stored, Revision::MIN, &fields());
            let decoded = decoded.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(verified.json, decoded.json, "{text}");
            assert_eq!(verified.resource_version, decoded.resource_version, "{text}");
            assert_eq!(verified.attributes, decoded.attributes, "{text}");
        }
        verified.is_some()
    }

    // covers: storage-api/VER-09, storage-api/VER-12
    #[test]
    fn values_in_the_stored_form_are_served_without_being_decoded() {
        const HEAD: &str = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":"#;
        for metadata in [
            "{}",
            r#"{"name":"a"}"#,
            r#"{"labels":{"a":"1","b":""},"name":"a","namespace":"ns","uid":"u"}"#,
            r#"{"deletionTimestamp":"x","labels":null,"name":null}"#,
            r#"{"uid":"u","zzz":[{"a":[]},{}]}"#,
        ] {
            for rest in [
                "",
                r#","spec":{"color":"red","size":12}"#,
                r#","spec":{"color":null,"size":true}"#,
                r#","spec":[1,-1,0,1.5,1e+21,9223372036854775807,-0.5]"#,
                r#","spec":{"size":-7,"text":"\u003ca\u003e\u0026\u2028\n\u0001é€\\\""},"status":"x""#,
                r#","status":false"#,
            ] {
                let stored = format!("{HEAD}{metadata}{rest}}}\n");
                assert!(is_verified(stored.as_bytes()), "{stored}");
            }
        }
    }

    #[test]
    fn an_object_is_stored_alike_whatever_it_came_with() {
        let normalizer = JsonNormalizer::new(gvk());
        for revision in [1, 999_999, u64::MAX >> 1] {
            let revision = Revision::new(revision).expect("not zero");
            for version in ["", "0", "7", "123456789012345678901234567890"] {
                for (before, behind) in [
                    ("", ""),
                    (r#""name":"a""#, ""),
                    ("", r#""uid":"u""#),
                    (r#""name":"a""#, r#""uid":"u""#),
                ] {
                    let member = format!(r#""resourceVersion":"{version}""#);
                    for members in [vec![before, behind], vec![before, member.as_str(), behind]] {
                        let members: Vec<_> = members.into_iter().filter(|member| !member.is_empty()).collect();
                        let head = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"#;
                        let object = format!("{head}{}}},\"spec\":{{\"x\":1}}}}", members.join(","));
                        let decoded = normalizer.encode_value(&Encoded::from_json(object.clone()), MediaType::Json);
                        let want = decoded.expect("an object");
                        // Once more, when it is like the last one.
                        for end in ["", "\n", "\n", " "] {
                            let given = Encoded::from_json(format!("{object}{end}"));
                            let both = normalizer.encode_and_normalize(&given, MediaType::Json, revision, &fields());
                            let (stored, served) = both.expect("an object");
                            assert_eq!(stored, want, "{object:?}{end:?}");
                            let read = normalizer.rewrite(&want, revision, &fields()).expect("an object");
                            assert_eq!(
                                (served.json, served.resource_version),
                                (read.json, read.resource_version)
                            );
                            let is_stored = end == "\n" && !object.contains("resourceVersion");
                            assert_eq!(stored.as_ptr() == given.json().as_ptr(), is_stored, "{object:?}{end:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_other_form_is_left_to_the_decoder() {
        let good = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"x":1}}"#;
        assert!(is_verified(format!("{good}\n").as_bytes()));
        for (part, other) in [
            ("}}", "}}\n\n"),
            ("}}", "}} "),
            ("{\"x\"", "{ \"x\""),
            ("example.com/v1", "example.com/v2"),
            ("example.com/v1", "v1"),
            ("Widget", "Gadget"),
            ("\"Widget\"", "1"),
            ("{\"name\":\"a\"}", "null"),
            ("{\"name\":\"a\"}", "{\"name\":1}"),
            ("{\"name\":\"a\"}", "{\"selfLink\":\"a\"}"),
            ("{\"name\":\"a\"}", "{\"labels\":{\"a\":1}}"),
            ("{\"x\":1}", "{\"x\":1,\"a\":1}"),
            ("{\"x\":1}", "{\"x\":1,\"x\":1}"),
            ("{\"x\":1}", "{\"color\":{}}"),
            ("{\"x\":1}", "{\"color\":1.5}"),
            ("1}}", "01}}"),
            ("1}}", "-0}}"),
            ("1}}", "1.0}}"),
            ("1}}", "1e3}}"),
            ("1}}", "-}}"),
            ("1}}", "12345678901234567890}}"),
            ("1}}", "\"<\"}}"),
            ("1}}", "\"\\u003C\"}}"),
            ("1}}", "\"\\u0041\"}}"),
            ("1}}", "\"\\u000a\"}}"),
            ("1}}", "\"\\/\"}}"),
            ("1}}", "\"\u{2028}\"}}"),
            ("1}}", "\"\t\"}}"),
            ("1}}", "nul}}"),
            ("1}}", "1}"),
            ("1}}", "[1,]}}"),
            ("1}}", "[1 ,2]}}"),
        ] {
            let stored = format!("{}\n", good.replace(part, other));
            assert!(!is_verified(stored.as_bytes()), "{stored}");
        }
        assert!(!is_verified(b"") && !is_verified(b"{\"apiVersion\":\"\xff\"}\n"));
        let deep = format!(r#""spec":{}1{}"#, "[".repeat(120), "]".repeat(120));
        let deep = format!("{}\n", good.replace(r#""spec":{"x":1}"#, &deep));
        assert!(!is_verified(deep.as_bytes()));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z<\"\\\\é\u{2028}\n\u{1}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-eX<\"\\\\\u{0}\u{1}\u{e9}\u{2028}]{1,3}|color|size", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_served_as_the_decoder_has_it(
            spec in value(),
            status in value(),
            labels in proptest::collection::btree_map("[a-c]{1,2}", "[a-c]{0,2}", 0..3),
            cut in 0..400_usize,
            byte in any::<u8>(),
        ) {
            let object = serde_json::json!({
                "apiVersion": "example.com/v1",
                "kind": "Widget",
                "metadata": {"labels": labels, "name": "a"},
                "spec": spec,
                "status": status,
            });
            let stored = encode_untyped(&object, MediaType::Json).unwrap().to_vec();
            is_verified(&stored);
            // Whatever is wrong with a value, it is never served as something else.
            let mut damaged = stored.clone();
            let at = cut % damaged.len();
            damaged[at] = byte;
            is_verified(&damaged);
            damaged.truncate(at);
            is_verified(&damaged);
        }
    }
}
