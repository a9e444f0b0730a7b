//! Between versions of the same built-in kind.
//!
//! Most kinds have one version. Three do not: events have two APIs over one store, custom resource definitions are
//! stored in a version that is no longer served, and autoscalers are served in two versions.
//!
//! ```
//! use apiserver_resources::{convert::convert, types::Gvk};
//!
//! let event = serde_json::json!({"kind": "Event", "apiVersion": "v1", "reason": "Started", "message": "went well"});
//! let converted = convert(event, Gvk::new("events.k8s.io", "v1", "Event"))?;
//! assert_eq!(converted["note"], "went well");
//! # Ok::<(), apiserver_resources::convert::ConvertError>(())
//! ```

mod autoscaler;
mod definition;

use serde_json::{Map, Value};

use crate::types::Gvk;

/// Why an object cannot be had in another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The object says nothing of its version and kind.
    #[error("the object has no apiVersion and kind")]
    NoKind,
    /// There is no such conversion.
    #[error("cannot convert {from} to {to}")]
    Unsupported {
        /// What the object is.
        from: String,
        /// What was asked for.
        to: String,
    },
    /// The object has something that the other version cannot say.
    #[error("{field}: has no form in {to}")]
    NoForm {
        /// The field.
        field: &'static str,
        /// What was asked for.
        to: String,
    },
}

/// Converts an object to another version of its kind. Into its own version it comes back as it is.
///
/// # Errors
///
/// [`ConvertError`].
pub fn convert(mut object: Value, to: Gvk<'_>) -> Result<Value, ConvertError> {
    let Value::Object(members) = &mut object else {
        return Err(ConvertError::NoKind);
    };
    let (Some(Value::String(api_version)), Some(Value::String(kind))) =
        (members.get("apiVersion"), members.get("kind"))
    else {
        return Err(ConvertError::NoKind);
    };
    let from = Gvk::of(api_version, kind);
    if from == to {
        return Ok(object);
    }
    let Some(conversion) = find(from, to) else {
        return Err(ConvertError::Unsupported {
            from: from.to_string(),
            to: to.to_string(),
        });
    };
    conversion(members).map_err(|field| ConvertError::NoForm {
        field,
        to: to.to_string(),
    })?;
    members.insert("apiVersion".into(), to.api_version().into());
    Ok(object)
}

/// Whether [`convert`] knows the way.
#[must_use]
pub fn is_convertible(from: Gvk<'_>, to: Gvk<'_>) -> bool {
    from == to || find(from, to).is_some()
}

/// Changes an object in place; the error names the field that has no form in the other version.
type Conversion = fn(&mut Map<String, Value>) -> Result<(), &'static str>;

fn find(from: Gvk<'_>, to: Gvk<'_>) -> Option<Conversion> {
    const EVENTS: &str = "events.k8s.io";
    const DEFINITIONS: &str = "apiextensions.k8s.io";
    if from.kind != to.kind {
        return None;
    }
    match (from.kind, from.group, from.version, to.group, to.version) {
        ("Event", "", "v1", EVENTS, "v1") => Some(|event| {
            rename(event, EVENT_FIELDS.iter().copied());
            Ok(())
        }),
        ("Event", EVENTS, "v1", "", "v1") => Some(|event| {
            rename(event, EVENT_FIELDS.iter().map(|&(core, events)| (events, core)));
            Ok(())
        }),
        ("CustomResourceDefinition", DEFINITIONS, "v1", DEFINITIONS, "v1beta1") => Some(definition::to_stored),
        ("CustomResourceDefinition", DEFINITIONS, "v1beta1", DEFINITIONS, "v1") => Some(definition::to_served),
        ("HorizontalPodAutoscaler", "autoscaling", "v1", "autoscaling", "v2") => Some(autoscaler::to_v2),
        ("HorizontalPodAutoscaler", "autoscaling", "v2", "autoscaling", "v1") => Some(autoscaler::to_v1),
        _ => None,
    }
}

/// The fields of events that have different names in the core API and in that of events.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename<'a>(members: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (old, new) in names {
        if let Some(value) = members.remove(old) {
            members.insert(new.to_owned(), value);
        }
    }
}
