//! `/metrics` in Prometheus' text form.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// One recorder per process, whoever starts first.
static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Renders everything that was recorded. Where the program has a recorder of its own, the text says so.
pub(crate) fn renderer() -> Box<dyn Fn() -> String + Send + Sync> {
    let handle = HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .clone();
    Box::new(move || match &handle {
        Some(handle) => {
            handle.run_upkeep();
            handle.render()
        }
        None => "# this program records its metrics elsewhere\n".to_owned(),
    })
}
