//! Who writes: creates, deletes and appends, and reads what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::json;

use super::{ACCOUNTS, AGAIN, LOGS, MAPS, log_name, name, version};
use crate::e2e::http::{Answer, Http};
use crate::process;

/// What a writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Done, at this version.
    Done(u64),
    /// Done or not (504, or no whole answer).
    Unknown,
    /// Surely not done: try again.
    NotDone,
}

/// All that was tried: names of objects and items are used once.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) created: BTreeMap<String, Told>,
    pub(super) deleted: BTreeMap<String, Told>,
    pub(super) appended: BTreeMap<String, Told>,
    pub(super) wrong: Vec<String>,
}

/// Whether an answer only says to come again, having done nothing.
fn come_again(answer: &Answer) -> bool {
    match answer.status {
        429 => true,
        500 => answer.text().contains("\"ServerTimeout\""),
        _ => false,
    }
}

pub(super) struct Writer {
    http: Http,
    number: usize,
    tried: Tried,
    /// What it knows to be stored.
    live: BTreeSet<String>,
}

impl Writer {
    pub(super) fn new(http: Http, number: usize) -> Self {
        Self {
            http,
            number,
            tried: Tried::default(),
            live: BTreeSet::new(),
        }
    }

    pub(super) fn run(mut self, stop: &AtomicBool, acknowledged: &AtomicU64) -> Tried {
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
