//! Delivery of watch events: as they happen, and out of history as fast as they come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;

use crate::bare::Bare;
use crate::cpu;
use crate::objects::{Template, name};
use crate::target::{Measured, Target};

/// Longer is never waited for an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts by some tasks while a watch delivers them: the latency of each from the begin of its put. The puts are the bare
/// client's for both sides.
pub(crate) async fn live<T: Target>(
    target: &T,
    writer: &Bare,
    template: &Arc<Template>,
    tasks: usize,
    operations: usize,
) -> Result<Measured> {
    let operations = (operations / tasks).max(1) * tasks;
    let begun = Arc::new(Mutex::new(vec![None; operations]));
    let mut events = target.watch(target.now().await?).await?;
    // etcd may take a tenth of a second until a new watch keeps up; the first event says that it does.
    let first = template.fill(operations, operations);
    writer.overwrite(&format!("watch/{}", name(operations)), first).await?;
    while !next(&mut events).await?.contains(&operations) {}
    let (start, cpu_before) = (Instant::now(), cpu::used());
    let writers: Vec<_> = (0..tasks)
        .map(|task| {
            let (writer, template, begun) = (writer.clone(), Arc::clone(template), Arc::clone(&begun));
            tokio::spawn(async move {
                for number in (task..operations).step_by(tasks) {
                    let value = template.fill(number, number);
                    begun.lock()[number] = Some(Instant::now());
                    writer.overwrite(&format!("watch/{}", name(number)), value).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let mut latencies = Vec::with_capacity(operations);
    while latencies.len() < operations {
        let numbers = next(&mut events).await?;
        let now = Instant::now();
        for number in numbers {
            let begun = begun.lock().get(number).copied().flatten();
            latencies.push(now - begun.context("an event of nobody's put")?);
        }
    }
    let measured = Measured {
        operations,
        wall: start.elapsed(),
        cpu: cpu::used()
            .zip(cpu_before)
            .map(|(after, before)| after.saturating_sub(before)),
        latencies,
    };
    for writer in writers {
        writer.await??;
    }
    Ok(measured)
}

/// The next numbers that a watch brings.
async fn next(events: &mut BoxStream<'static, Result<Vec<usize>>>) -> Result<Vec<usize>> {
    let numbers = tokio::time::timeout(PATIENCE, events.next()).await?;
    numbers.context("the watch ended")?
}

/// Some watches from an old revision, each reading `events` events.
pub(crate) async fn replay<T: Target>(target: &T, after: u64, watches: usize, events: usize) -> Result<Measured> {
    let (start, cpu_before) = (Instant::now(), cpu::used());
    let readers: Vec<_> = (0..watches)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut stream = target.watch(after).await?;
                let mut seen = 0;
                while seen < events {
                    seen += next(&mut stream).await?.len();
                }
                ensure!(seen == events, "{seen} events instead of {events}");
                anyhow::Ok(start.elapsed())
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for reader in readers {
        latencies.push(reader.await??);
    }
    Ok(Measured {
        operations: watches * events,
        wall: start.elapsed(),
        cpu: cpu::used()
            .zip(cpu_before)
            .map(|(after, before)| after.saturating_sub(before)),
        latencies,
    })
}
