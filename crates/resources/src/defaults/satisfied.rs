//! Whether a rule would change nothing, told from the JSON text of a value's fields.
//!
//! This is for the scan of stored values, which wants to know without decoding. A check may say no where a rule would
//! change nothing after all: then the value is decoded, and that is all.

/// The JSON text of a field, where the field is there.
pub(crate) trait RawFields {
    /// Looks a field up by its JSON name.
    fn get(&self, name: &str) -> Option<&str>;

    /// How many fields are there.
    fn count(&self) -> usize;
}

/// Looks at the fields of one value.
pub(crate) type Check = fn(&dyn RawFields) -> bool;

/// The check that goes with the rule of a type; a type that has a rule and no check is always decoded.
pub(crate) fn check_of(ty: &str) -> Option<Check> {
    let check: Check = match ty {
        "core.v1.Container" | "core.v1.EphemeralContainer" => |container| container.get("imagePullPolicy").is_some(),
        "core.v1.ImageVolumeSource" => |volume| volume.get("pullPolicy").is_some(),
        // Its name, which is always there, and a source.
        "core.v1.Volume" => |volume| volume.count() > 1,
        "core.v1.Secret" => |secret| secret.get("stringData").is_none(),
        "core.v1.NodeStatus" => |status| status.get("allocatable").is_some() || status.get("capacity").is_none(),
        "core.v1.ServicePort" => |port| {
            port.get("targetPort")
                .is_some_and(|target| target != "0" && target != "\"\"")
        },
        "core.v1.LoadBalancerIngress" => |ingress| ingress.get("ip").is_none() || ingress.get("ipMode").is_some(),
        "core.v1.ServiceSpec" => service_spec,
        "core.v1.Namespace" => |namespace| namespace.get("metadata").is_some_and(names_itself),
        "apps.v1.DeploymentStrategy" | "apps.v1.DaemonSetUpdateStrategy" => rolling_update,
        "apps.v1.StatefulSetUpdateStrategy" => |strategy| {
            let partition = strategy
                .get("rollingUpdate")
                .is_none_or(|rolling| rolling.contains("\"partition\":"));
            strategy.get("type").is_some() && partition
        },
        "apps.v1.StatefulSetSpec" => |spec| spec.get("volumeClaimTemplates").is_none(),
        "rbac.v1.Subject" => |subject| {
            subject.get("apiGroup").is_some() || !matches!(subject.get("kind"), Some("\"User\"" | "\"Group\""))
        },
        "networking.v1.NetworkPolicySpec" => |spec| spec.get("policyTypes").is_some(),
        _ => return None,
    };
    Some(check)
}

fn service_spec(spec: &dyn RawFields) -> bool {
    let affinity = match spec.get("sessionAffinity") {
        Some("\"None\"") => spec.get("sessionAffinityConfig").is_none(),
        Some("\"ClientIP\"") => spec
            .get("sessionAffinityConfig")
            .is_some_and(|config| config.contains("\"timeoutSeconds\":")),
        _ => false,
    };
    let traffic = match spec.get("type") {
        Some("\"ClusterIP\"") => {
            spec.get("internalTrafficPolicy").is_some()
                && (spec.get("externalIPs").is_none() || spec.get("externalTrafficPolicy").is_some())
        }
        Some("\"NodePort\"") => {
            spec.get("internalTrafficPolicy").is_some() && spec.get("externalTrafficPolicy").is_some()
        }
        Some("\"LoadBalancer\"") => [
            "internalTrafficPolicy",
            "externalTrafficPolicy",
            "allocateLoadBalancerNodePorts",
        ]
        .iter()
        .all(|name| spec.get(name).is_some()),
        Some("\"ExternalName\"") => true,
        _ => false,
    };
    affinity && traffic
}

fn rolling_update(strategy: &dyn RawFields) -> bool {
    match strategy.get("type") {
        Some("\"RollingUpdate\"") => strategy
            .get("rollingUpdate")
            .is_some_and(|rolling| rolling.contains("\"maxUnavailable\":") && rolling.contains("\"maxSurge\":")),
        Some(_) => true,
        None => false,
    }
}

/// Whether the metadata of a namespace has its name, which comes first, as a label.
fn names_itself(metadata: &str) -> bool {
    let Some(rest) = metadata.strip_prefix("{\"name\":\"") else {
        return false;
    };
    let Some((name, rest)) = rest.split_once('"') else {
        return false;
    };
    // Names are never escaped; a value that is goes the other way.
    let Some((_, labels)) = rest.split_once(",\"labels\":{") else {
        return false;
    };
    let labels = labels.split_once('}').map_or(labels, |(labels, _)| labels);
    !name.is_empty() && !name.contains('\\') && labels.contains(&format!("\"kubernetes.io/metadata.name\":\"{name}\""))
}
