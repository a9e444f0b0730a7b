//! What is counted and measured, under upstream's names (`storage-etcd3/METR-01` to `METR-09`).

use std::future::Future;

use crate::kv::{Kv, KvResult};
use crate::store::Inner;

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
        let labels = [
            ("operation", operation.to_owned()),
            ("group", self.info.group().to_owned()),
            ("resource", self.info.resource().to_owned()),
        ];
        metrics::histogram!("etcd_request_duration_seconds", &labels).record(took.as_secs_f64());
        metrics::counter!("etcd_requests_total", &labels).increment(1);
        if result.is_err() {
            metrics::counter!("etcd_request_errors_total", &labels).increment(1);
        }
        result
    }

    /// Adds to a counter of this resource.
    pub(crate) fn count(&self, name: &'static str, by: u64) {
        let labels = [
            ("group", self.info.group().to_owned()),
            ("resource", self.info.resource().to_owned()),
        ];
        metrics::counter!(name, &labels).increment(by);
    }
}
