//! The server on three etcd members under load, while the leader is killed, and then another one hangs.
//!
//! A write may be answered with 504 then, which says that nobody knows; what became of it is looked up in the end, and
//! must be once or not at all. Every other answer must hold: what was acknowledged is there, at its version; who reads
//! after it sees it; an item that a JSON patch appended is there once; watches miss, double and invent nothing.

mod verdict;
mod watcher;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::verdict::Ended;
use self::watcher::Followed;
use self::writer::{Tried, Writer};
use super::backend;
use super::http::Http;
use super::server::Server;
use super::{Report, World};
use crate::process;

const WRITERS: usize = 6;
/// Objects that everybody appends to.
const LOGS: usize = 2;
/// Every writer has so many writes acknowledged before what happened counts as over.
const SOME: u64 = 5;
/// How long that may take: an election, and finding out that a member is silent.
const RECOVERY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(5);

const MAPS: &str = "/api/v1/namespaces/leader/configmaps";
const ACCOUNTS: &str = "/api/v1/namespaces/leader/serviceaccounts";

/// Runs the scenario.
pub(super) fn run(world: &World<'_>, report: &mut Report) -> Result<()> {
    let mut etcd = report.need("start three etcd members", || backend::etcd(world, 3, None))?;
    let server = report.need("start the server", || {
        Server::start(world.server, &world.folder, "server", etcd.flags())
    })?;
    let load = report.need("start writers, readers and watchers", || Load::start(server.http()))?;
    report.need("every writer gets on", || load.goes_on().map(drop))?;
    let killed = etcd.leader()?;
    report.step("the leader is killed (-9), and every writer gets on", || {
        etcd.kill_at_once(killed);
        println!("       after {:.1} s", load.goes_on()?.as_secs_f64());
        Ok(())
    });
    report.need("it comes back, and every writer gets on", || {
        etcd.start_again(killed)?;
        load.goes_on().map(drop)
    })?;
    let leader = etcd.leader()?;
    // The leader itself, unless that is the one that was away.
    let frozen = if leader == killed { (killed + 1) % 3 } else { leader };
    report.step("another member hangs (SIGSTOP), and every writer gets on", || {
        etcd.signal(frozen, "-STOP")?;
        let took = load.goes_on();
        etcd.signal(frozen, "-CONT")?;
        println!("       after {:.1} s", took?.as_secs_f64());
        Ok(())
    });
    report.need("it goes on, and so does every writer", || load.goes_on().map(drop))?;
    let ended = report.need("end the load", || load.finish())?;
    report.step("no answer was wrong at the time", || ended.check_told());
    report.step(
        "each write is there once, was never there, or was said to be unknown",
        || {
            println!("       {}", ended.check_writes()?);
            Ok(())
        },
    );
    report.step("each appended item is there once", || {
        println!("       {}", ended.check_items()?);
        Ok(())
    });
    Ok(())
}

struct Load {
    http: Http,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Vec<AtomicU64>>,
    writers: Vec<JoinHandle<Tried>>,
    maps: Arc<Mutex<Followed>>,
    accounts: Arc<Mutex<Followed>>,
    watchers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(http: Http) -> Result<Self> {
        http.post("/api/v1/namespaces", &json!({ "metadata": { "name": "leader" } }))?
            .expect(201)?;
        for log in 0..LOGS {
            let body = json!({ "metadata": { "name": log_name(log) }, "secrets": [{ "name": "start" }] });
            http.post(ACCOUNTS, &body)?.expect(201)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut watchers = Vec::new();
        let mut watch = |path: &'static str| -> Result<Arc<Mutex<Followed>>> {
            let from = version(&http.get(path)?.expect(200)?.json()?)?;
            let followed = Arc::new(Mutex::new(Followed {
                last: from,
                ..Followed::default()
            }));
            let (stop, shared) = (Arc::clone(&stop), Arc::clone(&followed));
            watchers.push(std::thread::spawn(move || watcher::follow(http, path, &stop, &shared)));
            Ok(followed)
        };
        let (maps, accounts) = (watch(MAPS)?, watch(ACCOUNTS)?);
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
        let writers = (0..WRITERS).map(|number| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || Writer::new(http, number).run(&stop, &acknowledged[number]))
        });
        Ok(Self {
            http,
            writers: writers.collect(),
            stop,
            acknowledged,
            maps,
            accounts,
            watchers,
        })
    }

    /// Waits until every writer had some more writes acknowledged. Returns how long that took.
    fn goes_on(&self) -> Result<Duration> {
        let start = Instant::now();
        let now = || self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst));
        let before: Vec<u64> = now().collect();
        process::wait_until("every writer gets on", RECOVERY, || {
            Ok(now().zip(&before).all(|(now, before)| now >= before + SOME))
        })?;
        Ok(start.elapsed())
    }

    fn finish(mut self) -> Result<Ended> {
        self.stop.store(true, Ordering::SeqCst);
        let mut tried = Vec::new();
        for writer in self.writers.drain(..) {
            tried.push(writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        }
        // The last event of both watches.
        for path in [MAPS, ACCOUNTS] {
            self.http
                .post(path, &json!({ "metadata": { "name": "end" } }))?
                .expect(201)?;
        }
        for watcher in self.watchers.drain(..) {
            watcher.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))?;
        }
        let mut stored = BTreeMap::new();
        for item in list(self.http, MAPS)? {
            stored.insert(name(&item)?, version(&item)?);
        }
        let mut items = BTreeMap::new();
        for log in list(self.http, ACCOUNTS)? {
            items.insert(name(&log)?, items_of(&log));
        }
        let taken =
            |followed: &Mutex<Followed>| std::mem::take(&mut *followed.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Ended {
            tried,
            maps: taken(&self.maps),
            accounts: taken(&self.accounts),
            stored,
            items,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn log_name(log: usize) -> String {
    format!("log-{log}")
}

fn name(object: &Value) -> Result<String> {
    Ok(object["metadata"]["name"].as_str().context("no name")?.to_owned())
}

fn version(object: &Value) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"]
        .as_str()
        .context("no resource version")?;
    text.parse().with_context(|| format!("not a number: {text:?}"))
}

fn items_of(log: &Value) -> Vec<String> {
    let items = log["secrets"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item["name"].as_str().map(str::to_owned))
        .collect()
}

fn list(http: Http, path: &str) -> Result<Vec<Value>> {
    let list = http.get(path)?.expect(200)?.json()?;
    Ok(list["items"].as_array().context("a list without items")?.clone())
}
