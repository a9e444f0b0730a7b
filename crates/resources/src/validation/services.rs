//! Services.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::metadata::labels;
use super::{FieldError, FieldPath, faults, int, list, names, one_of, port_number, port_or_name, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn is_headless(object: &Value) -> bool {
    text(object, "/spec/clusterIP") == "None" || list(object, "/spec/clusterIPs").first().is_some_and(|ip| ip == "None")
}

pub(super) fn service(object: &Value, errors: &mut Vec<FieldError>) {
    let at = FieldPath::new("spec");
    let kind = text(object, "/spec/type");
    let headless = is_headless(object);
    let ports = list(object, "/spec/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&at.child("ports"), ""));
    }
    if kind == "ExternalName" {
        external_name(object, &at, errors);
    }
    let mut names_seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        service_port(
            port,
            ports.len() > 1,
            headless,
            &mut names_seen,
            &at.child("ports").index(index),
            errors,
        );
    }
    labels(object.pointer("/spec/selector"), &at.child("selector"), errors);
    one_of(
        &at.child("sessionAffinity"),
        text(object, "/spec/sessionAffinity"),
        &["ClientIP", "None"],
        errors,
    );
    one_of(&at.child("type"), kind, &TYPES, errors);
    cluster_ips(object, kind, &at.child("clusterIPs"), errors);
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(
        &at.child("ipFamilyPolicy"),
        text(object, "/spec/ipFamilyPolicy"),
        &policies,
        errors,
    );
    external_ips(object, &at.child("externalIPs"), errors);
    if kind == "ClusterIP" {
        for (index, port) in ports.iter().enumerate() {
            if int(port, "/nodePort").unwrap_or(0) != 0 {
                let at = at.child("ports").index(index).child("nodePort");
                errors.push(FieldError::forbidden(&at, "may not be used when `type` is 'ClusterIP'"));
            }
        }
    }
    unique_ports(ports, &at.child("ports"), errors);
    if kind != "LoadBalancer" && !text(object, "/spec/loadBalancerClass").is_empty() {
        errors.push(FieldError::forbidden(
            &at.child("loadBalancerClass"),
            "may only be used when `type` is 'LoadBalancer'",
        ));
    }
    let external = matches!(kind, "LoadBalancer" | "NodePort") || !list(object, "/spec/externalIPs").is_empty();
    let policy = text(object, "/spec/externalTrafficPolicy");
    if !policy.is_empty() && !external {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&at.child("externalTrafficPolicy"), policy, detail));
    } else {
        one_of(
            &at.child("externalTrafficPolicy"),
            policy,
            &["Cluster", "Local"],
            errors,
        );
    }
}

fn external_name(object: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let name = text(object, "/spec/externalName");
    // A dot at the end makes a name absolute and is no fault.
    let plain = name.strip_suffix('.').unwrap_or(name);
    if plain.is_empty() {
        errors.push(FieldError::required(&at.child("externalName"), ""));
    } else {
        errors.extend(
            names::dns1123_subdomain(plain)
                .into_iter()
                .map(|fault| FieldError::invalid(&at.child("externalName"), name, fault)),
        );
    }
}

fn service_port<'v>(
    port: &'v Value,
    needs_name: bool,
    headless: bool,
    seen: &mut HashSet<&'v str>,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let name = text(port, "/name");
    if name.is_empty() {
        if needs_name {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
    } else {
        faults(&at.child("name"), name, names::dns1123_label(name), errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
    let number = int(port, "/port").unwrap_or(0);
    port_number(&at.child("port"), number, errors);
    if text(port, "/protocol").is_empty() {
        errors.push(FieldError::required(&at.child("protocol"), ""));
    } else {
        one_of(
            &at.child("protocol"),
            text(port, "/protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
    // Absent it is the port itself.
    let default = Value::from(number);
    let target = port
        .get("targetPort")
        .filter(|t| !t.is_null() && **t != 0 && **t != "")
        .unwrap_or(&default);
    if !headless || target.is_string() {
        port_or_name(&at.child("targetPort"), Some(target), errors);
    }
}

fn unique_ports(ports: &[Value], at: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (text(port, "/protocol"), int(port, "/port").unwrap_or(0));
        if !seen.insert((protocol, number)) {
            let value = json!({"protocol": protocol, "port": number});
            // Upstream prints the field names of its internal type.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.push(FieldError::duplicate(&at.index(index), value).shown_as(shown));
        }
    }
}

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn cluster_ips(object: &Value, kind: &str, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let single = object
        .pointer("/spec/clusterIP")
        .filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty()));
    let given = list(object, "/spec/clusterIPs");
    let ips: Vec<_> = if given.is_empty() {
        single.into_iter().collect()
    } else {
        given.iter().collect()
    };
    for (index, ip) in ips.into_iter().filter_map(Value::as_str).enumerate() {
        let at = at.index(index);
        if ip == "None" {
            if index > 0 {
                errors.push(FieldError::invalid(
                    &at,
                    ip,
                    "must be empty when `clusterIPs[0]` is 'None'",
                ));
            } else if matches!(kind, "NodePort" | "LoadBalancer") {
                let detail = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid(&at, ip, detail));
            }
        } else if kind != "ExternalName" {
            match ip.parse::<IpAddr>() {
                Ok(parsed) => {
                    let family = if parsed.is_ipv4() { "IPv4" } else { "IPv6" };
                    let wanted = list(object, "/spec/ipFamilies").get(index).and_then(Value::as_str);
                    if let Some(wanted) = wanted.filter(|wanted| *wanted != family) {
                        let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
                        errors.push(FieldError::invalid(&at, ip, detail));
                    }
                }
                Err(_) => errors.push(FieldError::invalid(&at, ip, NOT_AN_IP)),
            }
        }
    }
}

fn external_ips(object: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, text) in list(object, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let at = at.index(index);
        let Ok(ip) = text.parse::<IpAddr>() else {
            errors.push(FieldError::invalid(&at, text, NOT_AN_IP));
            continue;
        };
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if ip.is_unspecified() {
            errors.push(FieldError::invalid(
                &at,
                text,
                format!("may not be unspecified ({text})"),
            ));
        }
        if ip.is_loopback() {
            errors.push(FieldError::invalid(
                &at,
                text,
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ));
        }
        if link_local {
            errors.push(FieldError::invalid(
                &at,
                text,
                "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            ));
        }
        if ip.is_multicast() {
            errors.push(FieldError::invalid(
                &at,
                text,
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
            ));
        }
    }
}

/// Reports a change of an address that was given: only a change of the type may take it away.
pub(super) fn service_update(object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let needs = |object: &Value| text(object, "/spec/type") != "ExternalName";
    if !needs(object) || !needs(old) {
        return;
    }
    // The single address and the list say the same; a request that changes the single one alone means both.
    let first = |object: &Value| {
        let listed = list(object, "/spec/clusterIPs").first().and_then(Value::as_str);
        listed.unwrap_or(text(object, "/spec/clusterIP")).to_owned()
    };
    let single = text(object, "/spec/clusterIP");
    let changed = !single.is_empty() && single != text(old, "/spec/clusterIP");
    let (was, is) = (first(old), if changed { single.to_owned() } else { first(object) });
    if !was.is_empty() && was != is {
        let at = FieldPath::new("spec").child("clusterIPs").index(0);
        errors.push(FieldError::invalid(&at, json!([is]), "may not change once set"));
    }
}
