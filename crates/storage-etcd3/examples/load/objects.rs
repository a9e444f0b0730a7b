//! The objects: pods of a given size with one field that changes, and a realistic large one.

use serde_json::{Map, Value, json};

/// Digits at the end of a name, and of the counter in the object.
pub(crate) const DIGITS: usize = 10;
const NAME_HOLE: &str = "pod-0000000000";
const COUNTER_HOLE: &str = "#000000000";

/// A pod of a fixed size, in which the name and a counter can be set without encoding it again.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    name: usize,
    counter: usize,
}

impl Template {
    /// A pod whose stored form has `size` bytes, a final newline included.
    pub(crate) fn of_size(size: usize) -> Self {
        let mut containers = 0;
        // As much structure as fits, as real pods have it; the rest is one annotation.
        while encoded(&pod(containers + 1, 0)).len() < size {
            containers += 1;
        }
        let short = size.saturating_sub(1 + encoded(&pod(containers, 0)).len());
        Self::new(&pod(containers, short))
    }

    fn new(pod: &Value) -> Self {
        let mut bytes = encoded(pod);
        bytes.push(b'\n');
        let find = |hole: &str| {
            let places = bytes.windows(hole.len()).position(|window| window == hole.as_bytes());
            places.unwrap_or_default()
        };
        let (name, counter) = (find(NAME_HOLE), find(COUNTER_HOLE));
        Self { bytes, name, counter }
    }

    /// The stored form of a pod.
    pub(crate) fn fill(&self, number: usize, counter: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        write_digits(&mut bytes[self.name + "pod-".len()..], number);
        write_digits(&mut bytes[self.counter..], counter);
        bytes
    }
}

/// The name of a pod.
pub(crate) fn name(number: usize) -> String {
    format!("pod-{number:0DIGITS$}")
}

fn write_digits(out: &mut [u8], mut number: usize) {
    for digit in out[..DIGITS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// Compact, keys sorted.
fn encoded(pod: &Value) -> Vec<u8> {
    pod.to_string().into_bytes()
}

/// Containers that make a pod of about 18 KiB of YAML.
const EXEMPLAR_CONTAINERS: usize = 16;

/// A realistic large pod.
// measures: storage-api/BENCH-06
pub(crate) fn exemplar() -> Value {
    pod(EXEMPLAR_CONTAINERS, 0)
}

fn container(number: usize) -> Value {
    json!({
        "command": ["/bin/server", "--listen", format!(":{}", 8000 + number), "--verbose=2"],
        "env": [
            { "name": "POD_NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
            { "name": "REGION", "value": "eu-central-1" },
        ],
        "image": format!("registry.example.com/team/service-{number}:v1.27.{number}"),
        "imagePullPolicy": "IfNotPresent",
        "livenessProbe": {
            "failureThreshold": 3,
            "httpGet": { "path": "/livez", "port": 8000 + number, "scheme": "HTTP" },
            "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1,
        },
        "name": format!("service-{number}"),
        "ports": [{ "containerPort": 8000 + number, "name": "http", "protocol": "TCP" }],
        "resources": { "limits": { "cpu": "500m", "memory": "256Mi" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [{
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access", "readOnly": true,
        }],
    })
}

fn pod(containers: usize, padding: usize) -> Value {
    let condition = |kind: &str| json!({ "lastProbeTime": null, "lastTransitionTime": "2026-01-05T08:12:09Z", "status": "True", "type": kind });
    let mut annotations = Map::new();
    annotations.insert("bench.example.com/counter".to_owned(), json!(COUNTER_HOLE));
    annotations.insert("bench.example.com/padding".to_owned(), json!("x".repeat(padding)));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": annotations,
            "creationTimestamp": "2026-01-05T08:12:01Z",
            "labels": { "app": "service", "pod-template-hash": "5d4f8c7b9", "tier": "backend" },
            "name": NAME_HOLE,
            "namespace": "bench",
            "uid": "0f4c2b6e-5d0a-4a53-9d0c-6f3b1c2a7e11",
        },
        "spec": {
            "containers": (0..containers).map(container).collect::<Vec<_>>(),
            "nodeName": "node-0042",
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
        },
        "status": {
            "conditions": (["Initialized", "Ready"].map(condition)),
            "phase": "Running",
            "podIP": "10.42.0.17",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and bytes of a value as YAML in block style, as kubectl shows it.
    fn yaml_bytes(value: &Value, indent: usize) -> usize {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| indent + name.len() + 2 + nested(value, indent + 2))
                .sum(),
            Value::Array(items) => items.iter().map(|item| 2 + nested(item, indent + 2)).sum(),
            scalar => scalar.to_string().len() + 1,
        }
    }

    fn nested(value: &Value, indent: usize) -> usize {
        match value {
            Value::Object(_) | Value::Array(_) => 1 + yaml_bytes(value, indent),
            scalar => yaml_bytes(scalar, indent),
        }
    }

    #[test]
    fn the_exemplar_has_about_18_kib_of_yaml() {
        let bytes = yaml_bytes(&exemplar(), 0);
        assert!((17 * 1024..=19 * 1024).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn a_template_has_its_size_and_its_holes() {
        for size in [1_024, 9_216] {
            let filled = Template::of_size(size).fill(42, 7);
            assert_eq!(filled.len(), size);
            let pod: Value = serde_json::from_slice(&filled).unwrap();
            assert_eq!(pod["metadata"]["name"], "pod-0000000042");
            assert_eq!(
                pod["metadata"]["annotations"]["bench.example.com/counter"],
                "0000000007"
            );
            let stored = [encoded(&pod).as_slice(), b"\n"].concat();
            assert_eq!(stored, filled, "it is in the stored form");
        }
    }
}
