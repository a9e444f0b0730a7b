//! Kinds that run pods: deployments and their like, jobs.

use serde_json::Value;

use super::super::cell::{Cell, age};
use super::super::human_duration;
use super::seen::{NONE, Seen, UNSET};
use crate::fieldvalidation::parse_time;

pub(super) fn workload_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
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

pub(super) fn job_cell(column: &str, seen: Seen<'_>) -> Option<Cell> {
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
            Some(start) => match parse_time(seen.text("/status/completionTime")) {
                Some(end) => human_duration(end.as_second() - start.as_second()).into(),
                None => Cell::since(start),
            },
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
            time => age(time),
        },
        "Selector" if seen.object.pointer("/spec/jobTemplate").is_some() => {
            seen.selector_or_none("/spec/jobTemplate/spec/selector").into()
        }
        "Selector" => seen.selector_or_none("/spec/selector").into(),
        _ => return None,
    })
}
