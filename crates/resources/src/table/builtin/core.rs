//! Services, nodes, events and the small kinds of the core group.

use serde_json::Value;

use super::super::cell::{Cell, age};
use super::super::text;
use super::seen::{NONE, Seen, UNKNOWN, join, join_owned};

pub(super) fn small_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
    Some(match (kind, column) {
        ("ConfigMap", "Data") => (seen.size("/data") + seen.size("/binaryData")).into(),
        ("Secret", "Data") => seen.size("/data").into(),
        ("Secret", "Type") => seen.text("/type").into(),
        ("Namespace", "Status") => seen.text("/status/phase").into(),
        _ => return None,
    })
}

pub(super) fn service_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    Some(match column {
        "Type" => seen.text("/spec/type").into(),
        "Cluster-IP" => seen
            .text_or("/spec/clusterIPs/0", seen.text_or("/spec/clusterIP", NONE))
            .into(),
        "External-IP" => external_ip(seen).into(),
        "Port(s)" => {
            let port = |port: &Value| {
                let number = |name: &str| port.get(name).and_then(Value::as_i64).unwrap_or(0);
                let protocol = Some(text(port, "/protocol")).filter(|p| !p.is_empty()).unwrap_or("TCP");
                match number("nodePort") {
                    0 => format!("{}/{protocol}", number("port")),
                    node => format!("{}:{node}/{protocol}", number("port")),
                }
            };
            let ports = join_owned(seen.list("/spec/ports").iter().map(port), ",");
            if ports.is_empty() { NONE.into() } else { ports.into() }
        }
        "Selector" => seen.labels("/spec/selector").into(),
        _ => return None,
    })
}

fn external_ip(seen: Seen<'_>) -> String {
    let given = join(seen.list("/spec/externalIPs").iter().filter_map(Value::as_str), ",");
    match seen.text("/spec/type") {
        "ClusterIP" | "NodePort" if given.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => given,
        "LoadBalancer" => {
            let assigned = ingress_addresses(seen);
            match (assigned.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (false, true) => assigned,
                (true, false) => given,
                (false, false) => format!("{assigned},{given}"),
            }
        }
        "ExternalName" => seen.text("/spec/externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

pub(super) fn ingress_addresses(seen: Seen<'_>) -> String {
    let address = |entry: &Value| {
        let ip = text(entry, "/ip");
        if ip.is_empty() {
            text(entry, "/hostname").to_owned()
        } else {
            ip.to_owned()
        }
    };
    let mut addresses: Vec<_> = seen.list("/status/loadBalancer/ingress").iter().map(address).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.sort();
    addresses.dedup();
    addresses.join(",")
}

pub(super) fn node_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    let address = |kind: &str| {
        let found = seen
            .list("/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == kind);
        found.map_or(NONE, |address| text(address, "/address"))
    };
    let info = |name: &str| seen.text_or(&format!("/status/nodeInfo/{name}"), UNKNOWN);
    Some(match column {
        "Status" => {
            let ready = match seen.condition("Ready").map(|condition| text(condition, "/status")) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            let off = seen.object.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
            format!("{ready}{}", if off { ",SchedulingDisabled" } else { "" }).into()
        }
        "Roles" => roles(seen).into(),
        "Version" => seen.text("/status/nodeInfo/kubeletVersion").into(),
        "Internal-IP" => address("InternalIP").into(),
        "External-IP" => address("ExternalIP").into(),
        "OS-Image" => info("osImage").into(),
        "Kernel-Version" => match seen.text("/status/nodeInfo/architecture") {
            "" => info("kernelVersion").into(),
            architecture => format!("{} ({architecture})", info("kernelVersion")).into(),
        },
        "Container-Runtime" => info("containerRuntimeVersion").into(),
        _ => return None,
    })
}

fn roles(seen: Seen<'_>) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in seen.map("/metadata/labels").into_iter().flatten() {
        if let Some(role) = key
            .strip_prefix("node-role.kubernetes.io/")
            .filter(|role| !role.is_empty())
        {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|role| !role.is_empty()));
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.join(",")
    }
}

pub(super) fn event_cell(group: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
    // The two event APIs name the same things differently.
    let new = group == "events.k8s.io";
    let pick = |core: &'static str, events: &'static str| if new { events } else { core };
    let about = pick("/involvedObject", "/regarding");
    let time = |pointer: &str| Some(seen.text(pointer)).filter(|t| !t.is_empty());
    let first = time(pick("/firstTimestamp", "/deprecatedFirstTimestamp")).or_else(|| time("/eventTime"));
    Some(match column {
        "Last Seen" => {
            let last =
                time("/series/lastObservedTime").or_else(|| time(pick("/lastTimestamp", "/deprecatedLastTimestamp")));
            age(last.or(first).unwrap_or_default())
        }
        "First Seen" => age(first.unwrap_or_default()),
        "Type" => seen.text("/type").into(),
        "Reason" => seen.text("/reason").into(),
        "Object" => {
            let kind = seen.text(&format!("{about}/kind")).to_lowercase();
            match seen.text(&format!("{about}/name")) {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            }
        }
        "Subobject" => seen.text(&format!("{about}/fieldPath")).into(),
        "Source" => {
            let source = pick("/source", "/deprecatedSource");
            let controller = pick("/reportingComponent", "/reportingController");
            let component = seen.text_or(&format!("{source}/component"), seen.text(controller));
            match seen.text_or(&format!("{source}/host"), seen.text("/reportingInstance")) {
                "" => component.into(),
                instance => format!("{component}, {instance}").into(),
            }
        }
        "Message" => seen.text(pick("/message", "/note")).trim().into(),
        "Count" => match seen.object.pointer("/series/count").and_then(Value::as_i64) {
            Some(count) => count.into(),
            None => seen.int(pick("/count", "/deprecatedCount")).max(1).into(),
        },
        _ => return None,
    })
}
