//! Runs futures one step at a time, in an order that a seed decides, on a clock that only moves when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use apiserver_storage_api::time::{ManualClock, Rng as _, SeededRng, random_below};
use futures::future::BoxFuture;

/// No run is longer; one that is never comes to an end.
const MOST_STEPS: usize = 400_000;

/// Decides everything that is left to chance. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Dice(Arc<SeededRng>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(SeededRng::new(seed)))
    }

    pub(super) fn rng(&self) -> Arc<SeededRng> {
        Arc::new(SeededRng::new(self.0.next_u64()))
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        usize::try_from(random_below(&*self.0, bound as u64)).unwrap_or_default()
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

struct Task {
    name: String,
    /// The run goes on until all of these have ended.
    essential: bool,
    future: Option<BoxFuture<'static, ()>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The tasks of a run.
pub(super) struct Executor {
    dice: Dice,
    clock: ManualClock,
    tasks: Vec<Task>,
    steps: usize,
}

impl Executor {
    pub(super) fn new(dice: Dice, clock: ManualClock) -> Self {
        Self {
            dice,
            clock,
            tasks: Vec::new(),
            steps: 0,
        }
    }

    pub(super) fn spawn(&mut self, name: String, essential: bool, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(Task {
            name,
            essential,
            future: Some(Box::pin(future)),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        });
    }

    /// Runs until the essential tasks have ended, or `failed` says that it need not go on.
    pub(super) fn run(&mut self, failed: impl Fn() -> bool) -> Result<(), String> {
        while self.tasks.iter().any(|task| task.essential && task.future.is_some()) && !failed() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Err(format!("no end; waiting: {}", self.waiting()));
            }
            let runnable: Vec<usize> = (0..self.tasks.len())
                .filter(|&at| self.tasks[at].future.is_some() && self.tasks[at].woken.0.load(Ordering::Relaxed))
                .collect();
            if runnable.is_empty() {
                let Some(next) = self.clock.until_next() else {
                    return Err(format!("everybody waits for ever: {}", self.waiting()));
                };
                self.clock.advance(next);
            } else {
                if self.dice.percent(2) {
                    // Time passes while there is work to do, too.
                    let late = 1 << self.dice.below(10);
                    self.clock.advance(Duration::from_millis(late));
                }
                self.step(*self.dice.pick(&runnable));
            }
        }
        Ok(())
    }

    fn step(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        task.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.woken));
        if let Some(future) = &mut task.future
            && let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            task.future = None;
        }
    }

    fn waiting(&self) -> String {
        let waiting = self.tasks.iter().filter(|task| task.essential && task.future.is_some());
        let names: Vec<_> = waiting.map(|task| task.name.as_str()).collect();
        names.join(", ")
    }
}
