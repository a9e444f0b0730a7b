//! Numbers and sizes of objects as gauges under upstream's names (`storage-etcd3/METR-10`, `METR-11`).
//!
//! Whoever opens stores publishes the [`ObjectNumbers`] of those that are open about once a minute, as upstream does. A
//! recorder has no word for the end of a series: gauges of a resource that is gone are `NaN`, which is left out where
//! metrics are rendered.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver_storage_api::{ResourceInfo, Stats, Storage};
use metrics::Gauge;

/// The gauges of one resource, until this is dropped.
#[derive(Debug)]
pub struct ObjectGauges {
    objects: Gauge,
    /// The older name of the same.
    storage_objects: Gauge,
    bytes: Gauge,
}

impl ObjectGauges {
    /// The gauges of a resource, which say nothing yet.
    pub fn new(info: &ResourceInfo) -> Self {
        let (group, resource) = (info.group().to_owned(), info.resource().to_owned());
        Self {
            objects: metrics::gauge!(
                "apiserver_resource_objects", "group" => group.clone(), "resource" => resource.clone()
            ),
            storage_objects: metrics::gauge!("apiserver_storage_objects", "resource" => info.group_resource()),
            bytes: metrics::gauge!(
                "apiserver_resource_size_estimate_bytes", "group" => group, "resource" => resource
            ),
        }
    }

    /// What is known now; none when the store could not be asked. What is not known is -1.
    pub fn set(&self, stats: Option<Stats>) {
        let (count, bytes) = match stats {
            None => (-1.0, -1.0),
            Some(Stats { count: 0, .. }) => (0.0, 0.0),
            Some(Stats {
                count, average_size: 0, ..
            }) => (count as f64, -1.0),
            Some(Stats {
                count, average_size, ..
            }) => (count as f64, count as f64 * average_size as f64),
        };
        self.all(count, bytes);
    }

    fn all(&self, count: f64, bytes: f64) {
        self.objects.set(count);
        self.storage_objects.set(count);
        self.bytes.set(bytes);
    }
}

impl Drop for ObjectGauges {
    fn drop(&mut self) {
        self.all(f64::NAN, f64::NAN);
    }
}

/// The numbers of the open stores of a process.
#[derive(Debug, Default)]
pub struct ObjectNumbers(BTreeMap<String, ObjectGauges>);

impl ObjectNumbers {
    /// Asks each of the open stores for its statistics, one after the other, and publishes them. Resources that had a
    /// store the last time, and have none any more, lose their gauges. A store that cannot be asked is a matter of its
    /// gauges and of the log.
    pub async fn publish(&mut self, open: &[Arc<dyn Storage>]) {
        let names: Vec<_> = open.iter().map(|store| store.resource().group_resource()).collect();
        self.0.retain(|name, _| names.contains(name));
        for (store, name) in open.iter().zip(names) {
            let stats = store.stats().await;
            if let Err(error) = &stats {
                tracing::warn!(resource = name, %error, "objects cannot be counted");
            }
            let gauges = self
                .0
                .entry(name)
                .or_insert_with(|| ObjectGauges::new(store.resource()));
            gauges.set(stats.ok());
        }
    }
}
