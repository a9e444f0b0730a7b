//! From stored bytes of built-in kinds to served ones and back: the [`Normalizer`] that storage asks.
//!
//! What this server or Go's wrote is nearly always canonical and complete. A scan finds that out without decoding, and
//! the stored text is served with the resource version put in. Where the scan can tell what is missing (defaults of
//! today in what an older server or a client library stored), that is put in, too. Any other value is decoded and
//! written anew.
//!
//! Reading takes what a cluster may hold: our own canonical JSON, JSON in any other layout, protobuf, CBOR, and other
//! versions of the kind. The result is canonical, has today's defaults and the resource version in. What is none of it
//! is [`Malformed`], with a reason that names fields and kinds and shows no content.
//!
//! ```
//! use apiserver_resources::{normalizer::resource_info, types::TypeRegistry};
//! use apiserver_storage_api::Revision;
//!
//! let entry = TypeRegistry::builtin().resource("", "v1", "secrets").expect("secrets are built in");
//! let secrets = resource_info(entry);
//! let stored = br#"{"metadata": {"name": "a"}, "apiVersion": "v1", "kind": "Secret"}"#;
//! let revision = Revision::new(7).expect("not zero");
//! let read = secrets.normalizer().normalize(stored, revision, secrets.selectable_fields())?;
//! assert_eq!(
//!     String::from_utf8_lossy(&read.json),
//!     r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"7"},"type":"Opaque"}"#
//! );
//! assert_eq!(read.attributes.fields.get("type"), Some("Opaque"));
//! # Ok::<(), apiserver_storage_api::Malformed>(())
//! ```
//!
//! Upstream: kubernetes pkg/registry (storage_factory.go for the storage versions, each resource's strategy.go).

mod canonical;
mod cursor;
mod edits;
mod missing;
mod plan;
mod scan;

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use apiserver_storage_api::codec::cbor;
use apiserver_storage_api::{
    Attributes, Encoded, Malformed, MediaType, Normalized, Normalizer, ResourceInfo, ResourcePrefix, ResourceScope,
    Revision, Room, Seen, SelectableField, Shapes, attributes_of,
};
use bytes::Bytes;
use serde_json::Value;

use self::scan::{Comma, Incomplete, Kind, Scanned, learn, scan};
use crate::convert;
use crate::defaults::apply_type_defaults;
use crate::selectable::{EVENT_REPORTER, EVENT_SOURCE, selectable_fields};
use crate::types::{Gvk, ResourceEntry, Type, TypeId, TypeRegistry};
use crate::wire::{self, WireError, protobuf};

/// Raised with each change of the data or the rules that changes what is served for the same stored bytes.
const GENERATION: u64 = 1;

thread_local! {
    /// The last shapes of kinds.
    static SHAPES: RefCell<Shapes<TypeId, Kind>> = RefCell::default();
}

/// The normalizer of one built-in kind.
#[derive(Clone, Copy, Debug)]
pub struct BuiltinNormalizer {
    /// What entries are.
    served: Gvk<'static>,
    /// What is written.
    stored: Gvk<'static>,
    served_type: &'static Type,
}

impl BuiltinNormalizer {
    /// The normalizer of a kind in any of its versions; `None` for a kind that is not built in.
    ///
    /// Entries are in the version that the kind is stored in, with one exception: custom resource definitions are
    /// stored in a version that nobody is served, so entries are in the served one.
    #[must_use]
    pub fn of(gvk: Gvk<'_>) -> Option<Self> {
        let (served, stored) = match (gvk.group, gvk.kind) {
            ("events.k8s.io", "Event") => (Gvk::new("", "v1", "Event"), Gvk::new("", "v1", "Event")),
            ("autoscaling", "HorizontalPodAutoscaler") => {
                let v2 = Gvk::new("autoscaling", "v2", "HorizontalPodAutoscaler");
                (v2, v2)
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => (
                Gvk::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
                Gvk::new("apiextensions.k8s.io", "v1beta1", "CustomResourceDefinition"),
            ),
            _ => {
                let own = TypeRegistry::builtin().by_gvk(gvk)?.kind.filter(|own| *own == gvk)?;
                (own, own)
            }
        };
        Some(Self {
            served,
            stored,
            served_type: TypeRegistry::builtin().by_gvk(served)?,
        })
    }

    /// Group, version and kind of the entries.
    #[must_use]
    pub fn served(&self) -> Gvk<'static> {
        self.served
    }

    /// Group, version and kind of what is written.
    #[must_use]
    pub fn stored(&self) -> Gvk<'static> {
        self.stored
    }

    /// The object behind stored bytes, in the served version, with its defaults.
    fn read(&self, stored: &[u8], media_type: MediaType) -> Result<Value, Malformed> {
        let object = match media_type {
            MediaType::Protobuf => protobuf::decode(stored).map_err(malformed)?,
            MediaType::Cbor => cbor::from_slice(stored)?,
            _ => read_json(stored)?,
        };
        let mut object = self.in_version(object, self.served)?;
        apply_type_defaults(self.served_type, &mut object);
        Ok(object)
    }

    /// Makes sure that this is an object of the kind, and brings it to a version. What says nothing of its kind is of
    /// this one: servers before this one wrote such values and read them so.
    fn in_version(&self, mut object: Value, version: Gvk<'_>) -> Result<Value, Malformed> {
        if object.is_null() {
            object = Value::Object(serde_json::Map::new());
        }
        let Value::Object(members) = &mut object else {
            return Err(Malformed("expected an object".into()));
        };
        let text = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(Malformed(format!("{name}: expected a string"))),
        };
        let (api_version, kind) = (text("apiVersion")?, text("kind")?);
        if api_version.is_empty() && kind.is_empty() {
            members.insert("kind".into(), version.kind.into());
            members.insert("apiVersion".into(), version.api_version().into());
            return Ok(object);
        }
        let found = Gvk::of(api_version, kind);
        if found == version {
            return Ok(object);
        }
        if convert::is_convertible(found, version) {
            return convert::convert(object, version).map_err(|error| Malformed(error.to_string()));
        }
        if TypeRegistry::builtin().by_gvk(found).is_none() {
            return Err(malformed(WireError::UnknownKind {
                api_version: api_version.into(),
                kind: kind.into(),
            }));
        }
        Err(Malformed(format!("expected {version}, found {found}")))
    }

    fn attributes(&self, object: &Value, fields: &[SelectableField]) -> Result<Attributes, Malformed> {
        let attributes = attributes_of(object, fields)?;
        let reporter = object.get("reportingComponent").and_then(Value::as_str);
        Ok(self.with_source(attributes, fields, reporter.unwrap_or_default()))
    }

    /// The source of an event without one is the component that reported it.
    fn with_source(&self, mut attributes: Attributes, fields: &[SelectableField], reporter: &str) -> Attributes {
        let has_no_source = attributes.fields.get(EVENT_SOURCE).is_some_and(str::is_empty);
        if self.served.kind == "Event" && has_no_source && !reporter.is_empty() {
            attributes.fields = fields
                .iter()
                .filter_map(|field| {
                    let own = attributes.fields.get(&field.label)?;
                    let value = if &*field.label == EVENT_SOURCE { reporter } else { own };
                    Some((Arc::clone(&field.label), value.to_owned()))
                })
                .collect();
        }
        attributes
    }

    /// As [`verify`](Self::verify), at less cost for a value like the last one.
    fn compare(
        &self,
        stored: &[u8],
        revision: Revision,
        fields: &[SelectableField],
        room: &mut Room,
    ) -> Option<Normalized> {
        // Events may have a source that stands in another field.
        if self.served != self.stored || self.served.kind == "Event" {
            return self.verify(stored, revision, fields);
        }
        let id = self.served_type.id;
        let mut served = None;
        match SHAPES.with_borrow_mut(|shapes| shapes.serve(id, stored, revision, fields, room, &mut served)) {
            Seen::Served => served,
            Seen::Ignored => self.verify(stored, revision, fields),
            Seen::Strange => {
                let verified = self.verify(stored, revision, fields);
                let learned = verified.as_ref();
                let shape = learned.and_then(|_| learn(self.served_type, self.served, stored, fields));
                SHAPES.with_borrow_mut(|shapes| shapes.keep(id, fields, shape));
                verified
            }
        }
    }

    /// The served form of a value that is canonical and complete as stored; `None` for any other.
    fn verify(&self, stored: &[u8], revision: Revision, fields: &[SelectableField]) -> Option<Normalized> {
        if self.served != self.stored {
            return None;
        }
        let scanned = scan(self.served_type, self.served, stored, fields, Incomplete::Edited)?;
        if !scanned.has_newline || scanned.revision.is_some() {
            return None;
        }
        self.serve(stored, scanned, revision, fields)
    }

    /// The served form of a scanned value, stored or served.
    fn serve(
        &self,
        text: &[u8],
        scanned: Scanned,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Option<Normalized> {
        let Scanned {
            place,
            comma,
            end,
            revision: own_revision,
            attributes,
            edits,
            ..
        } = scanned;
        let is_event = self.served.kind == "Event";
        let reporter = attributes
            .fields
            .get(EVENT_REPORTER)
            .filter(|_| is_event)
            .map(str::to_owned);
        let wants_source = is_event && attributes.fields.get(EVENT_SOURCE).is_some();
        if wants_source && reporter.is_none() {
            return None;
        }
        let attributes = self.with_source(attributes, fields, reporter.as_deref().unwrap_or_default());
        let mut buffer = [0; 20];
        let digits = revision.digits(&mut buffer);
        let (json, start) = match own_revision {
            // A version that is there gives its place to the new one.
            Some(own) => {
                let own = own_digits(text, own)?;
                let mut json = Vec::with_capacity(end.checked_sub(own.len())? + digits.len());
                json.extend_from_slice(text.get(..own.start)?);
                json.extend_from_slice(digits);
                json.extend_from_slice(text.get(own.end..end)?);
                (json, own.start)
            }
            None => {
                let lead: &[u8] = match comma {
                    Comma::Before => b",\"resourceVersion\":\"",
                    Comma::None | Comma::After => b"\"resourceVersion\":\"",
                };
                let tail: &[u8] = if comma == Comma::After { b"\"," } else { b"\"" };
                let (json, begin) = edits.apply(text, end, place, &[lead, digits, tail])?;
                (json, begin + lead.len())
            }
        };
        let at = start..start + digits.len();
        Some(Normalized::new(json.into(), at, attributes, MediaType::Json))
    }

    /// The stored form of an object that is canonical and complete as it came, stored or served; `None` for any other.
    fn keep(&self, object: &Bytes) -> Option<Bytes> {
        if self.served != self.stored {
            return None;
        }
        let scanned = scan(self.served_type, self.served, object, &[], Incomplete::Left)?;
        strip(object, &scanned)
    }

    /// As [`keep`](Self::keep), with the served form, of one scan.
    fn keep_and_serve(
        &self,
        object: &Bytes,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Option<(Bytes, Normalized)> {
        if self.served != self.stored {
            return None;
        }
        let scanned = scan(self.served_type, self.served, object, fields, Incomplete::Left)?;
        let stored = strip(object, &scanned)?;
        Some((stored, self.serve(object, scanned, revision, fields)?))
    }

    /// Decodes a value and writes it anew.
    fn rewrite(&self, stored: &[u8], revision: Revision, fields: &[SelectableField]) -> Result<Normalized, Malformed> {
        let media_type = MediaType::detect(stored);
        let object = self.read(stored, media_type)?;
        let attributes = self.attributes(&object, fields)?;
        let (mut json, at) =
            wire::encode_with_revision(self.served, &object, &revision.to_string()).map_err(malformed)?;
        // It is kept as long as the object lives, and the room it grew into would be kept with it.
        json.shrink_to_fit();
        Ok(Normalized::new(json.into(), at, attributes, media_type))
    }

    /// Definitions and API services are JSON whatever was asked for: servers read them before they know more.
    fn media_type(&self, wanted: MediaType) -> MediaType {
        match self.stored.group {
            "apiextensions.k8s.io" | "apiregistration.k8s.io" => MediaType::Json,
            _ => wanted,
        }
    }
}

impl Normalizer for BuiltinNormalizer {
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
        let media_type = self.media_type(media_type);
        if media_type == MediaType::Json
            && let Some(stored) = self.keep(object.json())
        {
            return Ok(stored);
        }
        let object = self.in_version(read_json(object.json())?, self.stored)?;
        let stored = match media_type {
            MediaType::Json => wire::encode_stored(self.stored, &object).map_err(malformed)?,
            MediaType::Protobuf => protobuf::encode_stored(self.stored, &object).map_err(malformed)?,
            MediaType::Cbor => {
                let json = wire::encode_stored(self.stored, &object).map_err(malformed)?;
                cbor::to_vec(&read_json(&json)?)
            }
            other => return Err(Malformed(format!("cannot store {} as {other}", self.stored.kind))),
        };
        Ok(stored.into())
    }

    fn encode_and_normalize(
        &self,
        object: &Encoded,
        media_type: MediaType,
        revision: Revision,
        fields: &[SelectableField],
    ) -> Result<(Bytes, Normalized), Malformed> {
        if self.media_type(media_type) == MediaType::Json
            && let Some(prepared) = self.keep_and_serve(object.json(), revision, fields)
        {
            return Ok(prepared);
        }
        let stored = self.encode(object, media_type)?;
        let normalized = self.normalize(&stored, revision, fields)?;
        Ok((stored, normalized))
    }

    fn generation(&self) -> u64 {
        GENERATION
    }
}

/// The stored form of a scanned object: without its resource version, with the final newline.
fn strip(object: &Bytes, scanned: &Scanned) -> Option<Bytes> {
    if scanned.has_self_link {
        return None;
    }
    if scanned.has_newline && scanned.revision.is_none() {
        return Some(object.clone());
    }
    let end = scanned.end;
    let cut = scanned.revision.clone().unwrap_or(end..end);
    let mut stored = Vec::with_capacity(end - cut.len() + 1);
    stored.extend_from_slice(object.get(..cut.start)?);
    stored.extend_from_slice(object.get(cut.end..end)?);
    stored.push(b'\n');
    Some(stored.into())
}

/// Where the text of a resource version stands, which a scan has found with its name and comma.
fn own_digits(text: &[u8], own: Range<usize>) -> Option<Range<usize>> {
    const NAME: &[u8] = b"\"resourceVersion\":\"";
    let member = text.get(own.clone())?;
    let before = usize::from(member.first() == Some(&b','));
    let value = member.get(before..)?.strip_prefix(NAME)?;
    let start = own.start + before + NAME.len();
    let length = value.iter().position(|byte| *byte == b'"')?;
    Some(start..start + length)
}

/// Reads JSON as Go does: nothing at all is null, and bytes that are no UTF-8 are replaced one by one.
fn read_json(stored: &[u8]) -> Result<Value, Malformed> {
    if stored.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let text: Cow<'_, [u8]> = match std::str::from_utf8(stored) {
        Ok(_) => stored.into(),
        Err(_) => {
            let mut text = String::with_capacity(stored.len() + 16);
            for chunk in stored.utf8_chunks() {
                text.push_str(chunk.valid());
                text.extend(std::iter::repeat_n('\u{fffd}', chunk.invalid().len()));
            }
            text.into_bytes().into()
        }
    };
    wire::read_merged(&text).map_err(malformed)
}

fn malformed(error: WireError) -> Malformed {
    Malformed(error.to_string())
}

/// What storage must know of a built-in resource: keys, fields, normalizer. The kind is the one of the entries.
///
/// Both event APIs and both versions of autoscalers have one store each, so they get equal values here.
#[must_use]
pub fn resource_info(entry: &ResourceEntry) -> ResourceInfo {
    let scope = if entry.namespaced {
        ResourceScope::Namespaced
    } else {
        ResourceScope::Cluster
    };
    let normalizer = BuiltinNormalizer::of(entry.gvk());
    let served = normalizer.map_or(entry.gvk(), |normalizer| normalizer.served());
    let info = ResourceInfo::new(served.group, served.version, &entry.resource, served.kind, scope)
        .with_selectable_fields(selectable_fields(served.group, &entry.resource));
    let info = match ResourcePrefix::new(&prefix(served.group, &entry.resource)) {
        Ok(prefix) => info.with_prefix(prefix),
        Err(_) => info,
    };
    match normalizer {
        Some(normalizer) => info.with_normalizer(Arc::new(normalizer)),
        None => info,
    }
}

/// Where the keys of a built-in resource lie. The group is in them for two groups only.
fn prefix(group: &str, resource: &str) -> String {
    match (group, resource) {
        ("", "nodes") => "/minions/".to_owned(),
        ("", "replicationcontrollers") => "/controllers/".to_owned(),
        ("", "services") => "/services/specs/".to_owned(),
        ("", "endpoints") => "/services/endpoints/".to_owned(),
        ("networking.k8s.io", "ingresses") => "/ingress/".to_owned(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => format!("/{group}/{resource}/"),
        _ => format!("/{resource}/"),
    }
}

#[cfg(test)]
mod tests;
