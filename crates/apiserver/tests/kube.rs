//! The `kube` crate as a client: CRUD, a watcher, a reflector that converges over a restart, kinds of all three sorts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, CustomResource, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};

/// No step of these tests takes longer on any machine.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "Widget",
    namespaced,
    status = "WidgetStatus"
)]
struct WidgetSpec {
    size: i64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct WidgetStatus {
    ready: bool,
}

async fn start(storage: Storage, port: u16) -> (Server, Client) {
    let mut config = ServerConfig::new(storage);
    config.listen.insecure_port = Some(port);
    let server = Server::start(config).await.unwrap();
    let client = client(&server);
    (server, client)
}

fn client(server: &Server) -> Client {
    Client::try_from(Config::new(server.url().parse().unwrap())).unwrap()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("k".into(), value.into())])),
        ..ConfigMap::default()
    }
}

// covers: apiserver-http/KRS-01, apiserver-http/KRS-15, apiserver-http/KRS-20, apiserver-http/KRS-21
#[tokio::test]
async fn kube_creates_reads_changes_lists_and_deletes() {
    let (server, client) = start(Storage::memory(), 0).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let created = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.resource_version().is_some());

    let conflict = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap_err();
    assert!(
        matches!(&conflict, kube::Error::Api(status) if status.is_already_exists()),
        "{conflict}"
    );

    let patch = serde_json::json!({ "data": { "k": "2" } });
    let patched = api
        .patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap()["k"], "2");

    let stale = api.replace("a", &PostParams::default(), &created).await.unwrap_err();
    assert!(
        matches!(&stale, kube::Error::Api(status) if status.is_conflict()),
        "{stale}"
    );

    for at in 0..3 {
        api.create(&PostParams::default(), &config_map(&format!("b{at}"), "1"))
            .await
            .unwrap();
    }
    let page = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.metadata.remaining_item_count, Some(2));
    let token = page.metadata.continue_.unwrap();
    let rest = api
        .list(&ListParams::default().limit(2).continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = rest.items.iter().map(|item| item.name_any()).collect();
    assert_eq!(names, ["b1", "b2"]);
    assert_eq!(rest.metadata.continue_.as_deref().unwrap_or_default(), "");

    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    server.shutdown().await;
}

// covers: apiserver-http/KRS-10, apiserver-http/KRS-11, apiserver-http/KRS-14
#[tokio::test]
async fn watchers_see_every_change_in_order_in_both_modes() {
    let (server, client) = start(Storage::memory(), 0).await;
    let api: Api<Secret> = Api::default_namespaced(client);
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let secret = |at: usize| Secret {
            metadata: ObjectMeta {
                name: Some("s".into()),
                ..ObjectMeta::default()
            },
            string_data: Some(BTreeMap::from([("at".into(), at.to_string())])),
            ..Secret::default()
        };
        api.create(&PostParams::default(), &secret(0)).await.unwrap();
        let mut events = pin!(watcher(api.clone(), config).applied_objects());
        let mut versions: Vec<u64> = Vec::new();
        for at in 1..=5 {
            let seen = tokio::time::timeout(LIMIT, events.try_next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            versions.push(seen.resource_version().unwrap().parse().unwrap());
            if at < 5 {
                let patch = serde_json::json!({ "stringData": { "at": at.to_string() } });
                api.patch("s", &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .unwrap();
            }
        }
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        api.delete("s", &DeleteParams::default()).await.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_reflector_converges_after_the_server_was_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = start(Storage::embedded(dir.path()), 0).await;
    let port = server.insecure_address().unwrap().port();
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let (reader, writer) = reflector::store();
    let stream = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .reflect(writer);
    let follow = tokio::spawn(stream.for_each(|_| async {}));
    api.create(&PostParams::default(), &config_map("before", "1"))
        .await
        .unwrap();
    wait(|| reader.get(&ObjectRef::new("before").within("default")).is_some()).await;

    server.shutdown().await;
    let (server, client) = start(Storage::embedded(dir.path()), port).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &config_map("after", "1"))
        .await
        .unwrap();
    api.delete("before", &DeleteParams::default()).await.unwrap();
    wait(|| {
        let names: Vec<_> = reader.state().iter().map(|object| object.name_any()).collect();
        names == ["after"]
    })
    .await;
    follow.abort();
    server.shutdown().await;
}

// covers: storage-api/KEY-11
#[tokio::test]
async fn custom_kinds_come_by_their_definition_and_go_with_it() {
    use kube::CustomResourceExt as _;
    let (server, client) = start(Storage::memory(), 0).await;
    let definitions: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
        )),
    );
    let definition: DynamicObject = serde_json::from_value(serde_json::to_value(Widget::crd()).unwrap()).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let widgets: Api<Widget> = Api::default_namespaced(client);
    eventually(|| async { widgets.list(&ListParams::default()).await.is_ok() }).await;

    let mut widget = widgets
        .create(&PostParams::default(), &Widget::new("a", WidgetSpec { size: 1 }))
        .await
        .unwrap();
    assert_eq!(widget.metadata.generation, Some(1));
    widget.status = Some(WidgetStatus { ready: true });
    widget.spec.size = 9;
    let name = widget.name_any();
    let stored = widgets
        .replace_status(&name, &PostParams::default(), &widget)
        .await
        .unwrap();
    assert!(stored.status.unwrap().ready);
    assert_eq!(stored.spec.size, 1, "the status front does not touch the spec");

    definitions
        .delete("widgets.example.com", &DeleteParams::default())
        .await
        .unwrap();
    eventually(|| async { widgets.list(&ListParams::default()).await.is_err() }).await;
    server.shutdown().await;
}

// covers: apiserver-http/RCRE-08
#[tokio::test]
async fn namespaces_guard_what_lives_in_them() {
    let (server, client) = start(Storage::memory(), 0).await;
    let missing: Api<ConfigMap> = Api::namespaced(client.clone(), "missing");
    let error = missing
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 404),
        "{error}"
    );

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(serde_json::json!({ "metadata": { "name": "going" } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let going: Api<ConfigMap> = Api::namespaced(client, "going");
    going
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    namespaces.delete("going", &DeleteParams::default()).await.unwrap();
    eventually(|| async {
        let error = going.create(&PostParams::default(), &config_map("b", "1")).await.err();
        matches!(&error, Some(kube::Error::Api(status)) if status.code == 403)
    })
    .await;
    server.shutdown().await;
}

#[tokio::test]
async fn two_servers_start_on_one_data_directory_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = start(Storage::embedded(dir.path()), 0).await;
    let second = Server::start(ServerConfig::new(Storage::embedded(dir.path()))).await;
    assert!(second.is_err(), "the directory is in use");
    server.shutdown().await;
    let (server, client) = start(Storage::embedded(dir.path()), 0).await;
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 4);
    server.shutdown().await;
}

async fn wait(condition: impl Fn() -> bool) {
    eventually(|| std::future::ready(condition())).await;
}

/// Asks again until it holds; fails loudly where it never does.
async fn eventually<F, Fut>(mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let polled = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, polled)
        .await
        .expect("the condition came true in time");
}

// covers: apiserver-http/SSA-14
#[tokio::test]
async fn a_put_that_says_nothing_of_owners_leaves_them_and_an_empty_list_clears_them() {
    let (server, client) = start(Storage::memory(), 0).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut object = config_map("a", "1");
    let owner = serde_json::json!([{
        "manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:data": { ".": {}, "f:k": {} } },
    }]);
    object.metadata.managed_fields = Some(serde_json::from_value(owner).unwrap());
    let created = api.create(&PostParams::default(), &object).await.unwrap();

    let mut silent = created.clone();
    silent.metadata.managed_fields = None;
    let replaced = api.replace("a", &PostParams::default(), &silent).await.unwrap();
    assert_eq!(replaced.metadata.managed_fields, created.metadata.managed_fields);
    assert_eq!(
        replaced.resource_version(),
        created.resource_version(),
        "nothing changed, nothing was written"
    );

    silent.metadata.managed_fields = Some(Vec::new());
    let cleared = api.replace("a", &PostParams::default(), &silent).await.unwrap();
    assert_eq!(cleared.metadata.managed_fields, None);
    server.shutdown().await;
}
