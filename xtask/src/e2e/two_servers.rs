//! Two servers on one etcd: each sees what the other writes, at once, and neither overwrites the other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::backend;
use super::http::Http;
use super::report::same;
use super::server::Server;
use super::{Report, World};
use crate::process;

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS_EACH: usize = 4;
const RAISES: usize = 25;

/// Runs the scenario.
pub(super) fn run(world: &World<'_>, report: &mut Report) -> Result<()> {
    let etcd = report.need("start etcd", || backend::etcd(world, 1, None))?;
    let (first, second) = report.need("start two servers at the same time on an empty etcd", || {
        let start = |name: &'static str| Server::start(world.server, &world.folder, name, etcd.flags());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| start("second"));
            let first = start("first")?;
            let second = other.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
            Ok((first, second))
        })
    })?;
    let (a, b) = (first.http(), second.http());
    report.step("both have the system namespaces", || {
        for http in [a, b] {
            for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                http.get(&format!("/api/v1/namespaces/{name}"))?.expect(200)?;
            }
        }
        Ok(())
    });
    report.step(
        "what one server acknowledged, the other lists at once, 100 times in both directions",
        || {
            for round in 0..100 {
                let (writer, reader) = if round % 2 == 0 { (a, b) } else { (b, a) };
                let name = format!("seen-{round}");
                writer
                    .post(PATH, &json!({ "metadata": { "name": name } }))?
                    .expect(201)?;
                let list = reader.get(PATH)?.expect(200)?.json()?;
                let found = list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|item| item["metadata"]["name"] == name.as_str());
                ensure!(found, "{name} is not in the other server's list");
            }
            Ok(())
        },
    );
    report.step("a watch on one sees the writes of the other", || watch_across(a, b));
    report.step("a stale write through the other server is a conflict", || {
        let object = a
            .post(
                PATH,
                &json!({ "metadata": { "name": "contended" }, "data": { "n": "0" } }),
            )?
            .expect(201)?
            .json()?;
        b.merge(&format!("{PATH}/contended"), &json!({ "data": { "x": "y" } }))?
            .expect(200)?;
        let headers = [("Content-Type", "application/json")];
        a.send("PUT", &format!("{PATH}/contended"), &headers, Some(&object))?
            .expect(409)
            .map(drop)
    });
    report.step("counting together through both loses no count", || count_together(a, b));
    Ok(())
}

fn watch_across(a: Http, b: Http) -> Result<()> {
    let list = b.get(PATH)?.expect(200)?.json()?;
    let from = list["metadata"]["resourceVersion"]
        .as_str()
        .context("no resource version")?
        .to_owned();
    let mut watch = b.watch(&format!("{PATH}?watch=true&resourceVersion={from}"))?;
    let path = format!("{PATH}/watched");
    a.post(PATH, &json!({ "metadata": { "name": "watched" } }))?
        .expect(201)?;
    a.merge(&path, &json!({ "data": { "a": "b" } }))?.expect(200)?;
    a.send("DELETE", &path, &[], None)?.expect(200)?;
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        let event = watch.next()?.context("the watch ended")?;
        same(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!(expected), &json!("watched")),
        )?;
    }
    Ok(())
}

/// Read, add one, write with the version that was read; on a conflict again.
fn count_together(a: Http, b: Http) -> Result<()> {
    a.post(PATH, &json!({ "metadata": { "name": "sum" }, "data": { "n": "0" } }))?
        .expect(201)?;
    let path = format!("{PATH}/sum");
    let raise = |http: Http| -> Result<bool> {
        let mut object = http.get(&path)?.expect(200)?.json()?;
        let n: usize = object["data"]["n"]
            .as_str()
            .and_then(|n| n.parse().ok())
            .context("no number")?;
        object["data"]["n"] = Value::from((n + 1).to_string());
        let answer = http.send("PUT", &path, &[("Content-Type", "application/json")], Some(&object))?;
        ensure!(
            [200, 409].contains(&answer.status),
            "{}: {}",
            answer.status,
            answer.text()
        );
        Ok(answer.status == 200)
    };
    std::thread::scope(|scope| {
        let work = |http: Http| {
            move || {
                (0..RAISES).try_for_each(|_| {
                    process::wait_until("a write without conflict", Duration::from_secs(30), || raise(http))
                })
            }
        };
        let threads: Vec<_> = (0..2 * WRITERS_EACH)
            .map(|n| scope.spawn(work(if n % 2 == 0 { a } else { b })))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let sum = b.get(&path)?.expect(200)?.json()?;
    same(
        sum["data"]["n"].as_str().context("no number")?,
        &(2 * WRITERS_EACH * RAISES).to_string(),
    )
}
