//! Random histories against a map: every read, range and watch at every kept revision agrees with it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use apiserver_storage_api::Revision;
use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{Expected, Kv, KvWatch, Lease, RangeRequest, WriteOutcome, prefix_end};
use common::*;

/// What the store must be: all writes since it was made.
struct Model {
    start: Revision,
    writes: Vec<(Revision, String, Option<String>)>,
    compacted: Revision,
}

impl Model {
    fn head(&self) -> Revision {
        self.writes.last().map_or(self.start, |(revision, ..)| *revision)
    }

    fn at(&self, at: Revision) -> BTreeMap<&str, (Revision, &str)> {
        let mut state = BTreeMap::new();
        for (revision, key, value) in self.writes.iter().take_while(|(revision, ..)| *revision <= at) {
            match value {
                Some(value) => state.insert(key.as_str(), (*revision, value.as_str())),
                None => state.remove(key.as_str()),
            };
        }
        state
    }

    /// What a watch of a prefix from a revision sees.
    fn seen(&self, prefix: &str, from: Revision) -> Vec<(Revision, String, Option<String>)> {
        let scope = self
            .writes
            .iter()
            .filter(|(revision, key, _)| *revision >= from && key.starts_with(prefix));
        scope.cloned().collect()
    }
}

/// A watch that began somewhere, with what it has seen.
struct Watching {
    prefix: &'static str,
    from: Revision,
    stream: KvWatch,
    seen: Vec<(Revision, String, Option<String>)>,
}

const PREFIXES: [&str; 4] = ["/", "/a/", "/b/", "/a/1"];

struct Run {
    name: String,
    rng: SeededRng,
    kv: Arc<EmbeddedKv>,
    model: Model,
    watching: Vec<Watching>,
}

impl Run {
    fn below(&self, bound: u64) -> u64 {
        random_below(&self.rng, bound)
    }

    fn key(&self) -> String {
        let group = if self.below(2) == 0 { "a" } else { "b" };
        format!("/{group}/{}", self.below(12))
    }

    /// A revision that can be read, and sometimes one next to those that can.
    fn revision(&self) -> Revision {
        let (low, high) = (self.model.compacted.get(), self.model.head().get());
        rev((low + self.below(high - low + 3)).saturating_sub(1).max(1))
    }

    async fn step(&mut self) {
        match self.below(100) {
            0..40 => self.put().await,
            40..55 => self.delete().await,
            55..70 => self.read().await,
            70..85 => self.range().await,
            85..92 => self.watch().await,
            92..97 => self.catch_up().await,
            _ => self.compact().await,
        }
    }

    async fn put(&mut self) {
        let key = self.key();
        let stored = self
            .model
            .at(self.model.head())
            .get(&*key)
            .map(|(revision, _)| *revision);
        let expected = match (stored, self.below(5)) {
            (_, 0) => Expected::At(self.revision()),
            (Some(revision), 1..) => Expected::At(revision),
            (None, 1..) => Expected::Absent,
        };
        let fits = expected == stored.map_or(Expected::Absent, Expected::At);
        let length = usize::try_from(self.below(if self.below(10) == 0 { 20_000 } else { 50 })).unwrap();
        let value = format!("{}{}", self.model.writes.len(), mixed(self.model.writes.len(), length));
        let outcome = self
            .kv
            .put_if(&key, value.clone().into(), expected, Lease::None)
            .await
            .unwrap();
        self.check_write(outcome, fits, key, Some(value));
    }

    async fn delete(&mut self) {
        let key = self.key();
        let stored = self
            .model
            .at(self.model.head())
            .get(&*key)
            .map(|(revision, _)| *revision);
        let expected = stored.filter(|_| self.below(5) > 0).unwrap_or_else(|| self.revision());
        let outcome = self.kv.delete_if(&key, expected).await.unwrap();
        self.check_write(outcome, stored == Some(expected), key, None);
    }

    fn check_write(&mut self, outcome: WriteOutcome, fits: bool, key: String, value: Option<String>) {
        let (name, head) = (&self.name, self.model.head());
        match outcome {
            WriteOutcome::Applied(revision) => {
                assert_eq!((fits, revision), (true, head.next()), "{name}: write {key}");
                self.model.writes.push((revision, key, value));
            }
            WriteOutcome::Mismatch { current, revision } => {
                assert_eq!((fits, revision), (false, head), "{name}: refused write {key}");
                let state = self.model.at(head);
                let current = current
                    .as_ref()
                    .map(|pair| (pair.revision, std::str::from_utf8(&pair.value).unwrap()));
                assert_eq!(current, state.get(&*key).copied(), "{name}: refused write {key}");
            }
        }
    }

    async fn read(&mut self) {
        let (key, at) = (self.key(), self.revision());
        let read = self.kv.get(&key, Some(at)).await;
        let name = &self.name;
        if at > self.model.head() {
            assert!(read.is_err(), "{name}: read of {key} in the future, at {at}");
        } else if at < self.model.compacted {
            assert!(is_compacted(&read), "{name}: read of {key} at compacted {at}: {read:?}");
        } else {
            let (pair, revision) = read.unwrap();
            let pair = pair
                .as_ref()
                .map(|pair| (pair.revision, std::str::from_utf8(&pair.value).unwrap()));
            assert_eq!(
                pair,
                self.model.at(at).get(&*key).copied(),
                "{name}: read of {key} at {at}"
            );
            assert_eq!(revision, self.model.head(), "{name}");
        }
    }

    /// Reads a range page by page.
    async fn range(&mut self) {
        let prefix = PREFIXES[usize::try_from(self.below(4)).unwrap()];
        let at = self.revision();
        let readable = at >= self.model.compacted && at <= self.model.head();
        let mut start = prefix.to_owned();
        let mut found = BTreeMap::new();
        let name = self.name.clone();
        loop {
            let limit = NonZeroU64::new(1 + self.below(6));
            let limit_bytes = NonZeroU64::new(self.below(3) * 1_000);
            let request = RangeRequest::between(start.clone(), prefix_end(prefix));
            let page = self
                .kv
                .range(RangeRequest {
                    at: Some(at),
                    limit,
                    limit_bytes,
                    ..request
                })
                .await;
            if !readable {
                assert!(page.is_err(), "{name}: range at {at}");
                return;
            }
            let page = page.unwrap();
            let rest = self
                .model
                .at(at)
                .into_iter()
                .filter(|(key, _)| key.starts_with(prefix) && *key >= &*start)
                .count();
            assert_eq!(
                page.count, rest as u64,
                "{name}: count of {prefix} from {start} at {at}"
            );
            assert_eq!(
                page.more,
                page.pairs.len() < rest,
                "{name}: more of {prefix} from {start} at {at}"
            );
            assert!(page.pairs.len() as u64 <= limit.unwrap().get(), "{name}");
            if let Some(last) = page.pairs.last() {
                start = format!("{}\0", last.key);
            }
            found.extend(page.pairs.into_iter().map(|pair| (pair.key.to_string(), pair)));
            if !page.more {
                break;
            }
        }
        let state = self.model.at(at);
        let expected: Vec<_> = state
            .into_iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, (at, value))| (key, at, value))
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|(key, pair)| (key.as_str(), pair.revision, std::str::from_utf8(&pair.value).unwrap()))
            .collect();
        assert_eq!(found, expected, "{name}: range of {prefix} at {at}");
    }

    async fn watch(&mut self) {
        let prefix = PREFIXES[usize::try_from(self.below(4)).unwrap()];
        let from = self.revision();
        let stream = watch(&self.kv, prefix, Some(from)).await;
        if from < self.model.compacted {
            assert!(is_compacted(&stream), "{}: watch from compacted {from}", self.name);
            return;
        }
        self.watching.push(Watching {
            prefix,
            from,
            stream: stream.unwrap(),
            seen: Vec::new(),
        });
    }

    /// Lets all watches see everything up to now; those that compaction has passed end.
    async fn catch_up(&mut self) {
        let mut watching = std::mem::take(&mut self.watching);
        for one in &mut watching {
            let expected = self.model.seen(one.prefix, one.from);
            while one.seen.len() < expected.len() {
                let item = next(&mut one.stream).await.expect("watch goes on");
                if is_compacted(&item) {
                    // Only a watch that compaction has passed may end.
                    let cursor = one.seen.last().map_or(one.from, |(revision, ..)| revision.next());
                    assert!(cursor < self.model.compacted, "{}: ended early, at {cursor}", self.name);
                    break;
                }
                let apiserver_storage_kv::KvWatchItem::Batch { revision, events } = item.unwrap() else {
                    continue;
                };
                for event in events {
                    let value = event
                        .current
                        .map(|pair| String::from_utf8(pair.value.to_vec()).unwrap());
                    let before = revision
                        .previous()
                        .map(|before| self.model.at(before))
                        .unwrap_or_default();
                    if revision > self.model.compacted {
                        let previous = event
                            .previous
                            .map(|pair| String::from_utf8(pair.value.to_vec()).unwrap());
                        let stored = before.get(&*event.key).map(|(_, value)| (*value).to_owned());
                        assert_eq!(previous, stored, "{}: before {revision}", self.name);
                    }
                    one.seen.push((revision, event.key.to_string(), value));
                }
            }
            assert!(
                expected.starts_with(&one.seen),
                "{}: watch of {} from {}",
                self.name,
                one.prefix,
                one.from
            );
        }
        watching.retain(|one| one.seen.len() == self.model.seen(one.prefix, one.from).len());
        self.watching = watching;
    }

    async fn compact(&mut self) {
        let at = self.revision();
        let done = self.kv.compact(at).await;
        if at > self.model.head() || at < self.model.compacted {
            assert!(done.is_err(), "{}: compact at {at}", self.name);
        } else {
            done.unwrap();
            self.model.compacted = at;
        }
        assert_eq!(
            self.kv.compacted_revision(),
            Some(self.model.compacted),
            "{}",
            self.name
        );
    }
}

async fn run(name: &str, seed: u64, config: EmbeddedConfig, reopens: bool) {
    let config = config.with_first_revision(rev(10));
    let kv = open(&config).await;
    let start = kv.now().await.unwrap();
    let model = Model {
        start,
        writes: Vec::new(),
        compacted: start,
    };
    let name = format!("{name} seed={seed}");
    let mut run = Run {
        name,
        rng: SeededRng::new(seed),
        kv,
        model,
        watching: Vec::new(),
    };
    for _ in 0..4 {
        for _ in 0..120 {
            run.step().await;
        }
        run.catch_up().await;
        if reopens {
            run.kv.close().await;
            run.watching.clear();
            run.kv = open(&config).await;
            assert_eq!(run.kv.now().await.unwrap(), run.model.head(), "{}", run.name);
            assert_eq!(run.kv.compacted_revision(), Some(run.model.compacted), "{}", run.name);
        }
    }
    run.kv.close().await;
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/GLOB-09
#[tokio::test(flavor = "multi_thread")]
async fn random_histories_agree_with_a_map() {
    for seed in 0..6 {
        for (name, config, dir) in configs() {
            run(name, seed, config, dir.is_some()).await;
        }
    }
}
