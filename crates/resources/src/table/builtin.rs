//! The cells of built-in kinds.
//!
//! Cells are made by column: a kind's own columns first, then those that mean the same everywhere (name, age, containers). A column
//! that nobody knows how to fill is empty, so every row has as many cells as there are columns.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{age, human_duration, since, text};
use crate::fieldvalidation::parse_time;

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
const UNKNOWN: &str = "<unknown>";

/// An object and the time at which it is looked at.
#[derive(Clone, Copy)]
struct Seen<'v> {
    object: &'v Value,
    now: Timestamp,
}

/// The cells of an object of a built-in kind, one per column.
pub(super) fn cells(group: &str, kind: &str, columns: &[String], object: &Value, now: Timestamp) -> Vec<Value> {
    let seen = Seen { object, now };
    // The state of a pod is worked out once and shown in three columns.
    let pod = (kind == "Pod").then(|| PodState::of(seen));
    columns
        .iter()
        .map(|column| cell(group, kind, column, seen, pod.as_ref()))
        .collect()
}

fn cell(group: &str, kind: &str, column: &str, seen: Seen<'_>, pod: Option<&PodState>) -> Value {
    let own = match kind {
        "Pod" => pod.and_then(|state| pod_cell(column, seen, state)),
        "Service" => service_cell(column, seen),
        "Node" => node_cell(column, seen),
        "Event" => event_cell(group, column, seen),
        "ConfigMap" | "Secret" | "Namespace" | "ServiceAccount" => small_cell(kind, column, seen),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ReplicationController" => {
            workload_cell(kind, column, seen)
        }
        "Job" | "CronJob" => job_cell(column, seen),
        "PersistentVolume" | "PersistentVolumeClaim" | "StorageClass" => volume_cell(kind, column, seen),
        "Ingress" | "IngressClass" | "NetworkPolicy" | "Endpoints" | "EndpointSlice" => {
            network_cell(kind, column, seen)
        }
        "RoleBinding" | "ClusterRoleBinding" => binding_cell(column, seen),
        _ => other_cell(kind, column, seen),
    };
    own.or_else(|| common_cell(column, seen)).unwrap_or_else(|| "".into())
}

/// Columns that mean the same in every kind.
fn common_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
    Some(match column {
        "Name" => seen.text("/metadata/name").into(),
        "Age" => age(seen.text("/metadata/creationTimestamp"), seen.now).into(),
        "Created At" => seen.text("/metadata/creationTimestamp").into(),
        "Containers" => seen.containers("name").into(),
        "Images" => seen.containers("image").into(),
        _ => return None,
    })
}

impl<'v> Seen<'v> {
    fn text(self, pointer: &str) -> &'v str {
        text(self.object, pointer)
    }

    fn text_or(self, pointer: &str, default: &'v str) -> &'v str {
        Some(self.text(pointer))
            .filter(|text| !text.is_empty())
            .unwrap_or(default)
    }

    fn int(self, pointer: &str) -> i64 {
        self.object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
    }

    fn flag(self, pointer: &str, default: bool) -> Value {
        self.object
            .pointer(pointer)
            .and_then(Value::as_bool)
            .unwrap_or(default)
            .into()
    }

    fn list(self, pointer: &str) -> &'v [Value] {
        self.object
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn map(self, pointer: &str) -> Option<&'v Map<String, Value>> {
        self.object.pointer(pointer).and_then(Value::as_object)
    }

    fn size(self, pointer: &str) -> usize {
        self.map(pointer).map_or(0, Map::len)
    }

    fn deleted(self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    fn containers(self, part: &str) -> String {
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

    fn labels(self, pointer: &str) -> String {
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
    fn selector(self, pointer: &str) -> String {
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

    fn selector_or_none(self, pointer: &str) -> String {
        Some(self.selector(pointer))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| NONE.to_owned())
    }

    fn condition(self, kind: &str) -> Option<&'v Value> {
        self.list("/status/conditions")
            .iter()
            .find(|condition| text(condition, "/type") == kind)
    }

    fn is_true(self, kind: &str) -> bool {
        self.condition(kind)
            .is_some_and(|condition| text(condition, "/status") == "True")
    }

    /// An integer or a text, as text.
    fn int_or_text(self, pointer: &str) -> Option<String> {
        match self.object.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

fn join<'t>(texts: impl Iterator<Item = &'t str>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

fn join_owned(texts: impl Iterator<Item = String>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

fn small_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
    Some(match (kind, column) {
        ("ConfigMap", "Data") => (seen.size("/data") + seen.size("/binaryData")).into(),
        ("Secret", "Data") => seen.size("/data").into(),
        ("Secret", "Type") => seen.text("/type").into(),
        ("Namespace", "Status") => seen.text("/status/phase").into(),
        _ => return None,
    })
}

/// What three columns of a pod are made of.
struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl PodState {
    fn of(seen: Seen<'_>) -> Self {
        let phase = seen.text("/status/phase");
        let mut state = Self {
            reason: seen.text_or("/status/reason", phase).to_owned(),
            ready: 0,
            total: seen.list("/spec/containers").len(),
            restarts: 0,
            last_restart: None,
        };
        let gated = |c: &&Value| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated";
        if seen.list("/status/conditions").iter().any(|c| gated(&c)) {
            state.reason = "SchedulingGated".to_owned();
        }
        let initializing = state.init_containers(seen);
        if !initializing || seen.is_true("Initialized") {
            state.containers(seen);
        }
        if seen.deleted() {
            if seen.text("/status/reason") == "NodeLost" {
                state.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                state.reason = "Terminating".to_owned();
            }
        }
        state
    }

    /// Whether the pod is still busy with its init containers.
    fn init_containers(&mut self, seen: Seen<'_>) -> bool {
        let specs = seen.list("/spec/initContainers");
        let sidecar = |name: &str| {
            specs
                .iter()
                .any(|spec| text(spec, "/name") == name && text(spec, "/restartPolicy") == "Always")
        };
        self.total += specs
            .iter()
            .filter(|spec| text(spec, "/restartPolicy") == "Always")
            .count();
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (index, status) in seen.list("/status/initContainerStatuses").iter().enumerate() {
            let restarts = status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(finished(status));
            let is_sidecar = sidecar(text(status, "/name"));
            if is_sidecar {
                sidecar_restarts += restarts;
                sidecar_last = sidecar_last.max(finished(status));
            }
            let terminated = status.pointer("/state/terminated");
            if terminated.is_some_and(|t| t.get("exitCode").and_then(Value::as_i64).unwrap_or(0) == 0) {
                continue;
            }
            if is_sidecar && status.get("started") == Some(&Value::Bool(true)) {
                self.ready += usize::from(status.get("ready") == Some(&Value::Bool(true)));
                continue;
            }
            let waiting = text(status, "/state/waiting/reason");
            self.reason = match terminated {
                Some(terminated) => format!("Init:{}", end_reason(terminated)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", specs.len()),
            };
            initializing = true;
            break;
        }
        if !initializing || seen.is_true("Initialized") {
            (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        }
        initializing
    }

    fn containers(&mut self, seen: Seen<'_>) {
        let (mut running, mut failure) = (false, None);
        for status in seen.list("/status/containerStatuses").iter().rev() {
            self.restarts += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
            self.last_restart = self.last_restart.max(finished(status));
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = status.pointer("/state/terminated") {
                self.reason = end_reason(terminated);
                if terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && seen.is_true("Ready") {
                self.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn finished(status: &Value) -> Option<Timestamp> {
    parse_time(text(status, "/lastState/terminated/finishedAt"))
}

/// Why a container ended: the reason, else the signal, else the exit code.
fn end_reason(terminated: &Value) -> String {
    let (reason, signal) = (
        text(terminated, "/reason"),
        terminated.get("signal").and_then(Value::as_i64).unwrap_or(0),
    );
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!(
            "ExitCode:{}",
            terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0)
        )
    }
}

fn pod_cell(column: &str, seen: Seen<'_>, state: &PodState) -> Option<Value> {
    Some(match column {
        "Ready" => format!("{}/{}", state.ready, state.total).into(),
        "Status" => state.reason.as_str().into(),
        "Restarts" => match state.last_restart.filter(|_| state.restarts != 0) {
            Some(at) => format!("{} ({} ago)", state.restarts, since(at, seen.now)).into(),
            None => state.restarts.to_string().into(),
        },
        "IP" => seen.text_or("/status/podIPs/0/ip", NONE).into(),
        "Node" => seen.text_or("/spec/nodeName", NONE).into(),
        "Nominated Node" => seen.text_or("/status/nominatedNodeName", NONE).into(),
        "Readiness Gates" => {
            let gates = seen.list("/spec/readinessGates");
            let passed = gates
                .iter()
                .filter(|gate| seen.is_true(text(gate, "/conditionType")))
                .count();
            if gates.is_empty() {
                NONE.into()
            } else {
                format!("{passed}/{}", gates.len()).into()
            }
        }
        _ => return None,
    })
}

fn service_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
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

fn ingress_addresses(seen: Seen<'_>) -> String {
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

fn node_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
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

fn event_cell(group: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
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
            age(last.or(first).unwrap_or_default(), seen.now).into()
        }
        "First Seen" => age(first.unwrap_or_default(), seen.now).into(),
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

fn workload_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
    let daemons = kind == "DaemonSet";
    Some(match column {
        "Ready" if matches!(kind, "Deployment" | "StatefulSet") => {
            format!("{}/{}", seen.int("/status/readyReplicas"), seen.int("/spec/replicas")).into()
        }
        "Desired" if daemons => seen.int("/status/desiredNumberScheduled").into(),
        "Current" if daemons => seen.int("/status/currentNumberScheduled").into(),
        "Ready" if daemons => seen.int("/status/numberReady").into(),
        "Up-to-date" if daemons => seen.int("/status/updatedNumberScheduled").into(),
        "Available" if daemons => seen.int("/status/numberAvailable").into(),
        "Node Selector" => seen.labels("/spec/template/spec/nodeSelector").into(),
        "Desired" => seen.int("/spec/replicas").into(),
        "Current" => seen.int("/status/replicas").into(),
        "Ready" => seen.int("/status/readyReplicas").into(),
        "Up-to-date" => seen.int("/status/updatedReplicas").into(),
        "Available" => seen.int("/status/availableReplicas").into(),
        "Selector" if kind == "ReplicationController" => seen.labels("/spec/selector").into(),
        "Selector" if kind == "Deployment" => seen.selector("/spec/selector").into(),
        "Selector" => seen.selector_or_none("/spec/selector").into(),
        _ => return None,
    })
}

fn job_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
    Some(match column {
        "Status" => {
            let known = [("Complete", "Complete"), ("Failed", "Failed")];
            let late = [
                ("Suspended", "Suspended"),
                ("FailureTarget", "FailureTarget"),
                ("SuccessCriteriaMet", "SuccessCriteriaMet"),
            ];
            let named =
                |list: &[(&str, &'static str)]| list.iter().find(|(kind, _)| seen.is_true(kind)).map(|(_, name)| *name);
            named(&known)
                .or_else(|| seen.deleted().then_some("Terminating"))
                .or_else(|| named(&late))
                .unwrap_or("Running")
                .into()
        }
        "Completions" => {
            let done = seen.int("/status/succeeded");
            match (
                seen.object.pointer("/spec/completions").and_then(Value::as_i64),
                seen.int("/spec/parallelism"),
            ) {
                (Some(wanted), _) => format!("{done}/{wanted}").into(),
                (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}").into(),
                _ => format!("{done}/1").into(),
            }
        }
        "Duration" => match parse_time(seen.text("/status/startTime")) {
            Some(start) => since(
                start,
                parse_time(seen.text("/status/completionTime")).unwrap_or(seen.now),
            )
            .into(),
            None => "".into(),
        },
        "Schedule" => seen.text("/spec/schedule").into(),
        "Timezone" => seen.text_or("/spec/timeZone", NONE).into(),
        "Suspend" => match seen.object.pointer("/spec/suspend") {
            Some(Value::Bool(true)) => "True".into(),
            Some(Value::Bool(false)) => "False".into(),
            _ => UNSET.into(),
        },
        "Active" => seen.list("/status/active").len().into(),
        "Last Schedule" => match seen.text("/status/lastScheduleTime") {
            "" => NONE.into(),
            time => age(time, seen.now).into(),
        },
        "Selector" if seen.object.pointer("/spec/jobTemplate").is_some() => {
            seen.selector_or_none("/spec/jobTemplate/spec/selector").into()
        }
        "Selector" => seen.selector_or_none("/spec/selector").into(),
        _ => return None,
    })
}

fn access_modes(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    join(
        SHORT
            .iter()
            .filter(|(mode, _)| modes.iter().any(|m| m.as_str() == Some(mode)))
            .map(|(_, short)| *short),
        ",",
    )
}

fn volume_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
    let claim = kind == "PersistentVolumeClaim";
    let bound = !claim || !seen.text("/spec/volumeName").is_empty();
    let annotated = seen
        .map("/metadata/annotations")
        .and_then(|map| map.get("volume.beta.kubernetes.io/storage-class"));
    Some(match column {
        "Name" if kind == "StorageClass" => {
            let default = seen.map("/metadata/annotations").is_some_and(|map| {
                let is_true = |key: &str| map.get(key).and_then(Value::as_str) == Some("true");
                is_true("storageclass.kubernetes.io/is-default-class")
                    || is_true("storageclass.beta.kubernetes.io/is-default-class")
            });
            format!(
                "{}{}",
                seen.text("/metadata/name"),
                if default { " (default)" } else { "" }
            )
            .into()
        }
        "Status" if seen.deleted() => "Terminating".into(),
        "Status" => seen.text("/status/phase").into(),
        "Volume" => seen.text("/spec/volumeName").into(),
        "Capacity" if !bound => "".into(),
        "Capacity" if claim => seen.text_or("/status/capacity/storage", "0").into(),
        "Capacity" => seen.text_or("/spec/capacity/storage", "0").into(),
        "Access Modes" if !bound => "".into(),
        "Access Modes" => access_modes(seen.list(if claim {
            "/status/accessModes"
        } else {
            "/spec/accessModes"
        }))
        .into(),
        "Reclaim Policy" => seen.text("/spec/persistentVolumeReclaimPolicy").into(),
        "Claim" => match seen.map("/spec/claimRef") {
            Some(_) => format!(
                "{}/{}",
                seen.text("/spec/claimRef/namespace"),
                seen.text("/spec/claimRef/name")
            )
            .into(),
            None => "".into(),
        },
        "StorageClass" => annotated
            .and_then(Value::as_str)
            .unwrap_or(seen.text("/spec/storageClassName"))
            .into(),
        "VolumeAttributesClass" => seen.text_or("/spec/volumeAttributesClassName", UNSET).into(),
        "Reason" => seen.text("/status/reason").into(),
        "VolumeMode" => seen.text_or("/spec/volumeMode", UNSET).into(),
        "Provisioner" => seen.text("/provisioner").into(),
        "ReclaimPolicy" => seen.text_or("/reclaimPolicy", "Delete").into(),
        "VolumeBindingMode" => seen.text_or("/volumeBindingMode", "Immediate").into(),
        "AllowVolumeExpansion" => seen.flag("/allowVolumeExpansion", false),
        _ => return None,
    })
}

/// At most three of the texts, and how many more there are.
fn first_three(texts: &[String]) -> String {
    match texts.len() {
        0..=3 => texts.join(","),
        more => format!("{} + {} more...", texts[..3].join(","), more - 3),
    }
}

fn network_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
    Some(match (kind, column) {
        ("Ingress", "Class") => seen.text_or("/spec/ingressClassName", NONE).into(),
        ("Ingress", "Hosts") => {
            let hosts = seen
                .list("/spec/rules")
                .iter()
                .map(|rule| text(rule, "/host").to_owned());
            let hosts: Vec<_> = hosts.filter(|host| !host.is_empty()).collect();
            if hosts.is_empty() {
                "*".into()
            } else {
                first_three(&hosts).into()
            }
        }
        ("Ingress", "Address") => ingress_addresses(seen).into(),
        ("Ingress", "Ports") => if seen.list("/spec/tls").is_empty() {
            "80"
        } else {
            "80, 443"
        }
        .into(),
        ("IngressClass", "Controller") => seen.text("/spec/controller").into(),
        ("IngressClass", "Parameters") => match seen.map("/spec/parameters") {
            None => NONE.into(),
            Some(_) => {
                let group = seen.text("/spec/parameters/apiGroup");
                let dot = if group.is_empty() { "" } else { "." };
                format!(
                    "{}{dot}{group}/{}",
                    seen.text("/spec/parameters/kind"),
                    seen.text("/spec/parameters/name")
                )
                .into()
            }
        },
        ("NetworkPolicy", "Pod-Selector") => seen.selector_or_none("/spec/podSelector").into(),
        ("Endpoints", "Endpoints") => endpoints(seen).into(),
        ("EndpointSlice", "AddressType") => seen.text("/addressType").into(),
        ("EndpointSlice", "Ports") => {
            let ports = seen
                .list("/ports")
                .iter()
                .map(|port| port.get("port").map_or_else(|| "any".to_owned(), Value::to_string));
            let ports: Vec<_> = ports.collect();
            if ports.is_empty() {
                UNSET.into()
            } else {
                first_three(&ports).into()
            }
        }
        ("EndpointSlice", "Endpoints") => {
            let of = |endpoint: &Value| {
                endpoint
                    .get("addresses")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default()
            };
            let addresses = seen.list("/endpoints").iter().flat_map(of);
            let addresses: Vec<_> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
            if addresses.is_empty() {
                UNSET.into()
            } else {
                first_three(&addresses).into()
            }
        }
        _ => return None,
    })
}

fn endpoints(seen: Seen<'_>) -> String {
    let subsets = seen.list("/subsets");
    if subsets.is_empty() {
        return NONE.to_owned();
    }
    let mut found = Vec::new();
    for subset in subsets {
        let part = |name: &str| {
            subset
                .get(name)
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        let ips: Vec<_> = part("addresses").iter().map(|address| text(address, "/ip")).collect();
        if part("ports").is_empty() {
            found.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in part("ports") {
            let port = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            found.extend(ips.iter().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{port}")
                } else {
                    format!("{ip}:{port}")
                }
            }));
        }
    }
    first_three(&found)
}

fn binding_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
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

fn other_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Value> {
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

fn driver_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
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

fn level_cell(column: &str, seen: Seen<'_>) -> Option<Value> {
    let number = |pointer: &str| {
        seen.object
            .pointer(pointer)
            .and_then(Value::as_i64)
            .map_or_else(|| NONE.into(), Value::from)
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
