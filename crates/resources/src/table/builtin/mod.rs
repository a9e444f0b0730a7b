//! The cells of built-in kinds.
//!
//! Cells are made by column: a kind's own columns first, then those that mean the same everywhere (name, age, containers). A column
//! that nobody knows how to fill is empty, so every row has as many cells as there are columns.

mod core;
mod network;
mod others;
mod pods;
mod seen;
mod volumes;
mod workloads;

use serde_json::Value;

use self::core::{event_cell, node_cell, service_cell, small_cell};
use self::network::network_cell;
use self::others::{binding_cell, other_cell};
use self::pods::{PodState, pod_cell};
use self::seen::Seen;
use self::volumes::volume_cell;
use self::workloads::{job_cell, workload_cell};
use super::cell::{Cell, age};

/// The cells of an object of a built-in kind, one per column.
pub(super) fn cells(group: &str, kind: &str, columns: &[String], object: &Value) -> Vec<Cell> {
    let seen = Seen { object };
    // The state of a pod is worked out once and shown in three columns.
    let pod = (kind == "Pod").then(|| PodState::of(seen));
    columns
        .iter()
        .map(|column| cell(group, kind, column, seen, pod.as_ref()))
        .collect()
}

fn cell(group: &str, kind: &str, column: &str, seen: Seen<'_>, pod: Option<&PodState>) -> Cell {
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
fn common_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
    Some(match column {
        "Name" => seen.text("/metadata/name").into(),
        "Age" => age(seen.text("/metadata/creationTimestamp")),
        "Created At" => seen.text("/metadata/creationTimestamp").into(),
        "Containers" => seen.containers("name").into(),
        "Images" => seen.containers("image").into(),
        _ => return None,
    })
}
