//! What clients are shown of an entry, in each form: made once for a record, found by it, and shared by lists and watches.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::Value;

use apiserver_registry::ApiError;
use apiserver_resources::table::{self, IncludeObject, Part, WrittenRow, write_age};
use apiserver_resources::wire::protobuf;
use apiserver_storage_api::{BoxError, Entry, FormKey, Forms};

use crate::http::gzip::{Compressor, Document, Segment};
use crate::http::negotiate::{Format, Representation, Shape};
use crate::kinds::model::Model;

/// Pieces of a row that are shorter are not worth compressing by themselves.
const WORTH_COMPRESSING: usize = 96;

/// What is shown of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The object.
    Json,
    /// The object's message, without an envelope.
    Protobuf,
    /// `PartialObjectMetadata` in this version.
    Metadata(&'static str),
    /// The message of the metadata alone; it is the same in all versions.
    MetadataProtobuf,
    /// A row of a Table of this version.
    Row(&'static str, IncludeObject),
}

impl View {
    pub(crate) fn of(representation: Representation, include: IncludeObject) -> Self {
        let protobuf = representation.format == Format::Protobuf;
        match representation.shape {
            Shape::Plain if protobuf => Self::Protobuf,
            Shape::Plain => Self::Json,
            Shape::Table(version) => Self::Row(version, include),
            Shape::Metadata(_) | Shape::MetadataList(_) if protobuf => Self::MetadataProtobuf,
            Shape::Metadata(version) | Shape::MetadataList(version) => Self::Metadata(version),
        }
    }

    pub(crate) fn is_protobuf(self) -> bool {
        matches!(self, Self::Protobuf | Self::MetadataProtobuf)
    }

    /// The name of the form, plain and compressed.
    fn form(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("served", "served gzip"),
            Self::Protobuf => ("protobuf", "protobuf gzip"),
            Self::Metadata("v1") => ("metadata v1", "metadata v1 gzip"),
            Self::Metadata(_) => ("metadata v1beta1", "metadata v1beta1 gzip"),
            Self::MetadataProtobuf => ("metadata protobuf", "metadata protobuf gzip"),
            Self::Row(_, IncludeObject::None) => ("row", "row gzip"),
            Self::Row("v1", IncludeObject::Metadata) => ("row metadata v1", "row metadata v1 gzip"),
            Self::Row(_, IncludeObject::Metadata) => ("row metadata v1beta1", "row metadata v1beta1 gzip"),
            Self::Row(_, IncludeObject::Object) => ("row object", "row object gzip"),
        }
    }
}

/// Shows entries of one kind in one view.
#[derive(Clone)]
pub(crate) struct Derived {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) forms: Arc<Forms>,
    pub(crate) view: View,
}

/// An entry as it is shown.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    Bytes(Bytes),
    Row(WrittenRow),
}

impl Shown {
    /// The bytes that it takes, durations apart.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Row(row) => row.text_len(),
        }
    }
}

/// An entry as it is shown, ready for a gzip document.
#[derive(Clone)]
pub(crate) enum Zipped {
    Whole(Segment),
    Row(Arc<[ZippedPart]>),
}

pub(crate) enum ZippedPart {
    Segment(Segment),
    Stored(Bytes),
    Age(i64),
}

impl Zipped {
    fn weight(&self) -> usize {
        match self {
            Self::Whole(segment) => segment.weight(),
            Self::Row(parts) => {
                let heap = parts.iter().map(|part| match part {
                    ZippedPart::Segment(segment) => segment.weight(),
                    ZippedPart::Stored(bytes) => bytes.len(),
                    ZippedPart::Age(_) => 0,
                });
                size_of_val(&**parts) + heap.sum::<usize>()
            }
        }
    }

    /// Adds it to a document.
    pub(crate) fn write(&self, now: Timestamp, document: &mut Document, out: &mut BytesMut) {
        match self {
            Self::Whole(segment) => document.segment(segment, out),
            Self::Row(parts) => {
                for part in &**parts {
                    match part {
                        ZippedPart::Segment(segment) => document.segment(segment, out),
                        ZippedPart::Stored(bytes) => document.stored(bytes, out),
                        ZippedPart::Age(at) => {
                            let mut age = Vec::with_capacity(24);
                            write_age(*at, now, &mut age);
                            document.stored(&age, out);
                        }
                    }
                }
            }
        }
    }
}

impl Derived {
    /// The number that tells this form from those of the same name.
    fn variant(&self) -> u64 {
        match self.view {
            View::Row(..) => self.model.id(),
            View::Json | View::Protobuf => self.model.form().unwrap_or_default(),
            // Metadata is the same in all versions of a kind.
            View::Metadata(_) | View::MetadataProtobuf => 0,
        }
    }

    /// The JSON of an entry in the served version: the record's own bytes where that is the stored one.
    pub(crate) fn json(&self, entry: &Entry) -> Result<Bytes, ApiError> {
        let json = entry.json().map_err(ApiError::internal)?;
        let Some(variant) = self.model.form() else {
            return Ok(json.clone());
        };
        let (form, _) = View::Json.form();
        self.forms.get_or_make(entry, FormKey { form, variant }, || {
            let json = self.model.served(json)?;
            let weight = json.len();
            Ok((json, weight))
        })
    }

    /// What is shown of an entry. Counts what had to be made.
    ///
    /// Fails for an unreadable one, and for one that cannot be shown so.
    pub(crate) fn show(&self, entry: &Entry, made: &mut usize) -> Result<Shown, ApiError> {
        if self.view == View::Json {
            return self.json(entry).map(Shown::Bytes);
        }
        entry.json().map_err(ApiError::internal)?;
        let (form, _) = self.view.form();
        let key = FormKey {
            form,
            variant: self.variant(),
        };
        self.forms.get_or_make(entry, key, || {
            *made += 1;
            let shown = self.make(entry)?;
            let weight = match &shown {
                Shown::Bytes(bytes) => bytes.len(),
                Shown::Row(row) => row.weight(),
            };
            Ok((shown, weight))
        })
    }

    fn make(&self, entry: &Entry) -> Result<Shown, ApiError> {
        let json = self.json(entry)?;
        let object: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
        let bytes = match self.view {
            View::Json => return Ok(Shown::Bytes(json)),
            View::Row(version, include) => {
                let cells = self.model.cells(&object);
                let object = match include {
                    IncludeObject::None => Value::Null,
                    IncludeObject::Metadata => table::partial_object_metadata(&object, version),
                    IncludeObject::Object => object,
                };
                return Ok(Shown::Row(WrittenRow::new(&cells, &object)));
            }
            View::Metadata(version) => {
                apiserver_storage_api::codec::json::to_vec(&table::partial_object_metadata(&object, version))
            }
            View::MetadataProtobuf => protobuf::encode_metadata(&object).map_err(ApiError::internal)?,
            View::Protobuf => self.model.message(&object).ok_or_else(no_protobuf)?,
        };
        // What is kept takes no more room than it needs.
        Ok(Shown::Bytes(bytes.into_boxed_slice().into()))
    }

    /// What is shown of an entry, compressed; messages with what stands before them in a list. Counts what had to be made.
    pub(crate) fn zipped(
        &self,
        entry: &Entry,
        compressor: &mut Compressor,
        made: &mut usize,
    ) -> Result<Zipped, BoxError> {
        let (_, form) = self.view.form();
        let key = FormKey {
            form,
            variant: self.variant(),
        };
        self.forms.get_or_make(entry, key, || {
            *made += 1;
            let zipped = self.compress(&self.show(entry, made)?, compressor)?;
            let weight = zipped.weight();
            Ok((zipped, weight))
        })
    }

    fn compress(&self, shown: &Shown, compressor: &mut Compressor) -> Result<Zipped, BoxError> {
        let row = match shown {
            Shown::Row(row) => row,
            Shown::Bytes(bytes) if self.view.is_protobuf() => {
                let item = [protobuf::item_prefix(bytes.len()).as_slice(), bytes].concat();
                return Ok(Zipped::Whole(compressor.segment(&item)?));
            }
            Shown::Bytes(bytes) => return Ok(Zipped::Whole(compressor.segment(bytes)?)),
        };
        let parts = row.parts().map(|part| {
            Ok(match part {
                Part::Age(at) => ZippedPart::Age(at),
                Part::Text(text) if text.len() < WORTH_COMPRESSING => ZippedPart::Stored(Bytes::copy_from_slice(&text)),
                Part::Text(text) => ZippedPart::Segment(compressor.segment(&text)?),
            })
        });
        Ok(Zipped::Row(parts.collect::<Result<_, BoxError>>()?))
    }
}

pub(crate) fn no_protobuf() -> ApiError {
    ApiError::not_acceptable("object does not implement the protobuf marshalling interface")
}

/// Writes what is shown of an entry as part of JSON.
pub(crate) fn write_json(shown: &Shown, now: Timestamp, out: &mut BytesMut) {
    match shown {
        Shown::Bytes(bytes) => out.put_slice(bytes),
        Shown::Row(row) => row.write(now, out),
    }
}

/// Publishes what became of the forms.
pub(crate) fn publish(forms: &Forms) {
    metrics::counter!("apiserver_derived_forms_shared_total").absolute(forms.shared());
    metrics::counter!("apiserver_derived_forms_made_total").absolute(forms.made());
    metrics::counter!("apiserver_derived_forms_evicted_total").absolute(forms.evicted());
    #[expect(clippy::cast_precision_loss, reason = "a gauge; nobody holds so many bytes")]
    metrics::gauge!("apiserver_derived_forms_bytes").set(forms.bytes() as f64);
}
