//! Slow requests are told in the log, with what they spent their time on.
//!
//! The line begins as upstream's does, `Trace[<audit id>]: "List" url:/api/v1/pods ... (total time: 612ms)`, and its
//! fields are the parts that upstream annotates: the storage, decoding, the handler, and writing the answer. A server
//! that logs no such lines measures nothing.
//!
//! Upstream: kubernetes/utils trace, kubernetes/apiserver pkg/endpoints/filters/webhook_duration.go (latencies).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tracing::Level;

use apiserver_storage_api::time::Clock;
use apiserver_storagebackend::RequestLatency;

use crate::http::path::{ResourcePath, Verb};

/// What takes longer is slow.
const SLOW: Duration = Duration::from_millis(500);

/// What a request has spent its time on so far. Tells it when it is dropped, if that was long.
pub(crate) struct Trace {
    clock: Arc<dyn Clock>,
    started: Duration,
    latency: RequestLatency,
    path: ResourcePath,
    /// Absent while the handler runs; one that is given up says nothing.
    done: Option<Done>,
}

struct Done {
    audit_id: HeaderValue,
    status: StatusCode,
    handler: Duration,
}

impl Trace {
    /// Measures from now on; nothing where nobody would be told. Watches are long by nature.
    pub(crate) fn start(clock: &Arc<dyn Clock>, started: Duration, path: &ResourcePath) -> Option<Self> {
        if path.verb == Verb::Watch || !tracing::enabled!(Level::INFO) {
            return None;
        }
        Some(Self {
            clock: Arc::clone(clock),
            started,
            latency: RequestLatency::new(),
            path: path.clone(),
            done: None,
        })
    }

    /// Where the storage adds what it took.
    pub(crate) fn latency(&self) -> &RequestLatency {
        &self.latency
    }

    /// The handler is done. What comes is the writing of the answer, for as long as this is kept; an answer that is
    /// there in one piece is only kept when it is slow already.
    pub(crate) fn handled(mut self, audit_id: &HeaderValue, status: StatusCode) -> Option<Self> {
        let handler = self.clock.monotonic().saturating_sub(self.started);
        if handler <= SLOW && self.path.verb != Verb::List {
            return None;
        }
        self.done = Some(Done {
            audit_id: audit_id.clone(),
            status,
            handler,
        });
        Some(self)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Some(done) = &self.done else { return };
        let total = self.clock.monotonic().saturating_sub(self.started);
        if total <= SLOW {
            return;
        }
        let path = &self.path;
        tracing::info!(
            resource = path.resource,
            group = path.group,
            namespace = path.namespace,
            name = path.name,
            status = done.status.as_u16(),
            storage = ?self.latency.storage(),
            decode = ?self.latency.decode(),
            handler = ?done.handler,
            write = ?total.saturating_sub(done.handler),
            "Trace[{}]: \"{}\" (total time: {}ms)",
            done.audit_id.to_str().unwrap_or_default(),
            title(path.verb),
            total.as_millis(),
        );
    }
}

/// As upstream's traces name it.
fn title(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "Get",
        Verb::List => "List",
        Verb::Watch => "Watch",
        Verb::Create => "Create",
        Verb::Update => "Update",
        Verb::Patch => "Patch",
        Verb::Delete => "Delete",
        Verb::DeleteCollection => "DeleteCollection",
        Verb::Other => "Other",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::SystemTime;

    use parking_lot::Mutex;

    use apiserver_storage_api::time::ManualClock;

    use super::*;
    use crate::http::path::{self, RequestInfo};
    use crate::http::query::Query;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn path(target: &str) -> ResourcePath {
        match path::classify(&http::Method::GET, target, &Query::parse("")) {
            Ok(RequestInfo::Resource(path)) => path,
            _ => panic!("{target} is no resource"),
        }
    }

    /// What is logged of a request whose handler and answer take so long.
    fn logged(level: Level, target: &str, handler: u64, write: u64) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let manual = ManualClock::new(SystemTime::UNIX_EPOCH);
            let clock: Arc<dyn Clock> = Arc::new(manual.clone());
            let trace = Trace::start(&clock, clock.monotonic(), &path(target));
            assert_eq!(trace.is_some(), level >= Level::INFO, "nothing is measured for nobody");
            manual.advance(Duration::from_millis(handler));
            let id = HeaderValue::from_static("the-id");
            let trace = trace.and_then(|trace| trace.handled(&id, StatusCode::OK));
            manual.advance(Duration::from_millis(write));
            drop(trace);
        });
        let bytes = log.0.lock();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn what_takes_longer_than_half_a_second_is_told_in_parts() {
        let (list, get) = (
            "/apis/apps/v1/namespaces/ns/deployments",
            "/api/v1/namespaces/ns/pods/p",
        );
        let text = logged(Level::INFO, list, 100, 500);
        assert!(text.contains("Trace[the-id]: \"List\" (total time: 600ms)"), "{text}");
        for field in [
            "resource=\"deployments\"",
            "group=\"apps\"",
            "namespace=\"ns\"",
            "status=200",
            "storage=0ns",
            "decode=0ns",
            "handler=100ms",
            "write=500ms",
        ] {
            assert!(text.contains(field), "{field} is not in {text}");
        }
        assert_eq!(logged(Level::INFO, list, 100, 400), "", "fast enough");
        let text = logged(Level::INFO, get, 501, 0);
        assert!(
            text.contains("\"Get\" (total time: 501ms)") && text.contains("name=\"p\""),
            "{text}"
        );
        assert_eq!(logged(Level::INFO, get, 500, 0), "");
        assert_eq!(logged(Level::WARN, list, 10_000, 0), "", "nobody wants to know");
    }
}
