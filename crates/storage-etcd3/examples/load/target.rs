//! What both sides can do.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use futures::stream::BoxStream;

/// The key of an object below the namespace of the measurement.
pub(crate) type Name = str;

/// What a list brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) objects: usize,
    pub(crate) bytes: usize,
}

/// One side: the store, or the bare client doing the same calls. Values are given as they are stored.
pub(crate) trait Target: Clone + Send + Sync + 'static {
    /// Its name in the report.
    const NAME: &'static str;

    /// What an update can be based on without reading first.
    type Seen: Clone + Send + Sync + 'static;

    /// Stores a new object.
    fn create(&self, name: &Name, value: Vec<u8>) -> impl Future<Output = Result<()>> + Send;

    /// Reads an object.
    fn get(&self, name: &Name) -> impl Future<Output = Result<Self::Seen>> + Send;

    /// Replaces what was seen.
    fn update(&self, name: &Name, value: Vec<u8>, seen: &Self::Seen)
    -> impl Future<Output = Result<Self::Seen>> + Send;

    /// Reads an object and replaces it.
    fn read_and_update(&self, name: &Name, value: Vec<u8>) -> impl Future<Output = Result<()>> + Send;

    /// Reads all objects of a namespace: at once, or in pages of one state.
    fn list(&self, namespace: &str, page: Option<u64>) -> impl Future<Output = Result<Listed>> + Send;

    /// The revision that the cluster is at.
    fn now(&self) -> impl Future<Output = Result<u64>> + Send;

    /// What happens to the objects after a revision: the numbers that their names end with, a revision at a time.
    fn watch(&self, after: u64) -> impl Future<Output = Result<BoxStream<'static, Result<Vec<usize>>>>> + Send;
}

/// What a call or a round took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Operations that were done.
    pub(crate) operations: usize,
    /// From the first to the end of the last.
    pub(crate) wall: Duration,
    /// Of this process, all threads.
    pub(crate) cpu: Option<Duration>,
    /// Of each operation.
    pub(crate) latencies: Vec<Duration>,
}

impl Measured {
    /// Operations in a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }

    /// Processor time of an operation in microseconds.
    pub(crate) fn cpu_micros(&self) -> Option<f64> {
        self.cpu
            .map(|cpu| cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64)
    }
}

/// The number that a name ends with.
pub(crate) fn number_of(name: &[u8]) -> usize {
    name.iter()
        .skip(name.len().saturating_sub(super::objects::DIGITS))
        .fold(0, |number, digit| number * 10 + usize::from(digit.wrapping_sub(b'0')))
}
