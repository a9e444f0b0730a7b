//! What is counted and measured, under upstream's names (`storage-etcd3/METR-01` to `METR-09`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::ResourceInfo;
use apiserver_storage_api::time::Clock;
use metrics::{Counter, SharedString};

use crate::kv::{Kv, KvResult};
use crate::latency::RequestLatency;
use crate::store::Inner;

/// The labels of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    kind: Arc<str>,
    group: SharedString,
    resource: SharedString,
    clock: Arc<dyn Clock>,
}

impl Meter {
    pub(crate) fn new(info: &ResourceInfo, clock: &Arc<dyn Clock>) -> Self {
        let shared = |text: &str| SharedString::from_shared(Arc::from(text));
        Self {
            kind: info.gvk().kind.as_str().into(),
            group: shared(info.group()),
            resource: shared(info.resource()),
            clock: Arc::clone(clock),
        }
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Adds to a counter that has no other labels.
    pub(crate) fn count(&self, name: &'static str, by: u64) {
        self.counter(name).increment(by);
    }

    /// A counter that has no other labels, for what counts often.
    pub(crate) fn counter(&self, name: &'static str) -> Counter {
        metrics::counter!(name, "group" => self.group.clone(), "resource" => self.resource.clone())
    }

    /// Progress of a watch was passed on. The gauge is the older name of the counter.
    pub(crate) fn bookmark(&self) {
        self.count("etcd_bookmark_total", 1);
        metrics::gauge!("etcd_bookmark_counts", "group" => self.group.clone(), "resource" => self.resource.clone())
            .increment(1.0);
    }

    /// A call to the backend has ended.
    pub(crate) fn request(&self, operation: &'static str, took: Duration, failed: bool) {
        let (group, resource) = (&self.group, &self.resource);
        metrics::histogram!(
            "etcd_request_duration_seconds",
            "operation" => operation, "group" => group.clone(), "resource" => resource.clone()
        )
        .record(took.as_secs_f64());
        for (name, counts) in [("etcd_requests_total", true), ("etcd_request_errors_total", failed)] {
            if counts {
                let labels = metrics::counter!(
                    name,
                    "operation" => operation, "group" => group.clone(), "resource" => resource.clone()
                );
                labels.increment(1);
            }
        }
    }
}

impl<K: Kv> Inner<K> {
    /// Runs a call to the backend, counting it and its failure and measuring its time.
    pub(crate) async fn timed<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = KvResult<T>>,
    ) -> KvResult<T> {
        let start = self.config.clock.monotonic();
        let result = call.await;
        let took = self.config.clock.monotonic().saturating_sub(start);
        self.meter.request(operation, took, result.is_err());
        RequestLatency::add_storage(took);
        result
    }

    /// Runs a call to the backend that upstream has no operation for; its time counts for the request.
    pub(crate) async fn measured<T>(&self, call: impl Future<Output = T>) -> T {
        let start = self.config.clock.monotonic();
        let result = call.await;
        RequestLatency::add_storage(self.config.clock.monotonic().saturating_sub(start));
        result
    }
}

/// What one list has done; counted when it ends, also where it fails or is given up.
#[derive(Debug)]
pub(crate) struct ListMeter {
    meter: Meter,
    start: Duration,
    /// Pairs that came from the backend.
    pub(crate) fetched: u64,
    /// Pairs that could be read.
    pub(crate) evaluated: u64,
    /// Entries that were handed out.
    pub(crate) returned: u64,
}

impl ListMeter {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            start: meter.clock.monotonic(),
            meter: meter.clone(),
            fetched: 0,
            evaluated: 0,
            returned: 0,
        }
    }
}

impl Drop for ListMeter {
    fn drop(&mut self) {
        // Dashboards know two values of `storage`: this one for whatever backend there is, and `watchcache`.
        const STORAGE: &str = "etcd";
        let Meter {
            group, resource, clock, ..
        } = &self.meter;
        for (name, by) in [
            ("apiserver_storage_list_total", 1),
            ("apiserver_storage_list_fetched_objects_total", self.fetched),
        ] {
            metrics::counter!(
                name,
                "group" => group.clone(), "resource" => resource.clone(), "storage" => STORAGE, "index" => ""
            )
            .increment(by);
        }
        for (name, by) in [
            ("apiserver_storage_list_evaluated_objects_total", self.evaluated),
            ("apiserver_storage_list_returned_objects_total", self.returned),
        ] {
            metrics::counter!(
                name,
                "group" => group.clone(), "resource" => resource.clone(), "storage" => STORAGE
            )
            .increment(by);
        }
        let took = clock.monotonic().saturating_sub(self.start);
        metrics::histogram!(
            "apiserver_storage_list_duration_seconds",
            "streamed" => "true", "group" => group.clone(), "resource" => resource.clone()
        )
        .record(took.as_secs_f64());
    }
}
