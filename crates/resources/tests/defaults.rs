//! Defaults against what a real server answered.

mod common;

use apiserver_resources::defaults::apply_defaults;
use apiserver_resources::types::Gvk;
use apiserver_resources::wire;
use common::{assert_same_text, objects, system, type_of};
use serde_json::{Value, json};

fn served(gvk: Gvk<'_>, object: &Value) -> Vec<u8> {
    wire::encode_served(gvk, object).expect("an object of the kind")
}

/// Defaults of an object that the server has defaulted already: none.
#[track_caller]
fn check_complete(name: &str, object: &Value) {
    let (api_version, kind) = type_of(object);
    let gvk = Gvk::of(&api_version, &kind);
    let mut defaulted = object.clone();
    apply_defaults(gvk, &mut defaulted);
    assert_same_text(name, &served(gvk, &defaulted), &served(gvk, object));
}

#[test]
fn what_a_server_answered_gets_nothing_more() {
    let mut count = 0;
    for recorded in objects()
        .iter()
        .filter(|recorded| !recorded.key.contains("shop.example.com/"))
    {
        check_complete(&recorded.name, &recorded.served);
        count += 1;
    }
    assert!(count > 140, "{count} objects");
}

#[test]
fn what_a_server_wrote_by_itself_gets_nothing_more() {
    for (key, bytes) in system() {
        check_complete(&key, &serde_json::from_slice(&bytes).expect("JSON"));
    }
}

/// The defaulted form of an object, without `apiVersion`, `kind` and what only strategies and admission set.
#[track_caller]
fn check(api_version: &str, kind: &str, mut object: Value, want: &Value) {
    let gvk = Gvk::of(api_version, kind);
    apply_defaults(gvk, &mut object);
    let mut have: Value = serde_json::from_slice(&served(gvk, &object)).expect("JSON");
    have.as_object_mut()
        .expect("an object")
        .retain(|name, _| name != "apiVersion" && name != "kind");
    if have["metadata"] == json!({}) {
        have.as_object_mut().expect("an object").remove("metadata");
    }
    assert_eq!(&have, want);
}

// covers: registry/R-RES-16
#[test]
fn texts_of_a_secret_become_bytes_and_win() {
    check(
        "v1",
        "Secret",
        json!({"stringData": {"user": "me", "x": "new"}, "data": {"x": "AQI=", "y": "AQI="}}),
        &json!({"data": {"user": "bWU=", "x": "bmV3", "y": "AQI="}, "type": "Opaque"}),
    );
}

#[test]
fn a_pod_gets_what_the_recorded_pod_got() {
    let container = json!({
        "name": "c", "image": "busybox", "resources": {}, "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File", "imagePullPolicy": "Always"
    });
    let mut spec = json!({
        "containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst", "securityContext": {}, "schedulerName": "default-scheduler"
    });
    let given = json!({"containers": [{"name": "c", "image": "busybox"}]});
    check(
        "apps/v1",
        "Deployment",
        json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"spec": given}}}),
        &json!({
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {}, "spec": spec},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
                "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600
            },
            "status": {}
        }),
    );
    spec["enableServiceLinks"] = json!(true);
    check(
        "v1",
        "Pod",
        json!({"spec": given}),
        &json!({"spec": spec, "status": {}}),
    );
}

#[test]
fn requests_come_from_limits_and_ports_from_the_host_network_in_pods_alone() {
    let given = json!({
        "hostNetwork": true,
        "containers": [{
            "name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": "1000m"}}
        }]
    });
    let resources = |object: &Value, at: &str| object.pointer(at).cloned().unwrap_or_default();
    let mut pod = json!({"spec": given});
    apply_defaults(Gvk::of("v1", "Pod"), &mut pod);
    assert_eq!(
        resources(&pod, "/spec/containers/0/resources"),
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})
    );
    assert_eq!(
        resources(&pod, "/spec/containers/0/ports/0"),
        json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
    );
    let mut set = json!({"spec": {"template": {"spec": given}}});
    apply_defaults(Gvk::of("apps/v1", "ReplicaSet"), &mut set);
    let at = "/spec/template/spec/containers/0/";
    assert_eq!(resources(&set, &format!("{at}resources/requests")), json!({"cpu": "1"}));
    assert_eq!(
        resources(&set, &format!("{at}ports/0")),
        json!({"containerPort": 80, "protocol": "TCP"})
    );
}

#[test]
fn services_get_what_goes_with_their_type_and_affinity() {
    let port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
    for (given, want) in [
        (
            json!({}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}),
        ),
        (
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 0}]}),
            json!({
                "type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [port],
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true
            }),
        ),
        (
            json!({"type": "ExternalName", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}),
            json!({"type": "ExternalName", "sessionAffinity": "None"}),
        ),
        (
            json!({"externalIPs": ["192.0.2.1"], "internalTrafficPolicy": "Local"}),
            json!({
                "type": "ClusterIP", "externalIPs": ["192.0.2.1"], "sessionAffinity": "None",
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Local"
            }),
        ),
    ] {
        check(
            "v1",
            "Service",
            json!({"spec": given}),
            &json!({"spec": want, "status": {"loadBalancer": {}}}),
        );
    }
}

#[test]
fn parameters_of_a_rolling_update_come_only_with_that_strategy() {
    for (kind, field, given, want) in [
        (
            "Deployment",
            "strategy",
            json!({"type": "Recreate"}),
            json!({"type": "Recreate"}),
        ),
        (
            "Deployment",
            "strategy",
            json!({"rollingUpdate": {"maxSurge": 1}}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}),
        ),
        (
            "DaemonSet",
            "updateStrategy",
            json!({}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}),
        ),
        (
            "DaemonSet",
            "updateStrategy",
            json!({"type": "OnDelete"}),
            json!({"type": "OnDelete"}),
        ),
        (
            "StatefulSet",
            "updateStrategy",
            json!({}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        ),
        (
            "StatefulSet",
            "updateStrategy",
            json!({"type": "RollingUpdate"}),
            json!({"type": "RollingUpdate"}),
        ),
    ] {
        let mut object = json!({"spec": {}});
        object["spec"][field] = given;
        apply_defaults(Gvk::of("apps/v1", kind), &mut object);
        assert_eq!(object["spec"][field], want, "{kind}");
    }
}

#[test]
fn jobs_get_defaults_and_job_templates_do_not() {
    for (given, want) in [
        (json!({}), json!([1, 1, 6, "TerminatingOrFailed"])),
        (json!({"parallelism": 2}), json!([null, 2, 6, "TerminatingOrFailed"])),
        (
            json!({"completions": 3, "backoffLimitPerIndex": 1}),
            json!([3, 1, 2147483647, "TerminatingOrFailed"]),
        ),
        (json!({"podFailurePolicy": {"rules": []}}), json!([1, 1, 6, "Failed"])),
    ] {
        let mut job = json!({"spec": given});
        apply_defaults(Gvk::of("batch/v1", "Job"), &mut job);
        let spec = &job["spec"];
        let have = json!([
            spec["completions"],
            spec["parallelism"],
            spec["backoffLimit"],
            spec["podReplacementPolicy"]
        ]);
        assert_eq!(have, want);
    }
    let mut cron = json!({"spec": {"jobTemplate": {"spec": {}}}});
    apply_defaults(Gvk::of("batch/v1", "CronJob"), &mut cron);
    assert_eq!(cron["spec"]["concurrencyPolicy"], "Allow");
    assert_eq!(cron.pointer("/spec/jobTemplate/spec/backoffLimit"), None);
    assert_eq!(
        cron.pointer("/spec/jobTemplate/spec/template/spec/restartPolicy"),
        Some(&json!("Always"))
    );
}

#[test]
fn names_and_labels_come_from_elsewhere_in_the_object() {
    check(
        "v1",
        "Namespace",
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}}),
        &json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a", "x": "y"}},
            "spec": {}, "status": {"phase": "Active"}
        }),
    );
    check(
        "v1",
        "Namespace",
        json!({}),
        &json!({"spec": {}, "status": {"phase": "Active"}}),
    );
    let mut controller = json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
    apply_defaults(Gvk::of("v1", "ReplicationController"), &mut controller);
    assert_eq!(controller["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(controller["spec"]["selector"], json!({"a": "b"}));
}

#[test]
fn other_rules() {
    let autoscaler =
        json!({"spec": {"scaleTargetRef": {}, "behavior": {"scaleUp": {"stabilizationWindowSeconds": 5}}}});
    let definition = json!({
        "spec": {"names": {"kind": "Widget", "plural": "widgets"}, "versions": [{"name": "v2", "storage": true}]}
    });
    for (api_version, kind, given, pointer, want) in [
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"spec": {}}),
            "/spec/policyTypes",
            json!(["Ingress"]),
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"spec": {"egress": [{}]}}),
            "/spec/policyTypes",
            json!(["Ingress", "Egress"]),
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
            "/subjects",
            json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}]),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"volumes": [{"name": "v"}]}}),
            "/spec/volumes/0/emptyDir",
            json!({}),
        ),
        (
            "v1",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
            "/spec/limits/0/defaultRequest",
            json!({"cpu": "2", "memory": "1Mi"}),
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            autoscaler,
            "/spec/behavior/scaleUp",
            json!({
                "stabilizationWindowSeconds": 5, "selectPolicy": "Max",
                "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}
                ]
            }),
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            definition.clone(),
            "/spec/names",
            json!({"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"}),
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            definition,
            "/status/storedVersions",
            json!(["v2"]),
        ),
    ] {
        let mut object = given;
        apply_defaults(Gvk::of(api_version, kind), &mut object);
        assert_eq!(object.pointer(pointer), Some(&want), "{kind} {pointer}");
    }
}

#[test]
fn values_of_another_shape_are_left_alone() {
    for given in [
        json!({"spec": "text"}),
        json!({"spec": {"containers": {"a": 1}, "volumes": ["v", 3, null]}}),
        json!({"spec": {"containers": [{"resources": [], "ports": "x", "image": 7}], "overhead": {"cpu": []}}}),
        json!([]),
        json!("text"),
    ] {
        for kind in ["Pod", "Service", "Namespace", "Secret", "ReplicationController"] {
            let mut object = given.clone();
            apply_defaults(Gvk::of("v1", kind), &mut object);
            assert_eq!(
                object.get("spec").is_some_and(Value::is_string),
                given.get("spec").is_some_and(Value::is_string)
            );
        }
    }
}
