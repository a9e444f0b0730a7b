//! How answers are compared: what a scenario looks at, and where that differs from the recording.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::placeholders::Book;
use crate::scenario::Scenario;

/// One difference.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) place: String,
    pub(crate) expected: String,
    pub(crate) got: String,
    /// A message in other words, which is no failure.
    pub(crate) soft: bool,
}

impl Difference {
    pub(crate) fn new(place: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            expected: expected.into(),
            got: got.into(),
            soft: false,
        }
    }
}

/// Cuts an answer down to what a scenario compares.
pub(crate) struct View {
    full: bool,
    columns: bool,
    paths: BTreeSet<Vec<String>>,
    ignore: Vec<Vec<String>>,
}

impl View {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let dotted = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let mut ignore: Vec<_> = scenario.ignore.iter().map(|path| dotted(path)).collect();
        if !scenario.managed_fields {
            ignore.push(dotted("metadata.managedFields"));
        }
        let mut paths: BTreeSet<_> = scenario.also.iter().map(|path| dotted(path)).collect();
        for step in &scenario.steps {
            request_paths(&step["body"], &mut paths);
        }
        Self {
            full: scenario.exact || scenario.defaults,
            columns: scenario.defaults || scenario.columns,
            paths,
            ignore,
        }
    }

    pub(crate) fn of(&self, value: &Value) -> Value {
        let Some(fields) = value.as_object() else {
            return value.clone();
        };
        if fields.len() == 2 && fields.contains_key("type") && fields.contains_key("object") {
            let object = match fields["type"].as_str() {
                Some("BOOKMARK") => self.bookmark(&fields["object"]),
                _ => self.of(&fields["object"]),
            };
            return json!({ "type": fields["type"], "object": object });
        }
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind == "Table" {
            return self.table(fields);
        }
        if kind == "Status" && fields.contains_key("status") {
            return value.clone();
        }
        if value["items"].is_array() || kind.ends_with("List") {
            let mut list = list_metadata(fields);
            let items = value["items"].as_array();
            list.insert(
                "items".into(),
                items
                    .map(|items| items.iter().map(|item| self.object(item)).collect())
                    .unwrap_or_default(),
            );
            return Value::Object(list);
        }
        if fields.contains_key("metadata") {
            self.object(value)
        } else {
            value.clone()
        }
    }

    fn object(&self, value: &Value) -> Value {
        let mut value = value.clone();
        for path in &self.ignore {
            cut(&mut value, path);
        }
        let Some(fields) = value.as_object_mut() else {
            return value;
        };
        drop_null_metadata(fields);
        if self.full || fields.get("kind").is_some_and(|kind| kind == "PartialObjectMetadata") {
            return value;
        }
        let (mut head, mut rest) = (Map::new(), Map::new());
        for (key, value) in std::mem::take(fields) {
            let part = if ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
                &mut head
            } else {
                &mut rest
            };
            part.insert(key, value);
        }
        if let Value::Object(kept) = self.prune(Value::Object(rest), &mut Vec::new()) {
            head.extend(kept);
        }
        Value::Object(head)
    }

    /// The value without the fields that no request sent.
    fn prune(&self, value: Value, path: &mut Vec<String>) -> Value {
        if self.paths.contains(path) {
            return value;
        }
        let below: BTreeSet<&str> = self
            .paths
            .iter()
            .filter(|known| known.len() > path.len() && known.starts_with(path))
            .map(|known| known[path.len()].as_str())
            .collect();
        match value {
            Value::Object(fields) => {
                let mut kept = Map::new();
                for (key, value) in fields.into_iter().filter(|(key, _)| below.contains(key.as_str())) {
                    path.push(key.clone());
                    let value = self.prune(value, path);
                    if value != json!({}) || self.paths.contains(path) {
                        kept.insert(key, value);
                    }
                    path.pop();
                }
                Value::Object(kept)
            }
            Value::Array(items) if below.contains("*") => {
                path.push("*".into());
                let items = items.into_iter().map(|item| self.prune(item, path)).collect();
                path.pop();
                Value::Array(items)
            }
            Value::Array(_) => json!([]),
            other => other,
        }
    }

    fn bookmark(&self, value: &Value) -> Value {
        match value.as_object() {
            Some(fields) if value["kind"] == "Table" => self.table(fields),
            Some(fields) => {
                let mut kept: Map<_, _> = ["apiVersion", "kind", "metadata"]
                    .into_iter()
                    .map(|key| (key.to_owned(), fields.get(key).cloned().unwrap_or_default()))
                    .collect();
                drop_null_metadata(&mut kept);
                Value::Object(kept)
            }
            None => value.clone(),
        }
    }

    /// Of a Table all rows; columns beside the first only where built-in columns are compared.
    fn table(&self, fields: &Map<String, Value>) -> Value {
        let mut table = list_metadata(fields);
        let columns = fields
            .get("columnDefinitions")
            .and_then(Value::as_array)
            .filter(|columns| !columns.is_empty());
        let rows = fields
            .get("rows")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let rows = rows.into_iter().map(|mut row| {
            let Some(fields) = row.as_object_mut() else { return row };
            match fields.get("object") {
                Some(Value::Null) => drop(fields.remove("object")),
                Some(object @ Value::Object(_)) => {
                    let object = self.object(object);
                    fields.insert("object".into(), object);
                }
                _ => {}
            }
            let cells = fields
                .get("cells")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            fields.insert("cells".into(), self.cells(cells, columns));
            row
        });
        table.insert("rows".into(), rows.collect());
        if let Some(columns) = columns {
            let shown = if self.columns { columns.len() } else { 1 };
            let column = |column: &Value| {
                let named = ["name", "type", "format", "priority"].map(|key| (key.to_owned(), column[key].clone()));
                Value::Object(named.into_iter().collect())
            };
            table.insert(
                "columnDefinitions".into(),
                columns.iter().take(shown).map(column).collect(),
            );
        }
        Value::Object(table)
    }

    fn cells(&self, cells: Vec<Value>, columns: Option<&Vec<Value>>) -> Value {
        match columns {
            Some(columns) if self.columns => {
                let pairs = columns.iter().zip(cells);
                pairs
                    .map(|(column, cell)| if column["name"] == "Age" { json!("<age>") } else { cell })
                    .collect()
            }
            None if self.columns => Value::Array(cells),
            columns => {
                let differ = columns.is_some_and(|columns| columns.len() != cells.len());
                let note = differ.then(|| json!("cells and columns differ in number"));
                cells.into_iter().take(1).chain(note).collect()
            }
        }
    }
}

/// Paths of all fields of a body; indexes of lists become `*`.
fn request_paths(body: &Value, paths: &mut BTreeSet<Vec<String>>) {
    match body {
        Value::Object(_) => walk(body, &mut Vec::new(), paths),
        Value::Array(operations) => {
            for operation in operations {
                let pointer = operation["path"].as_str().unwrap_or_default();
                let mut path: Vec<_> = pointer
                    .split('/')
                    .skip(1)
                    .map(|key| key.replace("~1", "/").replace("~0", "~"))
                    .map(|key| {
                        if key == "-" || key.parse::<u64>().is_ok() {
                            "*".into()
                        } else {
                            key
                        }
                    })
                    .collect();
                walk(&operation["value"], &mut path, paths);
            }
        }
        _ => {}
    }
}

fn walk(value: &Value, path: &mut Vec<String>, paths: &mut BTreeSet<Vec<String>>) {
    let mut below = |key: String, value: &Value| {
        path.push(key);
        walk(value, path, paths);
        path.pop();
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => fields.iter().for_each(|(key, value)| below(key.clone(), value)),
        Value::Array(items) if !items.is_empty() => items.iter().for_each(|item| below("*".into(), item)),
        _ => drop(paths.insert(path.clone())),
    }
}

/// The fields without an empty continue token, which says the same as none.
fn list_metadata(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = fields.clone();
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("continue").is_some_and(|token| token == "")
    {
        metadata.remove("continue");
    }
    fields
}

fn drop_null_metadata(fields: &mut Map<String, Value>) {
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
}

/// Removes what stands at a path; `*` is every item of a list.
fn cut(value: &mut Value, path: &[String]) {
    match (value, path) {
        (Value::Array(items), [first, rest @ ..]) => {
            let rest = if first == "*" { rest } else { path };
            items.iter_mut().for_each(|item| cut(item, rest));
        }
        (Value::Object(fields), [last]) => drop(fields.remove(last)),
        (Value::Object(fields), [first, rest @ ..]) => {
            if let Some(value) = fields.get_mut(first) {
                cut(value, rest);
            }
        }
        _ => {}
    }
}

/// Differences between an expected value and what came; `None` is nothing at all.
pub(crate) fn diff(expected: Option<&Value>, got: Option<&Value>, book: &mut Book, place: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    Diff { book, status: false }.value(expected, got, place, &mut differences);
    differences
}

struct Diff<'b> {
    book: &'b mut Book,
    /// Inside of a Status.
    status: bool,
}

impl Diff<'_> {
    fn value(&mut self, expected: Option<&Value>, got: Option<&Value>, place: &str, out: &mut Vec<Difference>) {
        match (expected, got) {
            (Some(Value::Object(expected)), Some(Value::Object(got))) => self.object(expected, got, place, out),
            (Some(Value::Array(expected)), Some(Value::Array(got))) => self.list(expected, got, place, out),
            (Some(Value::String(text)), Some(Value::String(own))) => {
                if let Err(problem) = self.book.check(text, own) {
                    out.push(Difference::new(place, text, format!("{own} {problem}")));
                }
            }
            (Some(Value::Null), None) if is_list(place) => {}
            (Some(Value::Null), Some(Value::Array(items))) if items.is_empty() && is_list(place) => {}
            (expected, got) if expected == got => {}
            (expected, got) => out.push(Difference::new(place, show(expected), show(got))),
        }
    }

    fn object(
        &mut self,
        expected: &Map<String, Value>,
        got: &Map<String, Value>,
        place: &str,
        out: &mut Vec<Difference>,
    ) {
        let outside = self.status;
        self.status |= expected.get("kind").is_some_and(|kind| kind == "Status") && expected.contains_key("code");
        let is_item = place
            .strip_prefix("body.items[")
            .is_some_and(|rest| rest.ends_with(']') && !rest.contains('.'));
        let keys: BTreeSet<_> = expected.keys().chain(got.keys()).collect();
        for key in keys {
            let named_type = is_item && ["apiVersion", "kind"].contains(&key.as_str());
            let no_details = self.status && key == "details" && expected.get(key) == Some(&json!({}));
            if named_type && !expected.contains_key(key) || no_details && !got.contains_key(key) {
                continue;
            }
            let before = out.len();
            self.value(expected.get(key), got.get(key), &format!("{place}.{key}"), out);
            if self.status && key == "message" && expected.contains_key(key) {
                out[before..].iter_mut().for_each(|difference| difference.soft = true);
            }
        }
        self.status = outside;
    }

    fn list(&mut self, expected: &[Value], got: &[Value], place: &str, out: &mut Vec<Difference>) {
        if expected.len() != got.len() {
            return out.push(Difference::new(place, summary(expected), summary(got)));
        }
        let causes = self.status && place.ends_with(".causes");
        let sorted = |items: &[Value]| {
            let mut items = items.to_vec();
            if causes {
                items.sort_by_key(|cause| ["field", "reason", "message"].map(|key| cause[key].to_string()));
            }
            items
        };
        for (at, (expected, got)) in sorted(expected).iter().zip(&sorted(got)).enumerate() {
            self.value(Some(expected), Some(got), &format!("{place}[{at}]"), out);
        }
    }
}

fn is_list(place: &str) -> bool {
    [".items", ".rows", ".columnDefinitions"]
        .iter()
        .any(|end| place.ends_with(end))
}

fn show(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    text.chars().take(300).collect()
}

fn summary(items: &[Value]) -> String {
    let name = |item: &Value| {
        let name = item
            .pointer("/metadata/name")
            .or_else(|| item.pointer("/object/metadata/name"))
            .unwrap_or(item);
        format!(
            "{}{name}",
            item["type"].as_str().map(|kind| format!("{kind} ")).unwrap_or_default()
        )
    };
    let names: Vec<_> = items.iter().map(name).collect();
    format!("{}: {}", items.len(), show(Some(&json!(names))))
}

/// Whether a header fits; the parameters of a content type and the order of warnings do not matter.
pub(crate) fn same_header(name: &str, expected: &Value, got: &Value, book: &mut Book) -> bool {
    let parameters = |value: &str| {
        let mut parts: Vec<_> = value.split(';').map(|part| part.trim().to_lowercase()).collect();
        parts.sort();
        parts
    };
    let sorted = |value: &Value| {
        let mut values = value.as_array().cloned().unwrap_or_default();
        values.sort_by_key(Value::to_string);
        Value::Array(values)
    };
    match (name, expected, got) {
        ("Content-Type", Value::String(expected), Value::String(got)) => parameters(expected) == parameters(got),
        ("Warning", Value::Array(_), Value::Array(_)) => {
            diff(Some(&sorted(expected)), Some(&sorted(got)), book, "header").is_empty()
        }
        _ => diff(Some(expected), Some(got), book, "header").is_empty(),
    }
}

/// Discovery documents: the order of verbs has no meaning.
pub(crate) fn sort_verbs(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Array(verbs) if key == "verbs" => verbs.sort_by_key(Value::to_string),
                    _ => sort_verbs(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(sort_verbs),
        _ => {}
    }
}
