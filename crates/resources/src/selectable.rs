//! The fields by which objects of built-in kinds can be selected, beside name and namespace.

use std::borrow::Cow;
use std::sync::Arc;

use apiserver_storage_api::SelectableField;

/// A label in `fieldSelector`, the path of its value, and what it reads as when the value is not there.
type Row = (&'static str, &'static str, &'static str);

const PODS: &[Row] = &[
    ("spec.nodeName", "spec.nodeName", ""),
    ("spec.restartPolicy", "spec.restartPolicy", ""),
    ("spec.schedulerName", "spec.schedulerName", ""),
    ("spec.serviceAccountName", "spec.serviceAccountName", ""),
    ("spec.hostNetwork", "spec.hostNetwork", "false"),
    ("status.phase", "status.phase", ""),
    ("status.podIP", "status.podIP", ""),
    ("status.nominatedNodeName", "status.nominatedNodeName", ""),
];

const EVENTS: &[Row] = &[
    ("involvedObject.kind", "involvedObject.kind", ""),
    ("involvedObject.namespace", "involvedObject.namespace", ""),
    ("involvedObject.name", "involvedObject.name", ""),
    ("involvedObject.uid", "involvedObject.uid", ""),
    ("involvedObject.apiVersion", "involvedObject.apiVersion", ""),
    ("involvedObject.resourceVersion", "involvedObject.resourceVersion", ""),
    ("involvedObject.fieldPath", "involvedObject.fieldPath", ""),
    ("reason", "reason", ""),
    (EVENT_REPORTER, "reportingComponent", ""),
    // The reporting component where there is no source, see `normalizer`.
    (EVENT_SOURCE, "source.component", ""),
    ("type", "type", ""),
];

/// The one field whose value may come from a second place,
pub(crate) const EVENT_SOURCE: &str = "source";
/// which is this one.
pub(crate) const EVENT_REPORTER: &str = "reportingComponent";

/// The selectable fields of a resource in its storage version. Both event APIs share one store, so both have the fields
/// of the core one; see [`canonical_label`] for the names that clients of the other use.
#[must_use]
pub fn selectable_fields(group: &str, resource: &str) -> Vec<SelectableField> {
    rows(group, resource)
        .iter()
        .map(|(label, path, default)| {
            let path: Arc<[String]> = path.split('.').map(str::to_owned).collect();
            SelectableField::with_path(label, path, default)
        })
        .collect()
}

fn rows(group: &str, resource: &str) -> &'static [Row] {
    match (group, resource) {
        ("", "pods") => PODS,
        ("" | "events.k8s.io", "events") => EVENTS,
        ("", "nodes") => &[("spec.unschedulable", "spec.unschedulable", "false")],
        // The name again under a label of its own is an old mistake that clients rely on.
        ("", "namespaces") => &[("status.phase", "status.phase", ""), ("name", "metadata.name", "")],
        ("", "persistentvolumes" | "persistentvolumeclaims") => &[("name", "metadata.name", "")],
        ("", "secrets") => &[("type", "type", "")],
        ("", "services") => &[("spec.clusterIP", "spec.clusterIP", ""), ("spec.type", "spec.type", "")],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &[("status.replicas", "status.replicas", "0")],
        ("batch", "jobs") => &[("status.successful", "status.succeeded", "0")],
        ("certificates.k8s.io", "certificatesigningrequests") => &[("spec.signerName", "spec.signerName", "")],
        ("resource.k8s.io", "resourceslices") => &[
            ("spec.nodeName", "spec.nodeName", ""),
            ("spec.driver", "spec.driver", ""),
        ],
        _ => &[],
    }
}

/// The stored name of a label that a client wrote, `None` when the resource has no such label.
#[must_use]
pub fn canonical_label<'a>(group: &str, resource: &str, label: &'a str) -> Option<Cow<'a, str>> {
    let renamed: Cow<'a, str> = match (group, resource, label) {
        (_, _, "metadata.name" | "metadata.namespace") => return Some(label.into()),
        ("", "pods", "spec.host") => "spec.nodeName".into(),
        ("", "pods", "status.podIPs") => "status.podIP".into(),
        ("events.k8s.io", "events", "reportingController") => "reportingComponent".into(),
        ("events.k8s.io", "events", _) if label.starts_with("regarding.") => {
            label.replacen("regarding.", "involvedObject.", 1).into()
        }
        _ => label.into(),
    };
    rows(group, resource)
        .iter()
        .any(|(known, ..)| *known == renamed)
        .then_some(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TypeRegistry;

    #[test]
    fn every_path_leads_to_a_field() {
        let registry = TypeRegistry::builtin();
        let mut count = 0;
        for entry in registry.resources() {
            // Events of the newer API are selected in the form of the older one.
            if entry.group == "events.k8s.io" {
                continue;
            }
            for (label, path, _) in rows(&entry.group, &entry.resource) {
                let mut ty = registry.by_gvk(entry.gvk());
                for name in path.split('.') {
                    let field = ty.and_then(|ty| ty.field(name));
                    assert!(field.is_some(), "{} {label}: {path}", entry.resource);
                    ty = field.and_then(|field| field.shape.type_id()).map(|id| &registry[id]);
                }
                count += 1;
            }
        }
        assert_eq!(count, 33);
    }

    #[test]
    fn labels_of_clients_become_the_stored_ones() {
        for (group, resource, label, want) in [
            ("", "pods", "spec.nodeName", Some("spec.nodeName")),
            ("", "pods", "spec.host", Some("spec.nodeName")),
            ("", "pods", "metadata.name", Some("metadata.name")),
            ("", "pods", "spec.containers", None),
            ("", "configmaps", "data", None),
            ("events.k8s.io", "events", "regarding.name", Some("involvedObject.name")),
            (
                "events.k8s.io",
                "events",
                "reportingController",
                Some("reportingComponent"),
            ),
            ("", "events", "involvedObject.name", Some("involvedObject.name")),
            ("", "events", "regarding.name", None),
        ] {
            assert_eq!(
                canonical_label(group, resource, label).as_deref(),
                want,
                "{resource} {label}"
            );
        }
    }
}
