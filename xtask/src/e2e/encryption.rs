//! Secrets at rest: what etcd holds is ciphertext in Kubernetes' own format, keys can be rotated, a missing key is named.

use anyhow::{Result, ensure};

use super::backend;
use super::etcd::Etcd;
use super::kubectl::Kubectl;
use super::report::contains;
use super::server::Server;
use super::{Report, World};

/// Two test keys of 32 bytes, in base64.
const KEYS: [(&str, &str); 2] = [
    ("key1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ("key2", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="),
];
/// The text of the secrets, as it would stand in plain JSON.
const PLAIN: &str = "aHVudGVyMg==";

/// Runs the scenario.
pub(super) fn run(world: &World<'_>, report: &mut Report) -> Result<()> {
    let etcd = report.need("start etcd", || backend::etcd(world, 1, None))?;
    let start = |name: &str, providers: &[&str]| -> Result<(Server, Kubectl)> {
        let file = world.folder.join(format!("{name}.yaml"));
        std::fs::write(&file, configuration(providers))?;
        let mut flags = etcd.flags();
        flags.push(format!("--encryption-provider-config={}", file.display()));
        let server = Server::start(world.server, &world.folder, name, flags)?;
        let kubectl = Kubectl::new(&world.tools.kubectl, Some(server.url()), &world.folder)?;
        Ok((server, kubectl))
    };
    let create = |k: &Kubectl, name: &str| k.run(&format!("create secret generic {name} --from-literal=word=hunter2"));

    let (mut server, k) = report.need("start the server with one key", || start("one-key", &["key1"]))?;
    report.step(
        "a secret is stored as k8s:enc:aesgcm:v1:key1: and served in the clear",
        || {
            create(&k, "first")?;
            stored_with(&etcd, "first", "key1")?;
            k.prints_exactly("get secret first -o jsonpath={.data.word}", PLAIN)
        },
    );
    report.step("every value under /registry/secrets is ciphertext", || {
        every_secret_is_encrypted(&etcd)
    });
    report.step("other kinds stay as they are", || {
        k.run("create configmap open --from-literal=a=readable")?;
        contains(
            &etcd.ctl(&["get", "/registry/configmaps/default/open", "--print-value-only"])?,
            "readable",
        )
    });
    server.kill();

    let (mut server, k) = report.need("start with a new key in front of the old one", || {
        start("two-keys", &["key2", "key1"])
    })?;
    report.step("old values are readable, new ones are written with the new key", || {
        k.prints_exactly("get secret first -o jsonpath={.data.word}", PLAIN)?;
        create(&k, "second")?;
        stored_with(&etcd, "second", "key2")?;
        stored_with(&etcd, "first", "key1")
    });
    report.step("a replace without a change rewrites a stale value", || {
        let object = k.json("get secret second")?;
        k.feed("replace -f -", &object.to_string())?;
        create(&k, "third")?;
        let object = k.json("get secret first")?;
        k.feed("replace -f -", &object.to_string())?;
        stored_with(&etcd, "first", "key2")
    });
    server.kill();

    let (mut server, k) = report.need("start with the first key alone", || start("lost-key", &["key1"]))?;
    report.step("a value whose key is gone is named, the kind goes on", || {
        k.fails("get secret third", "secrets/default/third")?;
        create(&k, "fourth")?;
        k.prints_exactly("get secret fourth -o jsonpath={.data.word}", PLAIN)
    });
    report.step("it stops on SIGTERM with status 0", || {
        let status = server.terminate()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    });
    Ok(())
}

fn configuration(providers: &[&str]) -> String {
    let keys = providers
        .iter()
        .flat_map(|name| KEYS.iter().filter(move |(key, _)| key == name));
    let keys: String = keys
        .map(|(name, secret)| format!("            - name: {name}\n              secret: {secret}\n"))
        .collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         \x20 - resources: [secrets]\n\
         \x20   providers:\n\
         \x20     - aesgcm:\n\
         \x20         keys:\n{keys}"
    )
}

fn stored_with(etcd: &Etcd, name: &str, key: &str) -> Result<()> {
    let value = etcd.ctl(&[
        "get",
        &format!("/registry/secrets/default/{name}"),
        "--print-value-only",
    ])?;
    let prefix = format!("k8s:enc:aesgcm:v1:{key}:");
    ensure!(
        value.starts_with(&prefix),
        "{name} is stored as {:?}...",
        value.chars().take(40).collect::<String>()
    );
    ensure!(
        !value.contains(PLAIN) && !value.contains("hunter2"),
        "{name} is stored in the clear"
    );
    Ok(())
}

fn every_secret_is_encrypted(etcd: &Etcd) -> Result<()> {
    let keys = etcd.ctl(&["get", "--prefix", "--keys-only", "/registry/secrets/"])?;
    let keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
    ensure!(!keys.is_empty(), "there are no secrets");
    for key in keys {
        let value = etcd.ctl(&["get", key, "--print-value-only"])?;
        ensure!(value.starts_with("k8s:enc:aesgcm:v1:"), "{key} is not encrypted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lists_its_keys_in_order() {
        let text = configuration(&["key2", "key1"]);
        let at = |name: &str| {
            text.find(&format!("            - name: {name}\n"))
                .expect("the key is there")
        };
        assert!(at("key2") < at("key1"), "{text}");
        assert!(
            text.contains("\n  - resources: [secrets]\n    providers:\n      - aesgcm:\n          keys:\n"),
            "{text}"
        );
    }
}
