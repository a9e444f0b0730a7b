//! A factory on an etcd that has users.
#![cfg(feature = "etcd3")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use apiserver_storage_api::{CreateOptions, Encoded, GetOptions, ResourceInfo, ResourceScope};
use apiserver_storage_testing::etcd::{Etcd, binary};
use apiserver_storagebackend::{Config, EtcdCredentials, Factory};
use serde_json::json;

/// The command line client: named, or beside the server. Without it there are no users to be made.
fn etcdctl() -> Option<PathBuf> {
    let named = std::env::var_os("ETCDCTL").map(PathBuf::from);
    let beside = binary()?.with_file_name("etcdctl");
    let found = named.filter(|path| path.is_file()).or(Some(beside));
    let found = found.filter(|path| path.is_file());
    assert!(
        found.is_some() || std::env::var_os("APISERVER_REQUIRE_TOOLS").is_none(),
        "no etcdctl: set ETCDCTL to its path"
    );
    found
}

fn secure(etcdctl: &Path, url: &str) {
    for arguments in [
        &["user", "add", "root:r"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "api:topsecret"],
        &["role", "add", "api"],
        &["role", "grant-permission", "api", "readwrite", "--prefix", "/registry/"],
        &["role", "grant-permission", "api", "readwrite", "compact_rev_key"],
        &["user", "grant-role", "api", "api"],
        &["auth", "enable"],
    ] {
        let mut command = Command::new(etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", url])
            .args(arguments);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_given_by_the_program_or_in_a_file() {
    let (Some(etcdctl), Some(etcd)) = (etcdctl(), Etcd::start().await) else {
        return;
    };
    secure(&etcdctl, &etcd.url());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etcd-user");
    std::fs::write(&file, "api:topsecret\n").unwrap();

    let mut given = Config::etcd3([etcd.url()]);
    given.etcd.credentials = Some(EtcdCredentials {
        user: "api".into(),
        password: "topsecret".into(),
    });
    let mut named = Config::etcd3([etcd.url()]);
    named.etcd.credentials_file = Some(file);

    let info = ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Namespaced);
    for (config, name) in [(given, "a"), (named, "b")] {
        let factory = Factory::open(config).await.unwrap();
        let store = factory.storage_for(&info);
        let key = info.object_key(Some("ns"), name).unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "ns" },
        });
        let created = store
            .create(&key, Encoded::of(&object).unwrap(), CreateOptions::default())
            .await
            .unwrap();
        let read = store.get(&key, GetOptions::default()).await.unwrap();
        assert_eq!(read.revision(), created.revision());
        factory.close().await;
    }

    // Nobody in particular may do nothing.
    let factory = Factory::open(Config::etcd3([etcd.url()]).with_watch_cache(false))
        .await
        .unwrap();
    let key = info.object_key(Some("ns"), "a").unwrap();
    let refused = factory.storage_for(&info).get(&key, GetOptions::default()).await;
    assert!(refused.is_err(), "{refused:?}");
    factory.close().await;
}
