//! Callers at the same time: for a while, at a rate if one is given.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Bytes of the buffer that answers are written into.
const BUFFER: usize = 64 << 10;
/// A caller that never has to wait lets others run after this long.
const TURN: Duration = Duration::from_micros(200);

/// What stands for a connection: answers are copied into one buffer that is used again and again, and counted.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    buffer: Vec<u8>,
    pub(crate) objects: usize,
    pub(crate) bytes: usize,
}

impl Sink {
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        self.buffer.reserve_exact(BUFFER - self.buffer.len());
        while !bytes.is_empty() {
            let room = (BUFFER - self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER {
                black_box(&self.buffer);
                self.buffer.clear();
            }
        }
    }
}

/// When callers stop and how fast they may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) callers: usize,
    pub(crate) time: Duration,
    /// Calls per second of all together; 0: as fast as they can.
    pub(crate) rate: f64,
}

/// What the calls took.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) wall: Duration,
    pub(crate) latencies: Vec<Duration>,
    pub(crate) objects: usize,
    pub(crate) bytes: usize,
}

impl Calls {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.wall.as_secs_f64()
    }
}

/// Runs `call` with the number of the call, from several tasks.
pub(crate) async fn run<F, Fut>(plan: Plan, call: F) -> Result<Calls>
where
    F: Fn(usize, Sink) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Sink>> + Send,
{
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let tasks: Vec<_> = (0..plan.callers.max(1))
        .map(|_| {
            let (next, call) = (Arc::clone(&next), call.clone());
            tokio::spawn(async move { caller(plan, start, &next, call).await })
        })
        .collect();
    let mut all = Calls::default();
    for task in tasks {
        let (latencies, sink) = task.await??;
        all.latencies.extend(latencies);
        all.objects += sink.objects;
        all.bytes += sink.bytes;
    }
    all.wall = start.elapsed();
    Ok(all)
}

async fn caller<F, Fut>(plan: Plan, start: Instant, next: &AtomicUsize, call: F) -> Result<(Vec<Duration>, Sink)>
where
    F: Fn(usize, Sink) -> Fut,
    Fut: Future<Output = Result<Sink>>,
{
    let (mut latencies, mut sink) = (Vec::new(), Sink::default());
    let mut turn = Instant::now();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if plan.rate > 0.0 {
            let due = start + Duration::from_secs_f64(number as f64 / plan.rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let begin = Instant::now();
        if begin - start > plan.time {
            return Ok((latencies, sink));
        }
        sink = call(number, sink).await?;
        let end = Instant::now();
        latencies.push(end - begin);
        if end - turn > TURN {
            tokio::task::yield_now().await;
            turn = Instant::now();
        }
    }
}
