//! What has to be there before a server is ready: its storage, its definitions, the system namespaces.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use apiserver_registry::{CreateOptions, RequestContext, Resource};
use apiserver_storage_api::chain;
use apiserver_storage_api::time::Clock;
use apiserver_storagebackend::Factory;

use crate::config::{ServerConfig, StartError};
use crate::kinds::admission::SYSTEM_NAMESPACES;
use crate::kinds::catalog::Catalogs;
use crate::kinds::definitions::Definitions;

/// Waits for the storage, stores the definitions that were given, follows all definitions, makes the system
/// namespaces, and waits until every kind can be read. Two servers may do this at once on one storage.
pub(crate) async fn prepare(
    config: &ServerConfig,
    factory: &Factory,
    catalogs: &Catalogs,
    namespaces: Arc<dyn Resource>,
    definitions: Definitions,
    stop: CancellationToken,
    limit: Duration,
) -> Result<JoinHandle<()>, StartError> {
    let clock = &config.clock;
    let failed = |message: String| StartError::Bootstrap { message };
    retry(clock, limit, || async {
        factory.reachable().await.map_err(|error| chain(&*error))
    })
    .await
    .map_err(|error| failed(format!("the storage cannot be reached: {error}")))?;
    if let Some(path) = &config.custom_resource_definitions {
        definitions.store_files(path).await.map_err(failed)?;
    }
    let (first, mounted) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(definitions.follow(first, stop));
    let waited = async {
        tokio::select! {
            mounted = mounted => mounted.map_err(|_| "the watch of definitions ended".to_owned()),
            () = clock.sleep(limit) => Err("definitions cannot be read".to_owned()),
        }?;
        for name in SYSTEM_NAMESPACES {
            retry(clock, limit, || ensure_namespace(clock, &namespaces, name)).await?;
        }
        retry(clock, limit, || async { catalogs.current().ready() }).await
    };
    match waited.await {
        Ok(()) => Ok(task),
        Err(message) => {
            task.abort();
            Err(failed(message))
        }
    }
}

async fn ensure_namespace(clock: &Arc<dyn Clock>, namespaces: &Arc<dyn Resource>, name: &str) -> Result<(), String> {
    let context = RequestContext::new(Arc::clone(clock)).with_resource("", "v1", "namespaces", None);
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    match namespaces.create(&context, object, CreateOptions::default()).await {
        Ok(_) => Ok(()),
        // Another server, or an earlier run of this one.
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(format!("namespace {name}: {}", error.message())),
    }
}

/// Tries until it works or the time is up; the last error is the answer then.
async fn retry<F, Fut>(clock: &Arc<dyn Clock>, limit: Duration, mut attempt: F) -> Result<(), String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let end = clock.monotonic() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if clock.monotonic() + pause >= end => return Err(error),
            Err(error) => tracing::debug!(%error, "not there yet"),
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
