//! Ingresses, network policies, endpoints.

use serde_json::Value;

use super::super::cell::Cell;
use super::super::text;
use super::core::ingress_addresses;
use super::seen::{NONE, Seen, UNSET};

/// At most three of the texts, and how many more there are.
fn first_three(texts: &[String]) -> String {
    match texts.len() {
        0..=3 => texts.join(","),
        more => format!("{} + {} more...", texts[..3].join(","), more - 3),
    }
}

pub(super) fn network_cell(kind: &str, column: &str, seen: Seen<'_>) -> Option<Cell> {
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
