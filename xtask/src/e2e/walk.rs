//! A walk through what people do with kubectl, on each kind of storage.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::backend::{Backend, Kind};
use super::kubectl::Kubectl;
use super::report::{contains, same};
use super::{Report, World};

const WIDGETS: &str = include_str!("manifests/widgets.yaml");
const APPLICATION: &str = include_str!("manifests/application.yaml");

/// Runs the walk.
pub(super) fn run(world: &World<'_>, report: &mut Report, kind: Kind) -> Result<()> {
    let manifest = world.folder.join("widgets.yaml");
    std::fs::write(&manifest, WIDGETS)?;
    let definitions = format!("--custom-resource-definitions={}", manifest.display());
    let mut backend = Backend::start(world, report, kind, vec![definitions])?;
    let kubectl = Kubectl::new(&world.tools.kubectl, Some(backend.server.url()), &world.folder)?;
    let k = &kubectl;
    discovery(k, report);
    report.need("create a namespace", || k.run("create namespace walk"))?;
    create(k, report);
    if let (Kind::EtcdTls, Some(etcd)) = (kind, &mut backend.etcd) {
        report.step("kill the first etcd member; reads and writes go on", || {
            etcd.kill(0)?;
            k.run("create configmap after-the-kill -n walk --from-literal=a=b")?;
            k.prints("get configmaps -n walk -o name", "configmap/after-the-kill")
        });
    }
    apply(k, report);
    read(k, report);
    watch(k, report);
    change(k, report);
    patch(k, report);
    custom_kind(k, report);
    delete(k, report);
    report.step("everything is there after kill -9 and a new start", || {
        let before = k.run("get configmaps,secrets,deployments,widgets -A -o yaml")?;
        backend.server.kill();
        backend.server.start_again()?;
        let after = k.run("get configmaps,secrets,deployments,widgets -A -o yaml")?;
        same(without_list_version(&after), without_list_version(&before))
    });
    Ok(())
}

/// A list's own revision may move on between two reads; the objects' may not.
fn without_list_version(yaml: &str) -> String {
    let objects = yaml.rsplit_once("\nkind: List").map_or(yaml, |(objects, _)| objects);
    objects.to_owned()
}

fn discovery(k: &Kubectl, report: &mut Report) {
    report.step("the system namespaces are there", || {
        let names = k.run("get namespaces -o name")?;
        ["default", "kube-system", "kube-public", "kube-node-lease"]
            .iter()
            .try_for_each(|name| contains(&names, name))
    });
    report.step("version", || k.prints("version", "Server Version"));
    report.step("api-resources", || {
        let resources = k.run("api-resources")?;
        [
            "configmaps",
            "deployments",
            "events",
            "nodes",
            "pods",
            "secrets",
            "serviceaccounts",
            "services",
            "widgets",
        ]
        .iter()
        .try_for_each(|name| contains(&resources, name))
    });
    report.step("api-versions", || k.prints("api-versions", "apps/v1"));
    report.step("explain a built-in field", || {
        k.prints("explain deployment.spec.replicas", "FIELD: replicas")
    });
    report.step("explain a whole kind", || {
        k.prints("explain configmap", "KIND:       ConfigMap")
    });
    report.step("explain a field of a custom kind", || {
        k.prints("explain widget.spec.size", "How large the widget is.")
    });
}

fn create(k: &Kubectl, report: &mut Report) {
    report.step("create a configmap", || {
        k.run("create configmap settings -n walk --from-literal=colour=blue")?;
        k.prints_exactly("get configmap settings -n walk -o jsonpath={.data.colour}", "blue")
    });
    report.step("create a secret", || {
        k.run("create secret generic password -n walk --from-literal=word=hunter2")?;
        k.prints_exactly(
            "get secret password -n walk -o jsonpath={.data.word}{.type}",
            "aHVudGVyMg==Opaque",
        )
    });
    report.step("create a deployment, with today's defaults", || {
        k.run("create deployment web -n walk --image=nginx --replicas=2")?;
        let web = k.json("get deployment web -n walk")?;
        same(&web["spec"]["replicas"], &json!(2))?;
        same(&web["spec"]["strategy"]["type"], &json!("RollingUpdate"))?;
        same(
            &web["spec"]["template"]["spec"]["containers"][0]["image"],
            &json!("nginx"),
        )?;
        same(&web["metadata"]["generation"], &json!(1))
    });
    report.step("create a service account", || {
        k.prints("create serviceaccount robot -n walk", "robot created")
    });
    report.step("create what exists: refused", || {
        k.fails("create configmap settings -n walk", "already exists")
    });
    report.step("create in a missing namespace: refused", || {
        k.fails(
            "create configmap lost -n nowhere --from-literal=a=b",
            "namespaces \"nowhere\" not found",
        )
    });
    report.step("create with a bad name: refused", || {
        k.fails("create configmap Bad_Name -n walk", "Invalid value")
    });
    report.step("create with an unknown field: refused", || {
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: odd\ndatta: {}\n";
        k.feed_fails("create -n walk -f -", manifest, "unknown field \"datta\"")
    });
    report.step("create --dry-run=server leaves nothing", || {
        k.prints(
            "create configmap dry -n walk --dry-run=server",
            "created (server dry run)",
        )?;
        k.fails("get configmap dry -n walk", "NotFound")
    });
}

fn apply(k: &Kubectl, report: &mut Report) {
    let line = "apply -n walk -f -";
    report.step("apply -f: created", || {
        let printed = k.feed(line, &APPLICATION.replace("COLOUR", "green"))?;
        same(printed.matches(" created").count(), 3)
    });
    report.step("apply -f again, changed: configured, the rest unchanged", || {
        let printed = k.feed(line, &APPLICATION.replace("COLOUR", "red"))?;
        contains(&printed, "configmap/application configured")?;
        contains(&printed, "deployment.apps/shop configured")?;
        contains(&printed, "serviceaccount/shop unchanged")?;
        k.prints_exactly("get configmap application -n walk -o jsonpath={.data.colour}", "red")
    });
    report.step("a changed spec raises the generation", || {
        k.prints_exactly("get deployment shop -n walk -o jsonpath={.metadata.generation}", "2")
    });
    report.step("apply -f a third time: no write", || {
        let version = "get configmap application -n walk -o jsonpath={.metadata.resourceVersion}";
        let before = k.run(version)?;
        same(
            k.feed(line, &APPLICATION.replace("COLOUR", "red"))?
                .matches(" unchanged")
                .count(),
            3,
        )?;
        k.prints_exactly(version, &before)
    });
}

fn read(k: &Kubectl, report: &mut Report) {
    report.step("get as a table", || {
        let table = k.run("get configmaps -n walk")?;
        let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        same(head, vec!["NAME", "DATA", "AGE"])?;
        ensure!(
            table.lines().any(|row| row.starts_with("settings ")),
            "no row for settings in {table}"
        );
        k.prints("get deployments -n walk", "UP-TO-DATE")
    });
    report.step("get an empty list", || k.run("get pods -n walk").map(drop));
    report.step("get -o yaml", || {
        let yaml = k.run("get configmap settings -n walk -o yaml")?;
        [
            "apiVersion: v1",
            "kind: ConfigMap",
            "  colour: blue",
            "  namespace: walk",
        ]
        .iter()
        .try_for_each(|part| contains(&yaml, part))
    });
    report.step("get of several kinds and names", || {
        let printed = k.run("get configmap/settings secret/password deployment/web -n walk -o name")?;
        same(
            printed.lines().collect::<Vec<_>>(),
            vec!["configmap/settings", "secret/password", "deployment.apps/web"],
        )
    });
    report.step("describe", || k.prints("describe configmap settings -n walk", "colour"));
    report.step("get -l", || {
        let get = |selector: &str| k.run(&format!("get configmaps,deployments -n walk -o name -l '{selector}'"));
        same(get("app=shop")?.trim(), "configmap/application\ndeployment.apps/shop")?;
        same(get("app in (web)")?.trim(), "deployment.apps/web")?;
        ensure!(!get("!app")?.contains("shop"), "the absent label matched");
        same(get("app=nothing")?.trim(), "")
    });
    report.step("get --field-selector", || {
        let line = "get configmaps -n walk -o name --field-selector metadata.name=settings";
        k.prints_exactly(line, "configmap/settings")?;
        k.fails(
            "get configmaps -n walk --field-selector data.colour=blue",
            "field selector",
        )
    });
    report.step("get --chunk-size", || {
        k.feed("create -n walk -f -", &many(25))?;
        let line = "get configmaps -n walk -l batch=many -o name --chunk-size=7";
        same(k.run(line)?.lines().count(), 25)?;
        let traced = k.run("get --raw /api/v1/namespaces/walk/configmaps?limit=7&labelSelector=batch=many")?;
        contains(&traced, "\"continue\":")
    });
    report.step("get -A and --sort-by", || {
        k.prints("get configmaps -A --sort-by=.metadata.creationTimestamp", "settings")
    });
}

fn many(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let head = "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  labels: {batch: many}\n";
        let _ = writeln!(text, "{head}  name: many-{number:02}\ndata: {{number: \"{number}\"}}");
        text
    })
}

fn watch(k: &Kubectl, report: &mut Report) {
    report.step("get -w sees every change, in order", || {
        k.run("create configmap watched -n walk --from-literal=step=0")?;
        let watch = k.spawn(
            "get configmaps -n walk -w --output-watch-events --field-selector metadata.name=watched \
             -o jsonpath='{.type} {.object.data.step}{\"\\n\"}'",
        )?;
        watch.lines(1)?;
        for step in 1..=10 {
            k.run(&format!(
                "patch configmap watched -n walk --type=merge -p '{{\"data\":{{\"step\":\"{step}\"}}}}'"
            ))?;
        }
        k.run("delete configmap watched -n walk")?;
        let expected: Vec<_> = std::iter::once("ADDED 0".to_owned())
            .chain((1..=10).map(|step| format!("MODIFIED {step}")))
            .chain(["DELETED 10".to_owned()])
            .collect();
        same(watch.lines(expected.len())?, expected)
    });
    report.step("get -w as a table", || {
        let watch = k.spawn("get secrets -n walk -w")?;
        watch.lines(2)?;
        k.run("create secret generic second -n walk --from-literal=a=b")?;
        let lines = watch.lines(3)?;
        ensure!(lines[2].starts_with("second "), "the new row is {:?}", lines[2]);
        Ok(())
    });
}

fn change(k: &Kubectl, report: &mut Report) {
    let label = "get configmap settings -n walk -o jsonpath={.metadata.labels.tier}";
    report.step("label: add, refuse to overwrite, overwrite, remove", || {
        k.run("label configmap settings -n walk tier=front")?;
        k.prints_exactly(label, "front")?;
        k.fails("label configmap settings -n walk tier=back", "overwrite is false")?;
        k.run("label configmap settings -n walk tier=back --overwrite")?;
        k.prints_exactly(label, "back")?;
        k.run("label configmap settings -n walk tier-")?;
        k.prints_exactly(label, "")
    });
    report.step("annotate", || {
        k.run("annotate configmap settings -n walk note='two words'")?;
        k.prints_exactly(
            "get configmap settings -n walk -o jsonpath={.metadata.annotations.note}",
            "two words",
        )
    });
    report.step("replace", || {
        let mut object = k.json("get configmap settings -n walk")?;
        object["data"] = json!({ "colour": "violet" });
        k.feed("replace -f -", &object.to_string())?;
        k.prints_exactly(
            "get configmap settings -n walk -o jsonpath={.data}",
            "{\"colour\":\"violet\"}",
        )?;
        // The object still carries the version it was read with.
        k.feed_fails("replace -f -", &object.to_string(), "the object has been modified")
    });
    report.step("replace what does not exist: refused", || {
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: nothing\n";
        k.feed_fails("replace -n walk -f -", manifest, "not found")
    });
}

fn patch(k: &Kubectl, report: &mut Report) {
    let data = || {
        k.json("get configmap settings -n walk")
            .map(|object| object["data"].clone())
    };
    report.step("patch --type=json", || {
        let patch =
            r#"[{"op":"test","path":"/data/colour","value":"violet"},{"op":"add","path":"/data/size","value":"9"}]"#;
        k.run(&format!("patch configmap settings -n walk --type=json -p '{patch}'"))?;
        same(data()?, json!({ "colour": "violet", "size": "9" }))?;
        k.fails(
            &format!(
                "patch configmap settings -n walk --type=json -p '{}'",
                patch.replace("violet", "pink")
            ),
            "invalid",
        )
    });
    report.step("patch --type=merge", || {
        k.run(r#"patch configmap settings -n walk --type=merge -p '{"data":{"size":null,"shape":"round"}}'"#)?;
        same(data()?, json!({ "colour": "violet", "shape": "round" }))
    });
    report.step("patch --type=strategic merges a list by its key", || {
        let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox"}]}}}}"#;
        k.run(&format!("patch deployment web -n walk -p '{patch}'"))?;
        let web = k.json("get deployment web -n walk")?;
        let containers = web["spec"]["template"]["spec"]["containers"]
            .as_array()
            .context("no containers")?;
        let mut names: Vec<_> = containers
            .iter()
            .filter_map(|container| container["name"].as_str())
            .collect();
        names.sort_unstable();
        same(names, vec!["nginx", "side"])?;
        let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","$patch":"delete"}]}}}}"#;
        k.run(&format!("patch deployment web -n walk -p '{patch}'"))?;
        let image = "get deployment web -n walk -o jsonpath={.spec.template.spec.containers[*].name}";
        k.prints_exactly(image, "nginx")
    });
    report.step("patch --subresource=status changes the status alone", || {
        let patch = r#"{"spec":{"replicas":9},"status":{"replicas":2,"readyReplicas":1}}"#;
        k.run(&format!(
            "patch deployment web -n walk --subresource=status --type=merge -p '{patch}'"
        ))?;
        let web = k.json("get deployment web -n walk")?;
        same(
            (&web["spec"]["replicas"], &web["status"]["readyReplicas"]),
            (&json!(2), &json!(1)),
        )
    });
}

fn custom_kind(k: &Kubectl, report: &mut Report) {
    let widget = |size: &str| {
        format!("apiVersion: e2e.example.dev/v1\nkind: Widget\nmetadata:\n  name: first\nspec:\n  size: {size}\n")
    };
    report.step("a custom kind: apply, default, table column", || {
        k.feed("apply -n walk -f -", &widget("3"))?;
        k.prints_exactly("get widget first -n walk -o jsonpath={.spec.colour}", "grey")?;
        let table = k.run("get wd -n walk")?;
        let rows: Vec<Vec<_>> = table
            .lines()
            .map(|row| row.split_whitespace().take(2).collect())
            .collect();
        same(rows, vec![vec!["NAME", "SIZE"], vec!["first", "3"]])
    });
    report.step("a custom kind: apply again, changed", || {
        contains(&k.feed("apply -n walk -f -", &widget("4"))?, "configured")?;
        k.prints_exactly(
            "get widget first -n walk -o jsonpath={.spec.size}/{.metadata.generation}",
            "4/2",
        )
    });
    report.step("a custom kind: what its schema forbids is refused", || {
        k.feed_fails("apply -n walk -f -", &widget("0"), "spec.size")?;
        k.feed_fails("apply -n walk -f -", &widget("many"), "spec.size")
    });
    report.step("a custom kind: patch, status, delete", || {
        k.run(r#"patch widget first -n walk --type=merge -p '{"spec":{"colour":"gold"}}'"#)?;
        k.run(r#"patch widget first -n walk --subresource=status --type=merge -p '{"status":{"done":true}}'"#)?;
        let widget = k.json("get widget first -n walk")?;
        same(
            (&widget["spec"]["colour"], &widget["status"]["done"]),
            (&json!("gold"), &Value::Bool(true)),
        )?;
        k.run("delete widget first -n walk")?;
        k.fails("get widget first -n walk", "NotFound")
    });
}

fn delete(k: &Kubectl, report: &mut Report) {
    report.step("wait --for=delete", || {
        k.run("create configmap doomed -n walk")?;
        let wait = k.spawn("wait --for=delete configmap/doomed -n walk --timeout=30s")?;
        k.run("delete configmap doomed -n walk")?;
        wait.ends()
    });
    report.step("delete waits for a finalizer to go", || {
        k.run("create configmap held -n walk")?;
        k.run(
            r#"patch configmap held -n walk --type=merge -p '{"metadata":{"finalizers":["e2e.example.dev/hold"]}}'"#,
        )?;
        k.run("delete configmap held -n walk --wait=false")?;
        let held = k.json("get configmap held -n walk")?;
        ensure!(
            held["metadata"]["deletionTimestamp"].is_string(),
            "no deletion timestamp: {held}"
        );
        k.run(r#"patch configmap held -n walk --type=merge -p '{"metadata":{"finalizers":null}}'"#)?;
        k.fails("get configmap held -n walk", "NotFound")
    });
    report.step("delete what does not exist: refused", || {
        k.fails("delete configmap doomed -n walk", "NotFound")?;
        k.run("delete configmap doomed -n walk --ignore-not-found").map(drop)
    });
    report.step("delete -l and delete --all", || {
        same(
            k.run("delete configmaps -n walk -l batch=many")?
                .matches(" deleted")
                .count(),
            25,
        )?;
        k.prints_exactly("get configmaps -n walk -l batch=many -o name", "")?;
        k.run("delete secrets --all -n walk")?;
        k.prints_exactly("get secrets -n walk -o name", "")
    });
    report.step("a terminating namespace takes nothing new", || {
        k.run("create namespace ending")?;
        k.run(r#"patch namespace ending --type=merge -p '{"metadata":{"finalizers":["e2e.example.dev/hold"]}}'"#)?;
        k.run("delete namespace ending --wait=false")?;
        k.prints_exactly("get namespace ending -o jsonpath={.status.phase}", "Terminating")?;
        k.fails("create configmap late -n ending", "is being terminated")
    });
}
