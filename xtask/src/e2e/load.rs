//! Eight writers and a watcher over HTTP, and what must be true of them afterwards, however often the server died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::http::Http;
use crate::process;

const WRITERS: usize = 8;
/// How long a client waits before it tries a dead server again.
const AGAIN: Duration = Duration::from_millis(5);
const CATCH_UP: Duration = Duration::from_secs(60);

/// The namespace of the load.
pub(super) const NAMESPACE: &str = "load";
const PATH: &str = "/api/v1/namespaces/load/configmaps";

/// What one writer was told is stored.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Objects created once and never changed: name to resource version.
    created: BTreeMap<String, u64>,
    /// The last value of the writer's counter.
    counter: u64,
}

/// What the watcher saw.
#[derive(Debug, Default)]
struct Seen {
    last: u64,
    added: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
    connections: usize,
    wrong: Option<String>,
}

/// A running load.
#[derive(Debug)]
pub(super) struct Load {
    http: Http,
    stop_writing: Arc<AtomicBool>,
    stop_watching: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
    watcher: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Load {
    /// Starts writers and watcher in the namespace, which exists and is empty.
    pub(super) fn start(http: Http) -> Result<Self> {
        for writer in 0..WRITERS {
            let body = json!({ "metadata": { "name": counter(writer) }, "data": { "n": "0" } });
            http.post(PATH, &body)?.expect(201)?;
        }
        let from = version(&http.get(PATH)?.expect(200)?.json()?)?;
        let (stop_writing, stop_watching) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(Mutex::new(Seen {
            last: from,
            ..Seen::default()
        }));
        let writers = (0..WRITERS).map(|writer| {
            let stop = Arc::clone(&stop_writing);
            std::thread::spawn(move || write(http, writer, &stop))
        });
        let writers = writers.collect();
        let watcher = {
            let (stop, seen) = (Arc::clone(&stop_watching), Arc::clone(&seen));
            std::thread::spawn(move || follow(http, &stop, &seen))
        };
        Ok(Self {
            http,
            stop_writing,
            stop_watching,
            writers,
            watcher: Some(watcher),
            seen,
        })
    }

    /// Ends the load, with the server running, and lists what is stored then.
    pub(super) fn finish(mut self) -> Result<Ended> {
        self.stop_writing.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in self.writers.drain(..) {
            acknowledged.push(writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        }
        let list = self.http.get(PATH)?.expect(200)?.json()?;
        let items = list["items"].as_array().context("a list without items")?.clone();
        let newest = items
            .iter()
            .map(version)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .max()
            .unwrap_or(0);
        process::wait_until("the watcher at the last write", CATCH_UP, || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // A watch that broke its promise gets no further; the check says how.
            ensure!(
                seen.wrong.is_some() || seen.last >= newest,
                "it is at {}, the last write at {newest}",
                seen.last
            );
            Ok(true)
        })?;
        self.stop_watching.store(true, Ordering::Relaxed);
        // The watcher sits in a read until its next event: give it one.
        self.http
            .post(PATH, &json!({ "metadata": { "name": "end" } }))?
            .expect(201)?;
        if let Some(watcher) = self.watcher.take() {
            watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Ended {
            acknowledged,
            items,
            seen,
        })
    }
}

/// What a load left to be checked.
#[derive(Debug)]
pub(super) struct Ended {
    acknowledged: Vec<Acknowledged>,
    items: Vec<Value>,
    seen: Seen,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop_writing.store(true, Ordering::Relaxed);
        self.stop_watching.store(true, Ordering::Relaxed);
    }
}

fn counter(writer: usize) -> String {
    format!("counter-{writer}")
}

fn version(object: &Value) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"]
        .as_str()
        .context("no resource version")?;
    text.parse().with_context(|| format!("not a number: {text:?}"))
}

/// Creates objects and raises a counter, noting what was acknowledged. A failure may be a dead server; anything else shows up
/// in the check, as nothing that was not acknowledged is claimed.
fn write(http: Http, writer: usize, stop: &AtomicBool) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let counter = format!("{PATH}/{}", counter(writer));
    for n in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("w{writer}-{n}");
        let body = json!({ "metadata": { "name": name }, "data": { "n": n.to_string() } });
        match http
            .post(PATH, &body)
            .and_then(|answer| version(&answer.expect(201)?.json()?))
        {
            Ok(version) => {
                acknowledged.created.insert(name, version);
            }
            Err(_) => process::pause(AGAIN),
        }
        let raised = http.merge(&counter, &json!({ "data": { "n": n.to_string() } }));
        if raised.is_ok_and(|answer| answer.status == 200) {
            acknowledged.counter = n;
        }
    }
    acknowledged
}

/// Watches, and after each cut goes on from the last revision seen.
fn follow(http: Http, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    while !stop.load(Ordering::Relaxed) && lock().wrong.is_none() {
        let from = lock().last;
        let path = format!("{PATH}?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
        let mut watch = match http.watch(&path) {
            Ok(watch) => watch,
            Err(error) => {
                // No connection is a dead server, and 429 asks to come again; any other no is a broken promise.
                let text = error.to_string();
                if text.contains("refused with 4") && !text.contains("refused with 429") {
                    lock().wrong = Some(format!("resume from {from}: {error:#}"));
                }
                process::pause(AGAIN);
                continue;
            }
        };
        lock().connections += 1;
        while let (Ok(Some(event)), false) = (watch.next(), stop.load(Ordering::Relaxed)) {
            let mut seen = lock();
            if let Err(error) = note(&mut seen, &event) {
                seen.wrong = Some(format!("{error:#}"));
                break;
            }
        }
    }
}

/// Takes an event into account. An error is a broken promise of the watch.
fn note(seen: &mut Seen, event: &Value) -> Result<()> {
    let (kind, object) = (event["type"].as_str().unwrap_or_default(), &event["object"]);
    ensure!(kind != "ERROR", "the watch reported {object}");
    let at = version(object)?;
    if kind == "BOOKMARK" {
        ensure!(at >= seen.last, "a bookmark goes back from {} to {at}", seen.last);
        seen.last = at;
        return Ok(());
    }
    ensure!(
        at > seen.last,
        "an event at {at} after {}: doubled or out of order",
        seen.last
    );
    seen.last = at;
    let name = object["metadata"]["name"].as_str().context("no name")?.to_owned();
    let n: u64 = object["data"]["n"].as_str().and_then(|n| n.parse().ok()).unwrap_or(0);
    match kind {
        "ADDED" => {
            let again = seen.added.insert(name.clone(), at);
            ensure!(again.is_none(), "{name} was added twice");
        }
        "MODIFIED" => {
            let before = seen.counters.insert(name.clone(), n).unwrap_or(0);
            ensure!(n > before, "{name} went from {before} to {n}");
        }
        other => bail!("nothing is ever deleted here, but there is {other} of {name}"),
    }
    Ok(())
}

impl Ended {
    /// What was acknowledged is stored. Returns how many writes that were.
    pub(super) fn check_writes(&self) -> Result<u64> {
        let stored = self.stored()?;
        let mut writes = 0;
        for (writer, told) in self.acknowledged.iter().enumerate() {
            for (name, version) in &told.created {
                let found = stored.get(name.as_str());
                let (found, _) = found.with_context(|| format!("acknowledged, but lost: {name} at {version}"))?;
                ensure!(
                    found == version,
                    "{name} was acknowledged at {version} and is stored at {found}"
                );
            }
            let name = counter(writer);
            let (_, value) = stored.get(name.as_str()).with_context(|| format!("lost: {name}"))?;
            let value: u64 = value.parse().with_context(|| format!("{name} holds {value:?}"))?;
            ensure!(
                value >= told.counter,
                "{name} was acknowledged at {} and is {value}",
                told.counter
            );
            writes += told.created.len() as u64 + told.counter;
        }
        Ok(writes)
    }

    /// The watch showed each object that was created once, at its revision, and nothing else. Returns a line about it.
    pub(super) fn check_watch(&self) -> Result<String> {
        if let Some(wrong) = &self.seen.wrong {
            bail!("the watch broke its promise: {wrong}");
        }
        let created: BTreeSet<(&str, u64)> = self
            .stored()?
            .iter()
            .map(|(name, (version, _))| (*name, *version))
            .collect();
        let added: BTreeSet<(&str, u64)> = self
            .seen
            .added
            .iter()
            .map(|(name, version)| (name.as_str(), *version))
            .collect();
        // Counters were there before the watch began; the last object was made to end it.
        let by_writers = |object: &&(&str, u64)| object.0.starts_with('w');
        let missed: Vec<_> = created.difference(&added).filter(by_writers).take(3).collect();
        let phantom: Vec<_> = added.difference(&created).filter(by_writers).take(3).collect();
        ensure!(missed.is_empty(), "it missed {missed:?} and perhaps more");
        ensure!(phantom.is_empty(), "it showed what is not stored: {phantom:?}");
        Ok(format!(
            "{} objects seen, {} connections",
            added.len(),
            self.seen.connections
        ))
    }

    /// Name to resource version and number.
    fn stored(&self) -> Result<BTreeMap<&str, (u64, &str)>> {
        let mut stored = BTreeMap::new();
        for item in &self.items {
            let name = item["metadata"]["name"].as_str().context("no name")?;
            stored.insert(name, (version(item)?, item["data"]["n"].as_str().unwrap_or_default()));
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, name: &str, version: u64, n: u64) -> Value {
        let metadata = json!({ "name": name, "resourceVersion": version.to_string() });
        json!({ "type": kind, "object": { "metadata": metadata, "data": { "n": n.to_string() } } })
    }

    #[test]
    fn a_watch_that_doubles_goes_back_or_errs_is_noticed() {
        let first = event("ADDED", "w0-1", 5, 1);
        for (second, good) in [
            (event("ADDED", "w0-2", 6, 2), true),
            (event("BOOKMARK", "", 5, 0), true),
            (event("BOOKMARK", "", 4, 0), false),
            (event("ADDED", "w0-1", 5, 1), false),
            (event("ADDED", "w0-1", 6, 1), false),
            (event("ADDED", "w0-2", 4, 1), false),
            (event("DELETED", "w0-1", 6, 1), false),
            (json!({ "type": "ERROR", "object": { "code": 410 } }), false),
        ] {
            let mut seen = Seen {
                last: 4,
                ..Seen::default()
            };
            note(&mut seen, &first).expect("a good first event");
            assert_eq!(note(&mut seen, &second).is_ok(), good, "{second}");
        }
    }

    #[test]
    fn a_lost_or_unseen_write_is_noticed() {
        let item = |name: &str, version: u64, n: &str| json!({ "metadata": { "name": name, "resourceVersion": version.to_string() }, "data": { "n": n } });
        let ended = |told: (&str, u64, u64), seen: Seen| Ended {
            acknowledged: vec![Acknowledged {
                created: [(told.0.to_owned(), told.1)].into(),
                counter: told.2,
            }],
            items: vec![item("w0-1", 7, "1"), item("counter-0", 8, "4")],
            seen,
        };
        let seen = |name: &str, version| Seen {
            added: [(name.to_owned(), version)].into(),
            ..Seen::default()
        };
        let good = || seen("w0-1", 7);
        for (told, good) in [
            (("w0-1", 7, 4), true),
            (("w0-1", 7, 3), true),
            (("w0-1", 7, 5), false),
            (("w0-2", 7, 4), false),
            (("w0-1", 6, 4), false),
        ] {
            assert_eq!(ended(told, Seen::default()).check_writes().is_ok(), good, "{told:?}");
        }
        let broken = Seen {
            wrong: Some("x".into()),
            ..good()
        };
        for (seen, good) in [
            (good(), true),
            (Seen::default(), false),
            (seen("w0-1", 9), false),
            (seen("w0-2", 7), false),
            (broken, false),
        ] {
            let text = format!("{seen:?}");
            assert_eq!(ended(("w0-1", 7, 4), seen).check_watch().is_ok(), good, "{text}");
        }
    }
}
