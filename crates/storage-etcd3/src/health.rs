//! Whether the cluster answers: a real read in the background, whose last result anybody can see without waiting.

use std::sync::Arc;

use futures::FutureExt;

use crate::shared::Shared;

/// Reads until the cluster is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut closed = cluster.closed();
    loop {
        let closed = closed.wait_for(|closed| *closed).map(drop);
        tokio::select! {
            biased;
            () = closed => return,
            () = cluster.clock().sleep(cluster.config.health_interval) => {}
        }
        probe(&shared).await;
    }
}

/// One read; remembers how it ended. Asks members for their versions that are not known.
pub(crate) async fn probe(shared: &Shared) {
    let cluster = &shared.cluster;
    let (asked, _) = cluster.current();
    let result = match cluster.within(cluster.config.health_timeout, shared.now()).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(format!("error getting data from etcd: {}", causes(&error))),
        None => {
            // It took the request and says nothing: callers should not have to find that out one by one.
            cluster.rotate(asked);
            Err("error getting data from etcd: context deadline exceeded".to_owned())
        }
    };
    let reachable = result.is_ok();
    let was = std::mem::replace(&mut *shared.health.lock(), result.clone());
    match (was, result) {
        (Ok(()), Err(cause)) => tracing::warn!(cause, "etcd does not answer"),
        (Err(_), Ok(())) => tracing::info!("etcd answers"),
        _ => {}
    }
    if reachable {
        let (_, current) = cluster.current();
        cluster.learn_trust(current).await;
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
