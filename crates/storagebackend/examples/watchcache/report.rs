//! What a measurement took, and how it is told: one line of JSON for each result.

use std::alloc::System;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::cpu;
use crate::latency::{p50, p99};
use crate::options::Options;

/// Counts what is allocated.
#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MIB: f64 = 1_048_576.0;

/// From here on time, processor and memory are counted.
pub(crate) struct Meter {
    start: Instant,
    cpu: Option<Duration>,
    memory: Region<'static, System>,
}

/// What was counted.
pub(crate) struct Used {
    pub(crate) wall: Duration,
    /// Of this process.
    pub(crate) cpu: f64,
    pub(crate) allocations: usize,
    pub(crate) allocated: usize,
    /// Allocated and not given back.
    pub(crate) held: usize,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu::used(),
            memory: Region::new(MEMORY),
        }
    }

    pub(crate) fn used(&self) -> Used {
        let memory = self.memory.change();
        let cpu = cpu::used()
            .zip(self.cpu)
            .map(|(after, before)| after.saturating_sub(before));
        Used {
            wall: self.start.elapsed(),
            cpu: cpu.unwrap_or_default().as_secs_f64(),
            allocations: memory.allocations,
            allocated: memory.bytes_allocated,
            held: memory.bytes_allocated.saturating_sub(memory.bytes_deallocated),
        }
    }
}

impl Used {
    /// The figures that every result has.
    pub(crate) fn json(&self) -> Value {
        json!({
            "s": self.wall.as_secs_f64(),
            "cpu_s": round(self.cpu),
            "allocations": self.allocations,
            "alloc_mb": round(self.allocated as f64 / MIB),
        })
    }
}

/// Prints a result: who and what, its own figures, and what the process took at most.
pub(crate) fn emit(workload: &str, options: &Options, used: &Used, figures: &Value) {
    let backend = format!("{:?}", options.backend).to_lowercase();
    let mut line = json!({ "impl": "rust", "workload": workload, "backend": backend, "n": options.n });
    let peak = status("VmHWM").map(|bytes| json!({ "peak_rss_mb": round(bytes / MIB) }));
    for more in [figures, &used.json(), &peak.unwrap_or_default()] {
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
    }
    println!("{line}");
}

/// A figure of `/proc/self/status`, in bytes.
pub(crate) fn status(field: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text
        .lines()
        .find(|line| line.strip_prefix(field).is_some_and(|rest| rest.starts_with(':')))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1_024.0)
}

/// p50 and p99 in milliseconds; `null` for the latter when there are too few samples.
pub(crate) fn percentiles(samples: &mut [Duration]) -> (f64, Option<f64>) {
    let milliseconds = |latency: Duration| (latency.as_secs_f64() * 1e6).round() / 1e3;
    let tail = p99(samples);
    (
        milliseconds(p50(samples)),
        (tail > Duration::ZERO).then(|| milliseconds(tail)),
    )
}

/// To three digits behind the point.
pub(crate) fn round(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}
