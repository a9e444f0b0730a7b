//! A cluster that notes what is asked of it, and lets a test act between two reads; what the server says of itself; and
//! a book of what is counted here.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub(crate) mod meter;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_testing::Spy;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the server at a port has counted so far, summed over all lines that begin with a name and hold these texts.
pub(crate) async fn counted(port: u16, name: &str, texts: &[&str]) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a server");
    let request = "GET /metrics HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let chosen = answer
        .lines()
        .filter(|line| line.starts_with(name) && texts.iter().all(|text| line.contains(text)));
    chosen
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// The cluster.
pub(crate) type Seen = Spy<EtcdKv>;

/// Counts what is counted on this thread, by name and labels.
#[derive(Default)]
pub(crate) struct Book(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Book {
    /// The sum of all counters whose name and labels hold all of these texts.
    pub(crate) fn sum(&self, texts: &[&str]) -> u64 {
        let book = self.0.lock();
        let chosen = book
            .iter()
            .filter(|(name, _)| texts.iter().all(|text| name.contains(text)));
        chosen.map(|(_, count)| count.load(Ordering::SeqCst)).sum()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::clone(self.0.lock().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
