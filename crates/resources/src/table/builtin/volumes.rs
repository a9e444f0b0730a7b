//! Persistent volumes, claims and their classes.

use serde_json::Value;

use super::super::cell::Cell;
use super::seen::{Seen, UNSET, join};

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

pub(super) fn volume_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
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
