//! Recordings of values that nobody can read, or that are odd: what a real kube-apiserver answered, and where these
//! stores answer otherwise on purpose. One table for whoever compares, at whatever layer.

use serde_json::Value;

/// How these stores answer otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instead {
    /// The value is not read.
    Unreadable,
    /// The value is read.
    Readable,
    /// A field is served with another value.
    Serves(&'static str, &'static str),
    /// A field of the metadata is not served.
    Omits(&'static str),
}

const YAML: &str = "no server stores YAML: it is unreadable, and says so";
const CBOR: &str = "CBOR is read for every kind, not only behind a feature gate";
const TYPE: &str = "what has no type is opaque, also where nothing else is known";
const SELF_LINK: &str = "selfLink means nothing any more";

/// Kind, case, how, and why.
const OTHERWISE: [(&str, &str, Instead, &str); 10] = [
    ("ConfigMap", "yaml", Instead::Unreadable, YAML),
    ("Secret", "yaml", Instead::Unreadable, YAML),
    ("ConfigMap", "cbor", Instead::Readable, CBOR),
    ("ConfigMap", "cbor-text-keys", Instead::Readable, CBOR),
    ("Secret", "cbor", Instead::Readable, CBOR),
    ("Secret", "cbor-text-keys", Instead::Readable, CBOR),
    ("Secret", "empty", Instead::Serves("type", "Opaque"), TYPE),
    ("Secret", "json-null", Instead::Serves("type", "Opaque"), TYPE),
    ("Secret", "json-empty-object", Instead::Serves("type", "Opaque"), TYPE),
    ("Widget", "with-resource-version", Instead::Omits("selfLink"), SELF_LINK),
];

/// One damaged value, as it was recorded.
#[derive(Debug, Clone, Copy)]
pub struct Damaged<'a> {
    /// The recording.
    pub recorded: &'a Value,
    /// How these stores answer otherwise, if they do.
    pub otherwise: Option<Instead>,
}

impl<'a> Damaged<'a> {
    /// A recording of this kind.
    pub fn new(kind: &str, recorded: &'a Value) -> Self {
        let otherwise = OTHERWISE
            .iter()
            .find(|(own, case, ..)| *own == kind && recorded["name"] == *case)
            .map(|(_, _, instead, _)| *instead);
        Self { recorded, otherwise }
    }

    /// The recorded answer to a request; an answer may be the name of another that is the same.
    pub fn answer(&self, request: &str) -> Option<&'a Value> {
        match self.recorded["answers"].get(request)? {
            Value::String(same) => self.answer(same),
            answer => Some(answer),
        }
    }

    /// Whether these stores read the value.
    pub fn is_readable(&self) -> bool {
        match self.otherwise {
            Some(Instead::Unreadable) => false,
            Some(Instead::Readable) => true,
            _ => self.answer("get").is_some_and(|answer| answer["status"] == 200),
        }
    }

    /// The object as these stores serve it, without its resourceVersion; `None` where the real server did not serve it.
    pub fn object(&self) -> Option<Value> {
        let mut object = self.answer("get").filter(|answer| answer["status"] == 200)?["body"].clone();
        let metadata = object["metadata"].as_object_mut()?;
        metadata.remove("resourceVersion");
        match self.otherwise {
            Some(Instead::Omits(field)) => drop(metadata.remove(field)),
            Some(Instead::Serves(field, value)) => object[field] = value.into(),
            _ => {}
        }
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recording_is_taken_as_it_is_but_for_what_is_said() {
        let body = json!({ "type": "x", "metadata": { "name": "a", "selfLink": "/", "resourceVersion": "7" } });
        let recorded =
            |name: &str| json!({ "name": name, "answers": { "get": "same", "same": { "status": 200, "body": body } } });
        let plain = recorded("plain");
        let damaged = Damaged::new("Secret", &plain);
        assert!(damaged.is_readable());
        let served = json!({ "type": "x", "metadata": { "name": "a", "selfLink": "/" } });
        assert_eq!(damaged.object(), Some(served));
        let empty = recorded("empty");
        assert_eq!(
            Damaged::new("Secret", &empty).object().map(|own| own["type"].clone()),
            Some("Opaque".into())
        );
        assert_eq!(Damaged::new("ConfigMap", &empty).otherwise, None, "another kind");
        let widget = recorded("with-resource-version");
        let object = Damaged::new("Widget", &widget).object();
        assert_eq!(object.map(|own| own["metadata"].clone()), Some(json!({ "name": "a" })));
        assert!(!Damaged::new("Secret", &recorded("yaml")).is_readable());
        let refused = json!({ "name": "cbor", "answers": { "get": { "status": 500 } } });
        assert!(Damaged::new("Secret", &refused).is_readable());
        assert!(Damaged::new("Secret", &refused).object().is_none());
    }
}
