//! The server on three etcd members under load, while the leader is killed, and then another one hangs.
//!
//! A write may be answered with 504 then, which says that nobody knows; what became of it is looked up in the end, and
//! must be once or not at all. Every other answer must hold: what was acknowledged is there, at its version; who reads
//! after it sees it; an item that a JSON patch appended is there once; watches miss, double and invent nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::backend;
use super::http::{Answer, Http};
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

/// What a writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Done, at this version.
    Done(u64),
    /// Done or not (504, or no whole answer).
    Unknown,
    /// Surely not done: try again.
    NotDone,
}

/// All that was tried: names of objects and items are used once.
#[derive(Debug, Default)]
struct Tried {
    created: BTreeMap<String, Told>,
    deleted: BTreeMap<String, Told>,
    appended: BTreeMap<String, Told>,
    wrong: Vec<String>,
}

/// One event of a watch.
#[derive(Debug, Clone)]
struct Seen {
    kind: String,
    name: String,
    version: u64,
    object: Value,
}

#[derive(Debug, Default)]
struct Followed {
    last: u64,
    events: Vec<Seen>,
    wrong: Option<String>,
    connections: u32,
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

struct Ended {
    tried: Vec<Tried>,
    maps: Followed,
    accounts: Followed,
    /// Names that are stored in the end, with their versions.
    stored: BTreeMap<String, u64>,
    /// Items of each log in the end.
    items: BTreeMap<String, Vec<String>>,
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
            watchers.push(std::thread::spawn(move || follow(http, path, &stop, &shared)));
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

/// Whether an answer only says to come again, having done nothing.
fn come_again(answer: &Answer) -> bool {
    match answer.status {
        429 => true,
        500 => answer.text().contains("\"ServerTimeout\""),
        _ => false,
    }
}

struct Writer {
    http: Http,
    number: usize,
    tried: Tried,
    /// What it knows to be stored.
    live: BTreeSet<String>,
}

impl Writer {
    fn new(http: Http, number: usize) -> Self {
        Self {
            http,
            number,
            tried: Tried::default(),
            live: BTreeSet::new(),
        }
    }

    fn run(mut self, stop: &AtomicBool, acknowledged: &AtomicU64) -> Tried {
        for n in 0_usize.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let name = format!("w{}-{n}", self.number);
            let mut done = u64::from(self.create(&name)) + u64::from(self.append(&name, n % LOGS));
            if n % 3 == 0 && self.live.contains(&name) {
                done += u64::from(self.delete(&name));
            }
            if n % 8 == 0 {
                self.list();
            }
            match done {
                0 => process::pause(AGAIN),
                done => drop(acknowledged.fetch_add(done, Ordering::SeqCst)),
            }
        }
        self.tried
    }

    /// What the answer to a write says.
    fn told(&mut self, what: &str, status: u16, answer: Result<Answer>) -> Told {
        let answer = match answer {
            Ok(answer) if answer.status == status => answer,
            Ok(answer) if answer.status == 504 => return Told::Unknown,
            Ok(answer) if come_again(&answer) => return Told::NotDone,
            Ok(answer) => {
                let text = format!("{what}: {} {}", answer.status, answer.text());
                self.tried.wrong.push(text);
                return Told::NotDone;
            }
            Err(_) => return Told::Unknown,
        };
        match answer.json().and_then(|object| version(&object)) {
            Ok(version) => Told::Done(version),
            Err(error) => {
                self.tried.wrong.push(format!("{what}: {error:#}"));
                Told::Unknown
            }
        }
    }

    fn create(&mut self, name: &str) -> bool {
        let body = json!({ "metadata": { "name": name }, "data": { "by": name } });
        let answer = self.http.post(MAPS, &body);
        let told = self.told(&format!("create {name}"), 201, answer);
        self.tried.created.insert(name.to_owned(), told);
        if let Told::Done(version) = told {
            self.live.insert(name.to_owned());
            self.read(name, Some(version));
        }
        matches!(told, Told::Done(_))
    }

    fn delete(&mut self, name: &str) -> bool {
        let answer = self.http.send("DELETE", &format!("{MAPS}/{name}"), &[], None);
        let told = match answer {
            // Some deletions answer with a Status, which has no version.
            Ok(answer) if answer.status == 200 => Told::Done(0),
            answer => self.told(&format!("delete {name}"), 200, answer),
        };
        self.tried.deleted.insert(name.to_owned(), told);
        if told != Told::NotDone {
            self.live.remove(name);
        }
        if let Told::Done(_) = told {
            self.read(name, None);
        }
        matches!(told, Told::Done(_))
    }

    /// Who reads after an acknowledged write sees it.
    fn read(&mut self, name: &str, want: Option<u64>) {
        let Ok(answer) = self.http.get(&format!("{MAPS}/{name}")) else {
            return;
        };
        let right = match (answer.status, want) {
            (200, Some(want)) => answer.json().and_then(|object| version(&object)).ok() == Some(want),
            (404, None) | (504, _) => true,
            _ => come_again(&answer),
        };
        if !right {
            let text = format!(
                "{name} was acknowledged at {want:?}, then read: {} {}",
                answer.status,
                answer.text()
            );
            self.tried.wrong.push(text);
        }
    }

    fn append(&mut self, item: &str, log: usize) -> bool {
        let patch = json!([{ "op": "add", "path": "/secrets/-", "value": { "name": item } }]);
        let path = format!("{ACCOUNTS}/{}", log_name(log));
        let answer = self.http.send(
            "PATCH",
            &path,
            &[("Content-Type", "application/json-patch+json")],
            Some(&patch),
        );
        // Too many others appended at the same time: nothing was done.
        let told = match answer {
            Ok(answer) if answer.status == 409 => Told::NotDone,
            answer => self.told(&format!("append {item}"), 200, answer),
        };
        self.tried.appended.insert(item.to_owned(), told);
        matches!(told, Told::Done(_))
    }

    /// A consistent list shows all own objects that are known to be stored, and none that are known to be gone.
    fn list(&mut self) {
        let Ok(answer) = self.http.get(MAPS) else { return };
        if answer.status == 504 || come_again(&answer) {
            return;
        }
        let listed = answer.expect(200).and_then(|answer| answer.json());
        let names = listed.and_then(|list| {
            let items = list["items"].as_array().context("a list without items")?;
            items.iter().map(name).collect::<Result<BTreeSet<_>>>()
        });
        match names {
            Ok(names) => {
                if let Some(lost) = self.live.iter().find(|name| !names.contains(*name)) {
                    self.tried
                        .wrong
                        .push(format!("{lost} was acknowledged and is not in a list"));
                }
                let gone = |(name, told): (&String, &Told)| {
                    (matches!(told, Told::Done(_)) && names.contains(name)).then(|| name.clone())
                };
                if let Some(name) = self.tried.deleted.iter().find_map(gone) {
                    self.tried.wrong.push(format!("{name} was deleted and is in a list"));
                }
            }
            Err(error) => self.tried.wrong.push(format!("list: {error:#}")),
        }
    }
}

/// Watches until the last event of all; after each end it goes on from the last version.
fn follow(http: Http, path: &str, stop: &AtomicBool, followed: &Mutex<Followed>) {
    let lock = || followed.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stopped = None;
    loop {
        let from = lock().last;
        if stop.load(Ordering::SeqCst) && stopped.get_or_insert_with(Instant::now).elapsed() > RECOVERY {
            lock().wrong = Some(format!("the last event did not come, it is at {from}"));
            return;
        }
        let watch = http.watch(&format!(
            "{path}?watch=true&allowWatchBookmarks=true&resourceVersion={from}"
        ));
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                let text = format!("{error:#}");
                if text.contains("refused with 4") && !text.contains("refused with 429") {
                    lock().wrong = Some(format!("resume from {from}: {text}"));
                    return;
                }
                process::pause(AGAIN);
                continue;
            }
        };
        lock().connections += 1;
        while let Ok(Some(event)) = watch.next() {
            let noted = note(&mut lock(), &event);
            match noted {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    lock().wrong = Some(format!("{error:#}"));
                    return;
                }
            }
        }
    }
}

/// Takes an event; true for the last one of all.
fn note(followed: &mut Followed, event: &Value) -> Result<bool> {
    let (kind, object) = (event["type"].as_str().unwrap_or_default(), &event["object"]);
    ensure!(kind != "ERROR", "the watch reported {object}");
    let version = version(object)?;
    if kind == "BOOKMARK" {
        ensure!(version >= followed.last, "a bookmark goes back to {version}");
        followed.last = version;
        return Ok(false);
    }
    ensure!(
        version > followed.last,
        "an event at {version} after {}: doubled or out of order",
        followed.last
    );
    followed.last = version;
    let name = name(object)?;
    let end = name == "end";
    followed.events.push(Seen {
        kind: kind.to_owned(),
        name,
        version,
        object: object.clone(),
    });
    Ok(end)
}

impl Ended {
    fn check_told(&self) -> Result<()> {
        let wrong: Vec<_> = self.tried.iter().flat_map(|tried| &tried.wrong).collect();
        ensure!(
            wrong.is_empty(),
            "{} wrong answers, the first: {}",
            wrong.len(),
            wrong[0]
        );
        for followed in [&self.maps, &self.accounts] {
            if let Some(wrong) = &followed.wrong {
                bail!("a watch broke its promise: {wrong}");
            }
        }
        Ok(())
    }

    /// Created and deleted objects: what was told, what watches showed and what is stored agree.
    fn check_writes(&self) -> Result<String> {
        let mut added = BTreeMap::new();
        let mut deleted = BTreeSet::new();
        for seen in self.maps.events.iter().filter(|seen| seen.name != "end") {
            match seen.kind.as_str() {
                "ADDED" => {
                    let again = added.insert(seen.name.as_str(), seen.version);
                    ensure!(again.is_none(), "{} was added twice", seen.name);
                }
                "DELETED" => ensure!(deleted.insert(seen.name.as_str()), "{} was deleted twice", seen.name),
                other => bail!("nobody changes {}, but there is {other}", seen.name),
            }
        }
        let (mut done, mut unknown) = (0, 0);
        for tried in &self.tried {
            for (name, told) in &tried.created {
                let seen = added.get(name.as_str());
                match told {
                    Told::Done(version) => ensure!(seen == Some(version), "{name}: told {version}, seen {seen:?}"),
                    Told::NotDone => ensure!(seen.is_none(), "{name}: told that it was not created, seen {seen:?}"),
                    Told::Unknown => unknown += 1,
                }
                done += u64::from(matches!(told, Told::Done(_)));
            }
            for (name, told) in &tried.deleted {
                let seen = deleted.contains(name.as_str());
                match told {
                    Told::Done(_) => ensure!(seen, "{name}: told that it was deleted"),
                    Told::NotDone => ensure!(!seen, "{name}: told that it was not deleted"),
                    Told::Unknown => unknown += 1,
                }
                done += u64::from(matches!(told, Told::Done(_)));
            }
        }
        let tried = |name: &str| self.tried.iter().any(|tried| tried.created.contains_key(name));
        let invented = added.keys().find(|name| !tried(name));
        ensure!(invented.is_none(), "nobody created {invented:?}");
        let asked = |name: &str| self.tried.iter().any(|tried| tried.deleted.contains_key(name));
        let invented = deleted.iter().find(|name| !asked(name));
        ensure!(invented.is_none(), "nobody deleted {invented:?}");
        added.retain(|name, _| !deleted.contains(name));
        let stored = self.stored.iter().filter(|(name, _)| *name != "end");
        let stored: BTreeMap<&str, u64> = stored.map(|(name, version)| (name.as_str(), *version)).collect();
        // What every namespace has by itself was there before the watch.
        let ours = stored.into_iter().filter(|(name, _)| tried(name));
        ensure!(ours.eq(added.into_iter()), "what is stored is not what watches showed");
        ensure!(done > 0, "nothing was written");
        let connections = self.maps.connections;
        Ok(format!(
            "{done} acknowledged, {unknown} unknown; the watch was opened {connections} times"
        ))
    }

    /// Each event of a log appends one item; each item is there once, if it may be.
    fn check_items(&self) -> Result<String> {
        let mut logs: BTreeMap<String, Vec<String>> =
            (0..LOGS).map(|log| (log_name(log), vec!["start".to_owned()])).collect();
        let mut appended = BTreeMap::new();
        for seen in self.accounts.events.iter().filter(|seen| seen.name.starts_with("log-")) {
            let items = items_of(&seen.object);
            let before = logs.get_mut(&seen.name).context("a log that nobody made")?;
            let added = items.strip_prefix(before.as_slice());
            let Some([item]) = added else {
                bail!(
                    "{} at {} is not one item more than before: {added:?}",
                    seen.name,
                    seen.version
                )
            };
            let again = appended.insert(item.clone(), seen.version);
            ensure!(again.is_none(), "{item} was appended twice");
            *before = items;
        }
        let (mut done, mut unknown) = (0, 0);
        for (item, told) in self.tried.iter().flat_map(|tried| &tried.appended) {
            let seen = appended.remove(item);
            match told {
                Told::Done(version) => {
                    done += 1;
                    ensure!(seen == Some(*version), "{item}: told {version}, seen {seen:?}");
                }
                Told::NotDone => ensure!(seen.is_none(), "{item}: told that it was not appended, seen {seen:?}"),
                Told::Unknown => unknown += 1,
            }
        }
        ensure!(appended.is_empty(), "nobody appended {appended:?}");
        for (log, items) in &logs {
            let stored = self.items.get(log);
            ensure!(stored == Some(items), "{log} is not what its watch showed");
        }
        ensure!(done > 0, "nothing was appended");
        Ok(format!("{done} acknowledged, {unknown} unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: &str, name: &str, version: u64, items: &[&str]) -> Seen {
        let secrets: Vec<Value> = items.iter().map(|item| json!({ "name": item })).collect();
        Seen {
            kind: kind.to_owned(),
            name: name.to_owned(),
            version,
            object: json!({ "secrets": secrets }),
        }
    }

    fn ended(tried: Tried, maps: Vec<Seen>, accounts: Vec<Seen>, stored: &[(&str, u64)], log: &[&str]) -> Ended {
        let followed = |events| Followed {
            events,
            ..Followed::default()
        };
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        Ended {
            tried: vec![tried],
            maps: followed(maps),
            accounts: followed(accounts),
            stored: stored
                .iter()
                .map(|(name, version)| ((*name).to_owned(), *version))
                .collect(),
            items: [(log_name(0), owned(log)), (log_name(1), owned(&["start"]))].into(),
        }
    }

    #[test]
    fn writes_that_are_lost_doubled_or_invented_are_noticed() {
        let added = || seen("ADDED", "a", 7, &[]);
        let gone = || seen("DELETED", "a", 8, &[]);
        for (created, deleted, events, stored, good) in [
            (Told::Done(7), None, vec![added()], &[("a", 7)][..], true),
            (Told::Done(7), Some(Told::Done(0)), vec![added(), gone()], &[], true),
            (Told::Done(7), Some(Told::Unknown), vec![added()], &[("a", 7)], true),
            (Told::Done(7), None, vec![], &[], false),
            (Told::Done(7), None, vec![added()], &[], false),
            (Told::Done(6), None, vec![added()], &[("a", 7)], false),
            (Told::Done(7), None, vec![added(), gone()], &[], false),
            (Told::Done(7), Some(Told::NotDone), vec![added(), gone()], &[], false),
            (Told::Done(7), Some(Told::Done(0)), vec![added()], &[("a", 7)], false),
            (Told::NotDone, None, vec![added()], &[("a", 7)], false),
            (
                Told::Done(7),
                None,
                vec![added(), seen("ADDED", "b", 9, &[])],
                &[("a", 7)],
                false,
            ),
        ] {
            let mut tried = Tried::default();
            tried.created.insert("a".to_owned(), created);
            if let Some(told) = deleted {
                tried.deleted.insert("a".to_owned(), told);
            }
            let text = format!("{created:?} {deleted:?} {events:?} {stored:?}");
            let checked = ended(tried, events, Vec::new(), stored, &[]).check_writes();
            assert_eq!(checked.is_ok(), good, "{text}: {checked:?}");
        }
    }

    #[test]
    fn items_that_are_lost_doubled_or_invented_are_noticed() {
        let one = |items: &[&str]| vec![seen("MODIFIED", "log-0", 7, items)];
        for (told, events, stored, good) in [
            (Told::Done(7), one(&["start", "a"]), &["start", "a"][..], true),
            (Told::Done(7), one(&["start", "a", "a"]), &["start", "a", "a"], false),
            (Told::Done(7), one(&["start", "b"]), &["start", "b"], false),
            (Told::Done(7), one(&["a"]), &["a"], false),
            (Told::Done(6), one(&["start", "a"]), &["start", "a"], false),
            (Told::Done(7), one(&["start", "a"]), &["start"], false),
            (Told::Done(7), Vec::new(), &["start"], false),
            (Told::NotDone, one(&["start", "a"]), &["start", "a"], false),
        ] {
            let mut tried = Tried::default();
            tried.appended.insert("a".to_owned(), told);
            let text = format!("{told:?} {events:?} {stored:?}");
            let checked = ended(tried, Vec::new(), events, &[], stored).check_items();
            assert_eq!(checked.is_ok(), good, "{text}: {checked:?}");
        }
    }

    #[test]
    fn a_watch_that_doubles_or_goes_back_is_noticed() {
        let event = |kind: &str, version: u64| {
            let metadata = json!({ "name": "a", "resourceVersion": version.to_string() });
            json!({ "type": kind, "object": { "metadata": metadata } })
        };
        for (second, good) in [
            (event("MODIFIED", 6), true),
            (event("BOOKMARK", 5), true),
            (event("MODIFIED", 5), false),
            (event("BOOKMARK", 4), false),
            (json!({ "type": "ERROR", "object": { "code": 410 } }), false),
        ] {
            let mut followed = Followed::default();
            note(&mut followed, &event("ADDED", 5)).expect("a good first event");
            assert_eq!(note(&mut followed, &second).is_ok(), good, "{second}");
        }
    }
}
