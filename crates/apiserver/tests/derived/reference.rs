//! Forms made of a plain answer in one piece, by what the crate of the kinds offers to everybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};

use apiserver::resources::crd::CustomKind;
use apiserver::resources::table::{self, IncludeObject, TablePrinter};
use apiserver::resources::types::{Gvk, TypeRegistry};
use apiserver::resources::wire::protobuf;
use apiserver::storage::api::codec::json::to_vec;
use apiserver::storage::api::time::{Clock, SystemClock};

/// A clock whose wall time stands still, so that ages do; sleeps end as always.
#[derive(Debug)]
pub(crate) struct StoppedClock(Arc<dyn Clock>);

impl StoppedClock {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(SystemClock::shared()))
    }
}

/// Later than everything that was recorded.
const NOW: Duration = Duration::from_secs(1_800_000_000);

impl Clock for StoppedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

/// A kind, as far as forms depend on it.
pub(crate) struct Kind {
    printer: TablePrinter,
    builtin: bool,
    namespaced: bool,
}

impl Kind {
    pub(crate) fn builtin(group: &str, version: &str, plural: &str) -> Option<Self> {
        let entry = TypeRegistry::builtin().resource(group, version, plural)?;
        Some(Self {
            printer: TablePrinter::builtin(entry),
            builtin: true,
            namespaced: entry.namespaced,
        })
    }

    pub(crate) fn custom(definition: &Value, version: &str) -> Self {
        let kind = CustomKind::parse(definition).expect("a sound definition");
        let version = kind
            .versions
            .iter()
            .find(|own| own.name == version)
            .expect("the version");
        Self {
            printer: TablePrinter::custom(version).unwrap_or_default(),
            builtin: false,
            namespaced: definition["spec"]["scope"] == "Namespaced",
        }
    }

    pub(crate) fn is_namespaced(&self) -> bool {
        self.namespaced
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Plain,
    Table(&'static str, IncludeObject),
    Metadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Json,
    Protobuf,
    Yaml,
}

/// A form that a client asks for.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) accept: &'static str,
    include: &'static str,
    format: Format,
    shape: Shape,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// All of them.
pub(crate) fn forms() -> Vec<Form> {
    let form = |accept, include, format, shape| Form {
        accept,
        include,
        format,
        shape,
    };
    let table = |include, shape| {
        form(
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            include,
            Format::Json,
            shape,
        )
    };
    vec![
        form("application/json", "", Format::Json, Shape::Plain),
        form(PROTOBUF, "", Format::Protobuf, Shape::Plain),
        form("application/yaml", "", Format::Yaml, Shape::Plain),
        table("", Shape::Table("v1", IncludeObject::Metadata)),
        table("None", Shape::Table("v1", IncludeObject::None)),
        table("Object", Shape::Table("v1", IncludeObject::Object)),
        form(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
            "Metadata",
            Format::Json,
            Shape::Table("v1beta1", IncludeObject::Metadata),
        ),
        form(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "",
            Format::Json,
            Shape::Metadata("v1"),
        ),
        form(
            "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
            "",
            Format::Json,
            Shape::Metadata("v1beta1"),
        ),
        form(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "",
            Format::Protobuf,
            Shape::Metadata("v1"),
        ),
    ]
}

impl Form {
    pub(crate) fn target(&self, target: &str) -> String {
        match self.include {
            "" => target.to_owned(),
            include => format!(
                "{target}{}includeObject={include}",
                if target.contains('?') { '&' } else { '?' }
            ),
        }
    }

    pub(crate) fn is_yaml(&self) -> bool {
        self.format == Format::Yaml
    }

    pub(crate) fn is_plain_json(&self) -> bool {
        self.format == Format::Json && matches!(self.shape, Shape::Plain)
    }

    /// What a client accepts who asks for one object in this form.
    pub(crate) fn accept_one(&self) -> String {
        self.accept.replace("MetadataList", "Metadata")
    }

    pub(crate) fn media_type(&self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Protobuf => PROTOBUF,
            Format::Yaml => "application/yaml",
        }
    }

    pub(crate) fn watch_type(&self) -> &'static str {
        match self.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        }
    }

    fn document(&self, kind: &Kind, value: &Value) -> Option<Vec<u8>> {
        let text = |name: &str| value[name].as_str().unwrap_or_default();
        Some(match self.format {
            Format::Json => [to_vec(value), b"\n".to_vec()].concat(),
            Format::Protobuf if kind.builtin || matches!(self.shape, Shape::Metadata(_)) => {
                protobuf::encode(Gvk::of(text("apiVersion"), text("kind")), value).expect("a message")
            }
            Format::Protobuf => return None,
            Format::Yaml => serde_saphyr::to_string(value).expect("YAML").into_bytes(),
        })
    }

    fn row(&self, kind: &Kind, object: &Value, version: &str, include: IncludeObject) -> Value {
        let now = Timestamp::from_second(i64::try_from(NOW.as_secs()).expect("a time")).expect("a time");
        table::row(kind.printer.cells(object, now), object, include, version)
    }

    /// A list in this form; `None` where the kind has none.
    pub(crate) fn list(&self, kind: &Kind, list: &Value, plain: &[u8]) -> Option<Vec<u8>> {
        let items = list["items"].as_array().expect("items");
        let metadata = list["metadata"].clone();
        match self.shape {
            Shape::Plain if self.format == Format::Json => Some(plain.to_vec()),
            Shape::Plain => self.document(kind, list),
            Shape::Table(version, include) => {
                let rows = items
                    .iter()
                    .map(|item| self.row(kind, item, version, include))
                    .collect();
                let table = table::table(version, metadata, Some(kind.printer.columns()), rows);
                self.document(kind, &table)
            }
            Shape::Metadata(version) => {
                let list = table::partial_object_metadata_list(metadata, items, version);
                self.document(kind, &list)
            }
        }
    }

    /// What is shown of an object, alone or as the `at`th event of a watch.
    fn shown(&self, kind: &Kind, object: &Value, columns: bool) -> Value {
        match self.shape {
            Shape::Plain => object.clone(),
            Shape::Table(version, include) => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let columns = columns.then(|| kind.printer.columns());
                table::table(
                    version,
                    metadata,
                    columns,
                    vec![self.row(kind, object, version, include)],
                )
            }
            Shape::Metadata(version) => table::partial_object_metadata(object, version),
        }
    }

    /// An object in this form, where a client may ask for a single one so.
    pub(crate) fn object(&self, kind: &Kind, object: &Value) -> Option<Vec<u8>> {
        self.document(kind, &self.shown(kind, object, true))
    }

    /// A watch that shows these objects and ends.
    pub(crate) fn initial(&self, kind: &Kind, objects: &[Value]) -> Option<Vec<u8>> {
        let mut frames = Vec::new();
        for (at, object) in objects.iter().enumerate() {
            let shown = self.shown(kind, object, at == 0);
            let document = self.document(kind, &shown)?;
            match self.format {
                Format::Yaml => return None,
                Format::Json => {
                    frames.extend_from_slice(b"{\"type\":\"ADDED\",\"object\":");
                    frames.extend_from_slice(document.trim_ascii_end());
                    frames.extend_from_slice(b"}\n");
                }
                Format::Protobuf => {
                    let event = protobuf::encode_watch_event("ADDED", &document);
                    frames.extend_from_slice(&u32::try_from(event.len()).expect("it is short").to_be_bytes());
                    frames.extend_from_slice(&event);
                }
            }
        }
        Some(frames)
    }
}

/// Type and envelope of an event, by a reader of its own.
pub(crate) fn event(event: &[u8]) -> (String, Vec<u8>) {
    fn field(bytes: &[u8], number: u8) -> (&[u8], &[u8]) {
        assert_eq!(bytes[0], number << 3 | 2);
        let (mut length, mut at, mut shift) = (0, 1, 0);
        loop {
            let byte = bytes[at];
            length |= usize::from(byte & 0x7f) << shift;
            (at, shift) = (at + 1, shift + 7);
            if byte < 0x80 {
                return bytes[at..].split_at(length);
            }
        }
    }
    let (kind, rest) = field(event, 1);
    let (object, rest) = field(rest, 2);
    let (raw, nothing) = field(object, 1);
    assert!(rest.is_empty() && nothing.is_empty());
    (String::from_utf8_lossy(kind).into_owned(), raw.to_vec())
}
