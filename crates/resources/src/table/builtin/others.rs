//! Kinds with a few columns of their own.

use serde_json::Value;

use super::super::cell::Cell;
use super::super::{human_duration, text};
use super::seen::{NONE, Seen, UNSET, join, join_owned};

pub(super) fn binding_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    let subjects = |kind: &str| {
        let named = seen
            .list("/subjects")
            .iter()
            .filter(|subject| text(subject, "/kind") == kind);
        let name = |subject: &Value| match (kind, text(subject, "/namespace")) {
            ("ServiceAccount", namespace) if !namespace.is_empty() => format!("{namespace}/{}", text(subject, "/name")),
            _ => text(subject, "/name").to_owned(),
        };
        join_owned(named.map(name), ", ")
    };
    Some(match column {
        "Role" => format!("{}/{}", seen.text("/roleRef/kind"), seen.text("/roleRef/name")).into(),
        "Users" => subjects("User").into(),
        "Groups" => subjects("Group").into(),
        "ServiceAccounts" => subjects("ServiceAccount").into(),
        _ => return None,
    })
}

pub(super) fn other_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
    Some(match (kind, column) {
        ("Lease", "Holder") => seen.text("/spec/holderIdentity").into(),
        ("PodDisruptionBudget", "Min Available") => seen
            .int_or_text("/spec/minAvailable")
            .unwrap_or_else(|| "N/A".to_owned())
            .into(),
        ("PodDisruptionBudget", "Max Unavailable") => seen
            .int_or_text("/spec/maxUnavailable")
            .unwrap_or_else(|| "N/A".to_owned())
            .into(),
        ("PodDisruptionBudget", "Allowed Disruptions") => seen.int("/status/disruptionsAllowed").into(),
        ("PriorityClass", "Value") => seen.int("/value").into(),
        ("PriorityClass", "Global-Default") => seen.flag("/globalDefault", false),
        ("PriorityClass", "PreemptionPolicy") => seen.text("/preemptionPolicy").into(),
        ("RuntimeClass", "Handler") => seen.text("/handler").into(),
        ("CSINode", "Drivers") => seen.list("/spec/drivers").len().into(),
        ("VolumeAttachment", "Attacher") => seen.text("/spec/attacher").into(),
        ("VolumeAttachment", "PV") => seen.text("/spec/source/persistentVolumeName").into(),
        ("VolumeAttachment", "Node") => seen.text("/spec/nodeName").into(),
        ("VolumeAttachment", "Attached") => seen.flag("/status/attached", false),
        ("VolumeAttributesClass", "DriverName") => seen.text("/driverName").into(),
        ("PodTemplate", "Pod Labels") => seen.labels("/template/metadata/labels").into(),
        ("ControllerRevision", "Revision") => seen.int("/revision").into(),
        ("ControllerRevision", "Controller") => controller(seen).into(),
        ("ResourceQuota", "Request") => quota(seen, false).into(),
        ("ResourceQuota", "Limit") => quota(seen, true).into(),
        ("HorizontalPodAutoscaler", "Reference") => format!(
            "{}/{}",
            seen.text("/spec/scaleTargetRef/kind"),
            seen.text("/spec/scaleTargetRef/name")
        )
        .into(),
        ("HorizontalPodAutoscaler", "MinPods") => seen
            .int_or_text("/spec/minReplicas")
            .unwrap_or_else(|| UNSET.to_owned())
            .into(),
        ("HorizontalPodAutoscaler", "MaxPods") => seen.int("/spec/maxReplicas").into(),
        ("HorizontalPodAutoscaler", "Replicas") => seen.int("/status/currentReplicas").into(),
        ("MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration", "Webhooks") => {
            seen.list("/webhooks").len().into()
        }
        ("ValidatingAdmissionPolicy", "Validations") => seen.list("/spec/validations").len().into(),
        ("MutatingAdmissionPolicy", "Mutations") => seen.list("/spec/mutations").len().into(),
        ("ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy", "ParamKind") => match seen.map("/spec/paramKind") {
            Some(_) => format!(
                "{}/{}",
                seen.text("/spec/paramKind/apiVersion"),
                seen.text("/spec/paramKind/kind")
            )
            .into(),
            None => UNSET.into(),
        },
        ("ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding", "PolicyName") => {
            seen.text("/spec/policyName").into()
        }
        ("ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding", "ParamRef") => param_ref(seen).into(),
        ("CSIDriver", _) => return driver_cell(column, seen),
        ("ResourceClaim", "State") => claim_state(seen).into(),
        ("PriorityLevelConfiguration", _) => return level_cell(column, seen),
        ("FlowSchema", "MissingPL") => seen
            .condition("Dangling")
            .map_or("?", |condition| text(condition, "/status"))
            .into(),
        ("CertificateSigningRequest", "Condition") => {
            let decided = if seen.condition("Denied").is_some() {
                "Denied"
            } else if seen.condition("Approved").is_some() {
                "Approved"
            } else {
                "Pending"
            };
            let failed = if seen.condition("Failed").is_some() {
                ",Failed"
            } else {
                ""
            };
            let issued = if seen.text("/status/certificate").is_empty() {
                ""
            } else {
                ",Issued"
            };
            format!("{decided}{failed}{issued}").into()
        }
        ("ServiceCIDR", "CIDRs") => join(seen.list("/spec/cidrs").iter().filter_map(Value::as_str), ",").into(),
        ("FlowSchema", "PriorityLevel") => seen.text("/spec/priorityLevelConfiguration/name").into(),
        ("FlowSchema", "MatchingPrecedence") => seen.int("/spec/matchingPrecedence").into(),
        ("FlowSchema", "DistinguisherMethod") => seen.text_or("/spec/distinguisherMethod/type", NONE).into(),
        ("ResourceSlice", "Node") => seen.text_or("/spec/nodeName", UNSET).into(),
        ("ResourceSlice", "Driver") => seen.text("/spec/driver").into(),
        ("ResourceSlice", "Pool") => seen.text("/spec/pool/name").into(),
        ("CertificateSigningRequest", "SignerName") => seen.text_or("/spec/signerName", NONE).into(),
        ("CertificateSigningRequest", "Requestor") => seen.text("/spec/username").into(),
        ("CertificateSigningRequest", "RequestedDuration") => {
            match seen.object.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
                Some(seconds) => human_duration(seconds).into(),
                None => NONE.into(),
            }
        }
        _ => return None,
    })
}

fn controller(seen: Seen<'_>) -> String {
    let owners = seen.list("/metadata/ownerReferences").iter();
    let owner = owners
        .into_iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let Some(owner) = owner else { return NONE.to_owned() };
    let group = text(owner, "/apiVersion")
        .rsplit_once('/')
        .map_or("", |(group, _)| group);
    let dot = if group.is_empty() { "" } else { "." };
    format!(
        "{}{dot}{group}/{}",
        text(owner, "/kind").to_lowercase(),
        text(owner, "/name")
    )
}

fn quota(seen: Seen<'_>, limits: bool) -> String {
    let hard = seen.map("/status/hard").into_iter().flatten();
    let shown = hard
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = seen
                .map("/status/used")
                .and_then(|used| used.get(name))
                .and_then(Value::as_str)
                .unwrap_or("0");
            format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"))
        });
    join_owned(shown, ", ")
}

fn param_ref(seen: Seen<'_>) -> String {
    if seen.map("/spec/paramRef").is_none() {
        return UNSET.to_owned();
    }
    let (name, namespace) = (seen.text("/spec/paramRef/name"), seen.text("/spec/paramRef/namespace"));
    if name.is_empty() {
        return seen.selector("/spec/paramRef/selector");
    }
    if namespace.is_empty() {
        format!("*/{name}")
    } else {
        format!("{namespace}/{name}")
    }
}

pub(super) fn driver_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    Some(match column {
        "AttachRequired" => seen.flag("/spec/attachRequired", true),
        "PodInfoOnMount" => seen.flag("/spec/podInfoOnMount", false),
        "StorageCapacity" => seen.flag("/spec/storageCapacity", false),
        "RequiresRepublish" => seen.flag("/spec/requiresRepublish", false),
        "TokenRequests" => match seen.object.pointer("/spec/tokenRequests") {
            Some(Value::Array(requests)) => join(requests.iter().map(|request| text(request, "/audience")), ",").into(),
            _ => UNSET.into(),
        },
        "Modes" => match join(
            seen.list("/spec/volumeLifecycleModes").iter().filter_map(Value::as_str),
            ",",
        ) {
            modes if modes.is_empty() => NONE.into(),
            modes => modes.into(),
        },
        _ => return None,
    })
}

fn claim_state(seen: Seen<'_>) -> String {
    let mut states = Vec::new();
    if seen.deleted() {
        states.push("deleted");
    }
    match seen.map("/status/allocation") {
        None if seen.deleted() => {}
        None => states.push("pending"),
        Some(_) => states.push("allocated"),
    }
    if !seen.list("/status/reservedFor").is_empty() {
        states.push("reserved");
    }
    states.join(",")
}

pub(super) fn level_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    let number = |pointer: &str| {
        seen.object
            .pointer(pointer)
            .and_then(Value::as_i64)
            .map_or_else(|| NONE.into(), Cell::from)
    };
    Some(match column {
        "Type" => seen.text("/spec/type").into(),
        "NominalConcurrencyShares" => number("/spec/limited/nominalConcurrencyShares"),
        "Queues" => number("/spec/limited/limitResponse/queuing/queues"),
        "HandSize" => number("/spec/limited/limitResponse/queuing/handSize"),
        "QueueLengthLimit" => number("/spec/limited/limitResponse/queuing/queueLengthLimit"),
        _ => return None,
    })
}
