//! Random histories of all verbs, watches, compactions and restarts, compared with a model: a list of changes.
//!
//! [`run`] has one client, so every single answer is known in advance: who reads the latest state reads exactly that,
//! every write takes the next revision, and every watcher is told every change of its selection once and in order. What
//! several clients at once may see is checked by [`race`](crate::race).
//!
//! Steps are chosen by a seeded generator. A test that runs [`histories`] prints the seed of a failed history with the
//! command that runs it again:
//!
//! ```text
//! SEED=17 cargo test -p apiserver-storage-embedded --test store_model in_memory
//! ```
//!
//! `SEEDS=1000` in the environment runs that many histories, from seed 0 on, instead of the few that a test runs by
//! itself; `STEPS=2000` makes each of them longer.

mod reads;
mod state;
mod watches;
mod writes;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::{SeededRng, random_below};
use apiserver_storage_api::{Entry, Key, Revision, Storage};

use self::reads::Held;
pub(crate) use self::state::{Body, LABEL, Model, Pick, Stored, VALUES};
use self::watches::Watcher;
use crate::fixture::*;
use crate::harness::{self, Ability, Harness};

/// A history to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What the steps are chosen by.
    pub seed: u64,
    /// How many steps.
    pub steps: u32,
}

/// How long a write with a lifetime lives, where the harness can let time pass.
const LIFETIME: Duration = Duration::from_secs(100);
/// Watchers at a time, and tokens that are kept to go on with later.
const WATCHERS: usize = 6;
const TOKENS: usize = 6;

/// A history that is being run.
struct Run<'a, H> {
    h: &'a mut H,
    store: Arc<dyn Storage>,
    rng: SeededRng,
    model: Model,
    /// What was read earlier, to be handed in as suggestions.
    entries: HashMap<Key, Vec<Entry>>,
    tokens: Vec<Held>,
    watchers: Vec<Watcher>,
    /// How often the backend was started again.
    restarts: u32,
    /// Counts everything that must be unlike anything before.
    serial: u64,
}

/// Runs a history through a store and its model.
pub async fn run<H: Harness>(h: &mut H, plan: Plan) {
    let store = h.store();
    let model = Model::new(now(&*store).await);
    let mut run = Run {
        h,
        store,
        rng: SeededRng::new(plan.seed),
        model,
        entries: HashMap::new(),
        tokens: Vec::new(),
        watchers: Vec::new(),
        restarts: 0,
        serial: 0,
    };
    run.open_observer().await;
    for _ in 0..plan.steps {
        run.step().await;
    }
    run.end().await;
}

impl<H: Harness> Run<'_, H> {
    fn can(&self, ability: Ability) -> bool {
        H::ABILITIES.contains(&ability)
    }

    /// Reads go to the backend, not to a cache.
    fn direct(&self) -> bool {
        self.can(Ability::Direct)
    }

    fn below(&self, bound: u64) -> u64 {
        random_below(&self.rng, bound)
    }

    /// True once in so many times.
    fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index")
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Some key; mostly one that holds something.
    fn key(&self) -> Key {
        let state = self.model.at(self.model.head);
        if !state.is_empty() && !self.once_in(4) {
            let at = self.index(state.len());
            return state.into_keys().nth(at).expect("within the state");
        }
        key(&format!("n{}", self.below(3)), &format!("p{}", self.below(5)))
    }

    /// Some revision since the beginning.
    fn revision(&self, from: Revision) -> Revision {
        let span = self.model.head.get().saturating_sub(from.get()) + 1;
        revision(from.get() + self.below(span))
    }

    fn pick(&self) -> Pick {
        match self.below(8) {
            0..5 => Pick::All,
            5 => Pick::Label(self.below(VALUES)),
            6 => Pick::NotLabel(self.below(VALUES)),
            _ => Pick::Node(self.below(VALUES)),
        }
    }

    fn remember(&mut self, entry: &Entry) {
        self.model.show(entry.revision());
        if entry.unreadable_reason().is_none() {
            self.entries.entry(entry.key().clone()).or_default().push(entry.clone());
        }
    }

    async fn step(&mut self) {
        match self.below(100) {
            0..16 => self.create().await,
            16..38 => self.update().await,
            38..48 => self.delete().await,
            48..52 => self.write_elsewhere().await,
            52..54 => self.spoil().await,
            54..62 => self.get().await,
            62..76 => self.list().await,
            76..82 => self.go_on().await,
            82..86 => self.open_watch().await,
            86..94 => self.read_watch().await,
            94..96 => self.ask_where_it_stands().await,
            96..98 => self.compact().await,
            98 => self.expire().await,
            _ => self.restart().await,
        }
    }

    async fn write_elsewhere(&mut self) {
        let name = format!("c{}", self.serial());
        let written = create(&*self.h.other(), &config_map_key(&name), &config_map(&name)).await;
        assert_eq!(written.revision(), self.model.head.next(), "one counter for all kinds");
        self.model.head = written.revision();
    }

    /// Bytes that nobody can read, written past the store.
    async fn spoil(&mut self) {
        if !self.can(Ability::Raw) {
            return;
        }
        let key = self.key();
        let written = self.h.raw_put(&key, "}not an object".into()).await;
        self.model.write(written, &key, Some(state::Body::Garbage), false);
    }

    async fn ask_where_it_stands(&mut self) {
        assert_eq!(now(&*self.store).await, self.model.head, "the counter");
        // Where progress is reported at all; watchers that asked for it check what it says.
        let _ = self.store.request_progress().await;
    }

    async fn compact(&mut self) {
        if !self.can(Ability::Compact) {
            return;
        }
        let at = self.revision(self.model.compacted);
        self.h.compact(at).await;
        self.model.compacted = at;
    }

    /// Whether the history of a revision may be gone: by our own compaction, or by a bound of the backend, which then
    /// must say so.
    fn gone(&self, revision: Revision) -> bool {
        revision < self.model.compacted
            || self
                .store
                .compacted_revision()
                .is_some_and(|compacted| revision < compacted)
    }

    /// Ends the backend, half of the time without a chance to close, and starts it on the same data.
    async fn restart(&mut self) {
        if !self.can(Ability::Restart) || !self.once_in(2) {
            return;
        }
        if self.once_in(2) {
            self.h.restart().await;
        } else {
            self.h.crash().await;
        }
        self.restarts += 1;
        self.store = self.h.store();
        assert_eq!(now(&*self.store).await, self.model.head, "the counter after a restart");
    }

    /// Everybody is told everything, and then of some last writes nothing else than them.
    async fn end(&mut self) {
        self.read_all_watches().await;
        for value in 0..VALUES {
            for namespace in 0..3 {
                let key = key(&format!("n{namespace}"), &format!("end-{value}"));
                self.create_there(key, value).await;
            }
        }
        self.read_all_watches().await;
        self.list().await;
    }
}

/// Which test runs histories, for the command that repeats one.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// The package: `env!("CARGO_PKG_NAME")`.
    pub package: &'static str,
    /// The file of tests, without `.rs`.
    pub file: &'static str,
    /// The test function.
    pub test: &'static str,
}

/// Runs so many histories, each on a fresh backend; more, longer ones or a single one when the environment says so.
pub fn histories<H: Harness>(name: Name, seeds: u64) {
    let steps = number("STEPS").map_or(250, |steps| u32::try_from(steps).unwrap_or(u32::MAX));
    with_seeds::<H>(name, seeds, |seed| async move {
        let mut h = H::start().await;
        run(&mut h, Plan { seed, steps }).await;
    });
}

/// Runs something for each seed, and says how to run it again when it fails.
pub(crate) fn with_seeds<H: Harness>(name: Name, seeds: u64, each: impl AsyncFn(u64)) {
    if let Some(missing) = H::missing() {
        harness::say(&format!("skipped {}: {missing}", name.test));
        return;
    }
    let seeds = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 0..seeds,
        (None, None) => 0..seeds,
    };
    for seed in seeds {
        let one = || harness::in_time(each(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(one)) {
            let Name { package, file, test } = name;
            harness::say(&format!(
                "history failed, again: SEED={seed} cargo test -p {package} --test {file} {test}"
            ));
            resume_unwind(panic);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}
