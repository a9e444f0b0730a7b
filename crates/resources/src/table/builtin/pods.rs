//! Pods: one state, worked out from phase, conditions and containers, shown in several columns.

use jiff::Timestamp;
use serde_json::Value;

use super::super::cell::Cell;
use super::super::text;
use super::seen::{NONE, Seen};
use crate::fieldvalidation::parse_time;

/// What three columns of a pod are made of.
pub(super) struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl PodState {
    pub(super) fn of(seen: Seen<'_>) -> Self {
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

pub(super) fn pod_cell(column: &str, seen: Seen<'_>, state: &PodState) -> Option<Cell> {
    Some(match column {
        "Ready" => format!("{}/{}", state.ready, state.total).into(),
        "Status" => state.reason.as_str().into(),
        "Restarts" => match state.last_restart.filter(|_| state.restarts != 0) {
            Some(at) => Cell::since(at).between(format!("{} (", state.restarts), " ago)"),
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
