//! An object as cells look at it: values at paths, with what stands for their absence.

use serde_json::{Map, Value};

use super::super::cell::Cell;
use super::super::text;

/// Shown for what is not there.
pub(super) const NONE: &str = "<none>";
/// Shown for what was not set.
pub(super) const UNSET: &str = "<unset>";
/// Shown for what is not known.
pub(super) const UNKNOWN: &str = "<unknown>";

/// An object to look at.
#[derive(Clone, Copy)]
pub(super) struct Seen<'v> {
    pub(super) object: &'v Value,
}

impl<'v> Seen<'v> {
    pub(super) fn text(self, pointer: &str) -> &'v str {
        text(self.object, pointer)
    }

    pub(super) fn text_or(self, pointer: &str, default: &'v str) -> &'v str {
        Some(self.text(pointer))
            .filter(|text| !text.is_empty())
            .unwrap_or(default)
    }

    pub(super) fn int(self, pointer: &str) -> i64 {
        self.object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
    }

    pub(super) fn flag(self, pointer: &str, default: bool) -> Cell {
        self.object
            .pointer(pointer)
            .and_then(Value::as_bool)
            .unwrap_or(default)
            .into()
    }

    pub(super) fn list(self, pointer: &str) -> &'v [Value] {
        self.object
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    pub(super) fn map(self, pointer: &str) -> Option<&'v Map<String, Value>> {
        self.object.pointer(pointer).and_then(Value::as_object)
    }

    pub(super) fn size(self, pointer: &str) -> usize {
        self.map(pointer).map_or(0, Map::len)
    }

    pub(super) fn deleted(self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    pub(super) fn containers(self, part: &str) -> String {
        let places = [
            "/spec/template/spec/containers",
            "/template/spec/containers",
            "/spec/jobTemplate/spec/template/spec/containers",
        ];
        let containers = places
            .iter()
            .map(|place| self.list(place))
            .find(|list| !list.is_empty())
            .unwrap_or_default();
        join(
            containers.iter().map(|container| text(container, &format!("/{part}"))),
            ",",
        )
    }

    pub(super) fn labels(self, pointer: &str) -> String {
        match self.map(pointer).filter(|map| !map.is_empty()) {
            Some(map) => join_owned(
                map.iter()
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())),
                ",",
            ),
            None => NONE.to_owned(),
        }
    }

    /// A label selector in text form; empty for one that selects everything.
    pub(super) fn selector(self, pointer: &str) -> String {
        let Some(selector) = self.object.pointer(pointer) else {
            return String::new();
        };
        let mut terms: Vec<(String, String)> = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
        }
        for requirement in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let key = text(requirement, "/key");
            let values = requirement
                .get("values")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let mut values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
            values.sort_unstable();
            let values = values.join(",");
            let term = match text(requirement, "/operator") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => return "<invalid>".to_owned(),
            };
            terms.push((key.to_owned(), term));
        }
        terms.sort_by(|l, r| l.0.cmp(&r.0));
        join_owned(terms.into_iter().map(|(_, term)| term), ",")
    }

    pub(super) fn selector_or_none(self, pointer: &str) -> String {
        Some(self.selector(pointer))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| NONE.to_owned())
    }

    pub(super) fn condition(self, kind: &str) -> Option<&'v Value> {
        self.list("/status/conditions")
            .iter()
            .find(|condition| text(condition, "/type") == kind)
    }

    pub(super) fn is_true(self, kind: &str) -> bool {
        self.condition(kind)
            .is_some_and(|condition| text(condition, "/status") == "True")
    }

    /// An integer or a text, as text.
    pub(super) fn int_or_text(self, pointer: &str) -> Option<String> {
        match self.object.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

pub(super) fn join<'t>(texts: impl Iterator<Item = &'t str>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

pub(super) fn join_owned(texts: impl Iterator<Item = String>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}
