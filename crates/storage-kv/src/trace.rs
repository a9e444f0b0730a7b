//! One call on its way: a span by upstream's name, the stages it goes through, and a line in the log if it took long
//! (`storage-etcd3/OBS-01`).
//!
//! Spans and stages are at debug level, so a server that logs at info pays for a few looks at the clock and nothing else.
//! Key, type, group and resource are told, and numbers of bytes; never a value. Whose request it is, its audit id say, is
//! the business of the span around.

use std::fmt;
use std::time::Duration;

use crate::metric::Meter;

/// A call that takes longer than this is logged.
pub(crate) const SLOW: Duration = Duration::from_millis(500);

/// So many stages of a call are remembered.
const STAGES: usize = 12;

/// A call that is under way. Told when it ends, also where it fails or is given up.
#[derive(Debug)]
pub(crate) struct Trace<'a> {
    meter: &'a Meter,
    name: &'static str,
    key: &'a str,
    start: Duration,
    stages: [Stage; STAGES],
    passed: usize,
}

/// What was done, when it was done, and on how many bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Stage {
    name: &'static str,
    micros: u64,
    bytes: Option<u32>,
}

/// The span of a call.
macro_rules! span {
    ($store:expr, $name:literal, $key:expr $(, $($more:tt)*)?) => {{
        let meter = &$store.meter;
        tracing::debug_span!(
            $name, key = $key, "type" = meter.kind(), group = meter.group(), resource = meter.resource()
            $(, $($more)*)?
        )
    }};
}
pub(crate) use span;

impl Meter {
    /// Begins to watch a call.
    pub(crate) fn trace<'a>(&'a self, name: &'static str, key: &'a str) -> Trace<'a> {
        Trace {
            meter: self,
            name,
            key,
            start: self.now(),
            stages: [Stage::default(); STAGES],
            passed: 0,
        }
    }
}

impl Trace<'_> {
    /// A stage is behind.
    pub(crate) fn stage(&mut self, name: &'static str) {
        self.pass(name, None);
    }

    /// A stage is behind that was about so many bytes.
    pub(crate) fn stage_of(&mut self, name: &'static str, bytes: usize) {
        self.pass(name, Some(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    fn pass(&mut self, name: &'static str, bytes: Option<u32>) {
        tracing::debug!(bytes, "{name}");
        // What comes behind the last place is told by the last one.
        let at = self.passed.min(STAGES - 1);
        let micros = self.elapsed();
        if let Some(stage) = self.stages.get_mut(at) {
            *stage = Stage { name, micros, bytes };
        }
        self.passed += 1;
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.meter.now().saturating_sub(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        let took = self.meter.now().saturating_sub(self.start);
        if took > SLOW {
            let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let stages = self.stages.get(..self.passed.min(STAGES)).unwrap_or_default();
            tracing::info!(
                key = self.key,
                "type" = self.meter.kind(),
                group = self.meter.group(),
                resource = self.meter.resource(),
                milliseconds,
                stages = %Stages(stages, self.passed),
                "slow storage call: {}",
                self.name
            );
        }
    }
}

/// Stages as a log tells them: `encoded 1024 bytes +2ms, transformed +0ms`.
struct Stages<'a>(&'a [Stage], usize);

impl fmt::Display for Stages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = 0;
        for (at, stage) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{}", stage.name)?;
            if let Some(bytes) = stage.bytes {
                write!(f, " {bytes} bytes")?;
            }
            write!(f, " +{}ms", stage.micros.saturating_sub(before) / 1000)?;
            before = stage.micros;
        }
        match self.1.saturating_sub(self.0.len()) {
            0 => Ok(()),
            more => write!(f, " ({more} stages left out)"),
        }
    }
}
