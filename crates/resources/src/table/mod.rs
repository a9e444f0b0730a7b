//! Tables: columns and cells as `kubectl get` shows them, and the metadata-only form of objects.
//!
//! A [`TablePrinter`] knows the columns of one kind and makes the cells of an object; the age of things is taken against the `now`
//! that the caller gives. Rows and the surrounding document are put together with [`row`] and [`table`].
//!
//! All but the ages stays the same as long as the object does: [`TablePrinter::timeless_cells`] and [`WrittenRow`] are what can be
//! made once and kept.

mod builtin;
mod cell;
mod duration;
mod jsonpath;
mod written;

use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::crd::{CustomVersion, PrinterColumn};
use crate::fieldvalidation::parse_time;
use crate::types::{Column, ResourceEntry};

pub use cell::Cell;
pub use duration::human_duration;
pub use jsonpath::{JsonPath, JsonPathError};
pub use written::{Part, WrittenRow, write_age};

/// What stands in the `object` of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata alone.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// The query parameter `includeObject` has none of the known values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("includeObject: Invalid value: {0:?}: must be 'Metadata', 'Object', 'None', or empty")]
pub struct UnknownIncludeObject(pub String);

impl FromStr for IncludeObject {
    type Err = UnknownIncludeObject;

    fn from_str(text: &str) -> Result<Self, UnknownIncludeObject> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(UnknownIncludeObject(other.to_owned())),
        }
    }
}

#[derive(Debug, Clone)]
enum Source {
    /// Name and creation time, for what has no columns of its own.
    Default,
    /// A built-in kind, by group and kind.
    Builtin {
        group: String,
        kind: String,
        columns: Vec<String>,
    },
    /// A custom kind, by paths.
    Custom(Vec<(String, JsonPath)>),
}

/// Makes the cells of one kind.
#[derive(Debug, Clone)]
pub struct TablePrinter {
    columns: Vec<Value>,
    source: Source,
}

fn definition(name: &str, kind: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

const NAME_DESCRIPTION: &str =
    "Unique within the scope of the kind; chosen by the creator or generated, and never changed.";

impl Default for TablePrinter {
    fn default() -> Self {
        let created = "When the object was created, by the clock of the server.";
        Self {
            columns: vec![
                definition("Name", "string", "name", NAME_DESCRIPTION, 0),
                definition("Created At", "date", "", created, 0),
            ],
            source: Source::Default,
        }
    }
}

impl TablePrinter {
    /// The printer of a built-in resource.
    #[must_use]
    pub fn builtin(entry: &ResourceEntry) -> Self {
        if entry.columns.is_empty() {
            return Self::default();
        }
        let column = |c: &Column| definition(&c.name, &c.kind, &c.format, "", c.priority);
        Self {
            columns: entry.columns.iter().map(column).collect(),
            source: Source::Builtin {
                group: entry.group.clone(),
                kind: entry.kind.clone(),
                columns: entry.columns.iter().map(|c| c.name.clone()).collect(),
            },
        }
    }

    /// The printer of a custom kind: the name and the declared columns, or the age where none are declared.
    ///
    /// # Errors
    /// A column's path is not supported; upstream then shows the name alone, see [`TablePrinter::default`].
    pub fn custom(version: &CustomVersion) -> Result<Self, JsonPathError> {
        let age = PrinterColumn {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        };
        let declared = if version.columns.is_empty() {
            std::slice::from_ref(&age)
        } else {
            &version.columns
        };
        let mut columns = vec![definition("Name", "string", "name", NAME_DESCRIPTION, 0)];
        let mut paths = Vec::with_capacity(declared.len());
        for column in declared {
            let given = column.description.as_str();
            let generic = format!("Value at {} of the object.", column.json_path);
            let description = if given.is_empty() { &generic } else { given };
            columns.push(definition(
                &column.name,
                &column.kind,
                &column.format,
                description,
                column.priority,
            ));
            paths.push((column.kind.clone(), JsonPath::parse(&column.json_path)?));
        }
        Ok(Self {
            columns,
            source: Source::Custom(paths),
        })
    }

    /// The column definitions, as a Table has them.
    #[must_use]
    pub fn columns(&self) -> &[Value] {
        &self.columns
    }

    /// The cells of an object as they are shown at a time, one per column.
    #[must_use]
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.timeless_cells(object).iter().map(|cell| cell.at(now)).collect()
    }

    /// The cells of an object, one per column, whatever the time.
    #[must_use]
    pub fn timeless_cells(&self, object: &Value) -> Vec<Cell> {
        let name = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        match &self.source {
            Source::Default => vec![name.into(), text(object, "/metadata/creationTimestamp").into()],
            Source::Builtin { group, kind, columns } => builtin::cells(group, kind, columns, object),
            Source::Custom(paths) => {
                let mut cells = vec![Cell::from(name)];
                cells.extend(paths.iter().map(|(kind, path)| custom_cell(kind, path, object)));
                cells
            }
        }
    }
}

fn custom_cell(kind: &str, path: &JsonPath, object: &Value) -> Cell {
    let found = path.find(object);
    let Some(value) = found.first() else { return Cell::NULL };
    match (kind, value) {
        (_, Value::Null) => Cell::NULL,
        ("string", Value::String(_)) => (*value).clone().into(),
        ("string", Value::Number(n)) => match n.as_f64() {
            Some(float) if n.is_f64() => crate::gofmt::float(float).into(),
            _ => n.to_string().into(),
        },
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => match (n.as_i64(), n.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(float)) => whole(float).into(),
            _ => Cell::NULL,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone().into(),
        ("date", Value::String(time)) => match parse_time(time) {
            Some(at) => Cell::since(at),
            None => "<invalid>".into(),
        },
        _ => Cell::NULL,
    }
}

/// The integer part; what does not fit is cut to the limits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from float saturates, which is what is wanted"
)]
fn whole(float: f64) -> i64 {
    float.trunc() as i64
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata-only form of an object, in `meta.k8s.io/<version>`.
#[must_use]
pub fn partial_object_metadata(object: &Value, version: &str) -> Value {
    let metadata = object
        .get("metadata")
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}

/// The metadata-only form of a list, in `meta.k8s.io/<version>`.
#[must_use]
pub fn partial_object_metadata_list<'v>(
    list_metadata: Value,
    items: impl IntoIterator<Item = &'v Value>,
    version: &str,
) -> Value {
    let items: Vec<_> = items
        .into_iter()
        .map(|item| partial_object_metadata(item, version))
        .collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_metadata,
        "items": items,
    })
}

/// A row: the cells and, as far as wanted, the object. `version` is that of the Table.
#[must_use]
pub fn row(cells: Vec<Value>, object: &Value, include: IncludeObject, version: &str) -> Value {
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_object_metadata(object, version),
        IncludeObject::Object => object.clone(),
    };
    json!({"cells": cells, "object": object})
}

/// A Table in `meta.k8s.io/<version>`. `columns` is `None` in all events of a watch but the first.
#[must_use]
pub fn table(version: &str, list_metadata: Value, columns: Option<&[Value]>, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
