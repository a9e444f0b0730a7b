//! `/metrics` in Prometheus' text form.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// One recorder per process, whoever starts first.
static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Upstream's buckets for the time of requests, of clients to the server and of the server to the storage.
const REQUEST_SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// What is a histogram under upstream's name, and upstream's buckets. Everything else is a summary.
const HISTOGRAMS: &[(&str, &[f64])] = &[
    ("apiserver_request_duration_seconds", &REQUEST_SECONDS),
    ("apiserver_storage_list_duration_seconds", &REQUEST_SECONDS),
    ("etcd_request_duration_seconds", &REQUEST_SECONDS),
    (
        "apiserver_watch_cache_initialization_duration_seconds",
        &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0],
    ),
    (
        "apiserver_watch_cache_read_wait_seconds",
        &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0],
    ),
    #[cfg(feature = "etcd3")]
    (
        "etcd_lease_object_counts",
        &crate::storage::backend::LEASE_OBJECT_BUCKETS,
    ),
];

fn builder() -> PrometheusBuilder {
    HISTOGRAMS
        .iter()
        .fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
            builder
                .set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
                .expect("every histogram of the table has buckets")
        })
}

/// Renders everything that was recorded. Where the program has a recorder of its own, the text says so.
pub(crate) fn renderer() -> Box<dyn Fn() -> String + Send + Sync> {
    let handle = HANDLE.get_or_init(|| builder().install_recorder().ok()).clone();
    Box::new(move || match &handle {
        Some(handle) => {
            handle.run_upkeep();
            known(&handle.render())
        }
        None => "# this program records its metrics elsewhere\n".to_owned(),
    })
}

/// The samples that have a value. A gauge whose thing is gone stays with the recorder, as `NaN`; for whoever reads the
/// metrics it is to be gone, and with its last sample a metric is, too.
fn known(text: &str) -> String {
    let mut known = String::with_capacity(text.len());
    // What stands above the samples of a metric, until there is one.
    let mut header = 0..0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let content = line.trim_end();
        if content.starts_with('#') {
            if header.end != start {
                header.start = start;
            }
            header.end = at;
        } else if content.is_empty() {
            // An empty line ends a metric, and there is none after nothing.
            if header.is_empty() {
                known.push_str(line);
            }
            header = 0..0;
        } else if !content.ends_with(" NaN") {
            known.push_str(&text[header]);
            known.push_str(line);
            header = 0..0;
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is rendered after something was recorded.
    fn rendered(record: impl FnOnce()) -> String {
        let recorder = builder().build_recorder();
        metrics::with_local_recorder(&recorder, record);
        known(&recorder.handle().render())
    }

    // covers: storage-etcd3/METR-01, storage-etcd3/METR-05
    #[test]
    fn times_are_histograms_with_upstreams_buckets() {
        let text = rendered(|| {
            for (name, _) in HISTOGRAMS {
                metrics::histogram!(*name, "operation" => "get").record(0.3);
            }
        });
        assert!(!text.contains("quantile"), "no summary: {text}");
        for (name, buckets) in HISTOGRAMS {
            assert!(text.contains(&format!("# TYPE {name} histogram\n")), "{text}");
            for bound in *buckets {
                let count = u8::from(*bound >= 0.3);
                let line = format!("{name}_bucket{{operation=\"get\",le=\"{bound}\"}} {count}");
                assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
            }
            let own = format!("{name}_bucket{{");
            let lines = text.lines().filter(|line| line.starts_with(&own)).count();
            assert_eq!(lines, buckets.len() + 1, "and +Inf: {name}");
        }
    }

    // covers: storage-etcd3/METR-10, storage-etcd3/METR-11
    #[test]
    fn what_is_gone_has_no_sample_and_a_metric_without_samples_no_header() {
        let text = rendered(|| {
            metrics::describe_gauge!("objects", "How many NaN");
            metrics::gauge!("objects", "resource" => "gone").set(f64::NAN);
            metrics::gauge!("objects", "resource" => "pods NaN").set(2.0);
            metrics::gauge!("objects", "resource" => "zero").set(0.0);
            metrics::describe_gauge!("bytes", "All gone");
            metrics::gauge!("bytes", "resource" => "gone").set(f64::NAN);
            metrics::counter!("calls_total").increment(1);
        });
        let mut lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "# HELP objects How many NaN",
                "# TYPE calls_total counter",
                "# TYPE objects gauge",
                "calls_total 1",
                "objects{resource=\"pods NaN\"} 2",
                "objects{resource=\"zero\"} 0",
            ]
        );
        for metric in text.split("\n\n").filter(|metric| !metric.is_empty()) {
            assert!(metric.starts_with("# "), "a header stands above its samples: {text}");
        }
        assert_eq!(known(""), "");
        assert_eq!(known("# text\nvalue 1"), "# text\nvalue 1", "also without a line's end");
    }
}
