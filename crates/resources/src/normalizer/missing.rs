//! Defaults of absent fields that depend on the fields before them, from their text alone.
//!
//! Each of these is a rule of `defaults`, or a part of one, in the terms of the scan. One that cannot tell says so, and
//! the value is decoded.

use std::borrow::Cow;

use crate::defaults::has_latest_tag;
use crate::defaults::satisfied::RawFields;

/// What becomes of an absent field.
#[derive(Debug)]
pub(super) enum Absent {
    /// It stays so.
    Stays,
    /// It gets this value.
    Gets(Cow<'static, str>),
    /// Only the decoded value can tell.
    Unknown,
}

/// Where the value is whose field is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A pod, in a container that is no ephemeral one.
    Container,
    /// A pod, elsewhere.
    Pod,
    /// Anything else, templates of pods included.
    Other,
}

/// Looks at the fields before an absent one.
pub(super) type Decide = fn(&dyn RawFields, field: &str, owner: Owner) -> Absent;

/// The fields of a type that are decided so, and how.
pub(super) fn decide_of(ty: &str) -> Option<(&'static [&'static str], Decide)> {
    let decided: (&[&str], Decide) = match ty {
        "core.v1.Container" | "core.v1.EphemeralContainer" => (&["imagePullPolicy"], |container, _, _| {
            pull_policy(container.get("image"))
        }),
        "core.v1.ImageVolumeSource" => (&["pullPolicy"], |volume, _, _| pull_policy(volume.get("reference"))),
        "core.v1.PodSpec" => (&["enableServiceLinks"], |_, _, owner| match owner {
            Owner::Pod => Absent::Gets("true".into()),
            Owner::Container | Owner::Other => Absent::Stays,
        }),
        "core.v1.ResourceRequirements" => (&["requests"], |resources, _, owner| {
            match (owner, resources.get("limits")) {
                (Owner::Container, Some(limits)) => gets(Some(limits)),
                _ => Absent::Stays,
            }
        }),
        "core.v1.ServicePort" => (&["targetPort"], |port, _, _| gets(port.get("port"))),
        "core.v1.NodeStatus" => (&["allocatable"], |status, _, _| match status.get("capacity") {
            Some(capacity) => gets(Some(capacity)),
            None => Absent::Stays,
        }),
        "core.v1.LoadBalancerIngress" => (&["ipMode"], |ingress, _, _| match ingress.get("ip") {
            Some(_) => Absent::Gets("\"VIP\"".into()),
            None => Absent::Stays,
        }),
        "core.v1.ServiceSpec" => (
            &[
                "externalTrafficPolicy",
                "allocateLoadBalancerNodePorts",
                "internalTrafficPolicy",
            ],
            service,
        ),
        "apps.v1.DeploymentStrategy" => (&["rollingUpdate"], |strategy, _, _| match strategy.get("type") {
            Some("\"RollingUpdate\"") => Absent::Gets(r#"{"maxUnavailable":"25%","maxSurge":"25%"}"#.into()),
            _ => Absent::Stays,
        }),
        "apps.v1.DaemonSetUpdateStrategy" => (&["rollingUpdate"], |strategy, _, _| match strategy.get("type") {
            Some("\"RollingUpdate\"") => Absent::Gets(r#"{"maxUnavailable":1,"maxSurge":0}"#.into()),
            _ => Absent::Stays,
        }),
        "rbac.v1.Subject" => (&["apiGroup"], |subject, _, _| match subject.get("kind") {
            Some("\"User\"" | "\"Group\"") => Absent::Gets("\"rbac.authorization.k8s.io\"".into()),
            _ => Absent::Stays,
        }),
        _ => return None,
    };
    Some(decided)
}

fn gets(text: Option<&str>) -> Absent {
    text.map_or(Absent::Unknown, |text| Absent::Gets(Cow::Owned(text.to_owned())))
}

/// How an image of this quoted name is pulled.
fn pull_policy(image: Option<&str>) -> Absent {
    let image = image.unwrap_or("\"\"");
    let image = image.strip_prefix('"').and_then(|image| image.strip_suffix('"'));
    match image {
        Some(image) if !image.contains('\\') => Absent::Gets(
            match has_latest_tag(image) {
                true => "\"Always\"",
                false => "\"IfNotPresent\"",
            }
            .into(),
        ),
        _ => Absent::Unknown,
    }
}

fn service(spec: &dyn RawFields, field: &str, _: Owner) -> Absent {
    let ty = spec.get("type");
    let is_external = matches!(ty, Some("\"NodePort\"" | "\"LoadBalancer\""));
    let is_set = match field {
        "externalTrafficPolicy" => is_external || ty == Some("\"ClusterIP\"") && spec.get("externalIPs").is_some(),
        "internalTrafficPolicy" => is_external || ty == Some("\"ClusterIP\""),
        _ => ty == Some("\"LoadBalancer\""),
    };
    match (is_set, field) {
        (false, _) => Absent::Stays,
        (true, "allocateLoadBalancerNodePorts") => Absent::Gets("true".into()),
        (true, _) => Absent::Gets("\"Cluster\"".into()),
    }
}
