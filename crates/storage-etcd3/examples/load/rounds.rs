//! One round: some tasks, each doing its part of a fixed number of operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Barrier;

use crate::cpu;
use crate::objects::{Template, name};
use crate::target::{Measured, Target};

/// What is done in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    /// An update that knows what it replaces.
    Update,
    /// An update that reads first.
    ReadAndUpdate,
    Get,
    /// A list of a namespace in one piece.
    List,
    /// The same in pages.
    ListPaged,
}

impl Verb {
    pub(crate) const ALL: [Self; 6] = [
        Self::Create,
        Self::Update,
        Self::ReadAndUpdate,
        Self::Get,
        Self::List,
        Self::ListPaged,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::ReadAndUpdate => "guaranteed_update",
            Self::Get => "get",
            Self::List => "list",
            Self::ListPaged => "list_paged",
        }
    }
}

/// How much of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) verb: Verb,
    pub(crate) tasks: usize,
    pub(crate) operations: usize,
    /// The namespace that lists read, and in pages of how many.
    pub(crate) listed: String,
    pub(crate) page: u64,
}

/// Objects that each task updates and reads in turn.
pub(crate) const KEYS_PER_TASK: usize = 8;

/// Creates what updates and reads are about.
pub(crate) async fn prepare<T: Target>(target: &T, template: &Template, tasks: usize) -> Result<()> {
    for number in 0..tasks * KEYS_PER_TASK {
        let name = format!("bench/{}", name(number));
        target.create(&name, stored(template, number, 0)).await?;
    }
    Ok(())
}

/// Fills a namespace for lists.
pub(crate) async fn fill<T: Target>(target: &T, template: &Template, namespace: &str, objects: usize) -> Result<()> {
    let parts = (0..16).map(|part| async move {
        for number in (part..objects).step_by(16) {
            let name = format!("{namespace}/{}", name(number));
            target.create(&name, stored(template, number, 0)).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(parts).await.map(drop)
}

fn stored(template: &Template, number: usize, counter: usize) -> Vec<u8> {
    template.fill(number, counter)
}

/// Runs a round; `round` makes what it writes different from that of others.
pub(crate) async fn run<T: Target>(
    target: &T,
    template: &Arc<Template>,
    plan: &Plan,
    round: usize,
) -> Result<Measured> {
    let begin = Arc::new(Barrier::new(plan.tasks + 1));
    let tasks: Vec<_> = (0..plan.tasks)
        .map(|task| {
            let (target, template, plan) = (target.clone(), Arc::clone(template), plan.clone());
            let begin = Arc::clone(&begin);
            tokio::spawn(async move { part(&target, &template, &plan, round, task, &begin).await })
        })
        .collect();
    begin.wait().await;
    let (start, cpu_before) = (Instant::now(), cpu::used());
    let mut measured = Measured::default();
    for task in tasks {
        measured.latencies.extend(task.await??);
    }
    measured.wall = start.elapsed();
    measured.cpu = cpu::used()
        .zip(cpu_before)
        .map(|(after, before)| after.saturating_sub(before));
    measured.operations = measured.latencies.len();
    Ok(measured)
}

/// What one task does; the time of each operation.
async fn part<T: Target>(
    target: &T,
    template: &Template,
    plan: &Plan,
    round: usize,
    task: usize,
    begin: &Barrier,
) -> Result<Vec<Duration>> {
    let operations = (plan.operations / plan.tasks).max(1);
    let own: Vec<String> = (0..KEYS_PER_TASK)
        .map(|key| format!("bench/{}", name(task * KEYS_PER_TASK + key)))
        .collect();
    let mut seen = Vec::new();
    if plan.verb == Verb::Update {
        for name in &own {
            seen.push(target.get(name).await?);
        }
    }
    let mut latencies = Vec::with_capacity(operations);
    begin.wait().await;
    for operation in 0..operations {
        let key = operation % KEYS_PER_TASK;
        let number = task * KEYS_PER_TASK + key;
        // Never what is there already: the store would not write it.
        let counter = (round + 1) * operations + operation;
        let start = Instant::now();
        match plan.verb {
            Verb::Create => {
                let number = (counter * plan.tasks + task) % 10_usize.pow(9) + 10_usize.pow(9);
                let name = format!("bench/{}", name(number));
                target.create(&name, stored(template, number, counter)).await?;
            }
            Verb::Update => {
                seen[key] = target
                    .update(&own[key], stored(template, number, counter), &seen[key])
                    .await?;
            }
            Verb::ReadAndUpdate => {
                target
                    .read_and_update(&own[key], stored(template, number, counter))
                    .await?;
            }
            Verb::Get => drop(target.get(&own[key]).await?),
            Verb::List => drop(target.list(&plan.listed, None).await?),
            Verb::ListPaged => drop(target.list(&plan.listed, Some(plan.page)).await?),
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}
