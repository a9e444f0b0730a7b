//! Delete of collections.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver_registry::{Admission, ApiError, DeleteOptions, RequestContext, Resource, Review, Store, StoreOptions};
use apiserver_storage_api::{
    EventKind, FieldSelector, LabelSelector, ListOptions, SelectionPredicate, Storage, WatchItem, WatchOptions,
};
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::{Fixture, Rules, Short, Widget, refused, widget};

fn paged(fixture: &Fixture, page: usize, workers: usize, rules: Rules) -> Store<Widget> {
    let mut options = StoreOptions::default();
    options.collection_page = NonZeroUsize::new(page).unwrap();
    options.collection_workers = NonZeroUsize::new(workers).unwrap();
    let storage: Arc<dyn Storage> = Arc::clone(&fixture.storage) as _;
    Store::builder(storage, rules).options(options).build()
}

async fn fill(store: &Store<Widget>, ctx: &RequestContext, count: usize) {
    for at in 0..count {
        let mut object = widget(&format!("w{at:02}"));
        object["spec"]["color"] = json!(if at % 2 == 0 { "red" } else { "blue" });
        store.make(ctx, object).await.unwrap();
    }
}

async fn count(store: &Store<Widget>, ctx: &RequestContext) -> usize {
    store
        .list(ctx, ListOptions::default())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
        .entries
        .len()
}

fn select(selector: &str) -> ListOptions {
    let predicate = SelectionPredicate::new(LabelSelector::default(), FieldSelector::parse(selector).unwrap());
    ListOptions {
        predicate,
        ..ListOptions::default()
    }
}

// covers: registry/R-COL-01, registry/R-COL-03, registry/R-COL-05, registry/R-COL-06, registry/R-COL-19, registry/R-NEW-10
#[tokio::test]
async fn everything_goes_page_by_page_and_is_answered_as_it_was() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 2, 3, Rules::default());
    fill(&store, &ctx, 10).await;
    let elsewhere = fixture.ctx_in(Some("other"));
    store.make(&elsewhere, widget("stays")).await.unwrap();
    fixture.storage.lists.store(0, Ordering::Relaxed);
    let gone = store
        .delete_collection(&ctx, DeleteOptions::default(), ListOptions::default())
        .await
        .unwrap();
    assert_eq!(fixture.storage.lists.load(Ordering::Relaxed), 5);
    assert_eq!(gone.entries.len(), 10);
    assert_eq!((gone.next, gone.remaining), (None, None));
    assert_eq!(count(&store, &ctx).await, 0);
    assert_eq!(count(&store, &elsewhere).await, 1);
}

// covers: registry/R-COL-04
#[tokio::test]
async fn a_limit_means_one_page() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 2, 1, Rules::default());
    fill(&store, &ctx, 5).await;
    let options = ListOptions {
        limit: NonZeroU64::new(3),
        ..ListOptions::default()
    };
    let gone = store
        .delete_collection(&ctx, DeleteOptions::default(), options)
        .await
        .unwrap();
    assert_eq!(gone.entries.len(), 3);
    assert!(gone.next.is_some());
    assert_eq!(count(&store, &ctx).await, 2);
}

// covers: registry/R-COL-14, registry/R-COL-15, registry/R-COL-07
#[tokio::test]
async fn each_object_follows_its_own_rules() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 2, 2, Rules::default());
    fill(&store, &ctx, 4).await;
    store
        .edit(&ctx, "w02", |object| {
            object["metadata"]["finalizers"] = json!(["example.com/hold"])
        })
        .await
        .unwrap();
    let dry = DeleteOptions {
        dry_run: vec!["All".into()],
        ..DeleteOptions::default()
    };
    assert_eq!(
        store
            .delete_collection(&ctx, dry, ListOptions::default())
            .await
            .unwrap()
            .entries
            .len(),
        4
    );
    assert_eq!(count(&store, &ctx).await, 4);
    let red = store
        .delete_collection(&ctx, DeleteOptions::default(), select("spec.color=red"))
        .await
        .unwrap();
    assert_eq!(red.entries.len(), 2);
    assert_eq!(count(&store, &ctx).await, 3);
    let held = store.see(&ctx, "w02").await.unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
}

/// Lets a change happen between the list and the first delete, and counts.
struct Once {
    store: Store<Widget>,
    ctx: RequestContext,
    asked: AtomicUsize,
    refuse: &'static str,
}

#[async_trait]
impl Admission for Once {
    async fn validate(&self, _: &RequestContext, review: Review<'_>) -> Result<(), ApiError> {
        let old: Value = review.old.unwrap().decode().map_err(ApiError::internal)?;
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            // One is painted, one is replaced, one is gone.
            self.store
                .edit(&self.ctx, "w02", |object| object["spec"]["color"] = json!("blue"))
                .await?;
            self.store.remove(&self.ctx, "w04").await?;
            self.store.make(&self.ctx, widget("w04")).await?;
            self.store.remove(&self.ctx, "w06").await?;
        }
        match old["metadata"]["name"] == self.refuse {
            true => Err(ApiError::forbidden("example.com", "widgets", self.refuse, "it stays")),
            false => Ok(()),
        }
    }
}

// covers: registry/R-COL-08, registry/R-COL-13, registry/R-COL-18, registry/R-NEW-10
#[tokio::test]
async fn only_what_was_listed_and_is_still_selected_goes() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 100, 1, Rules::default());
    fill(&store, &ctx, 10).await;
    let once = Once {
        store: store.clone(),
        ctx: fixture.ctx(),
        asked: AtomicUsize::new(0),
        refuse: "",
    };
    let admitted = fixture.ctx().with_admission(Arc::new(once));
    let listed = store
        .delete_collection(&admitted, DeleteOptions::default(), select("spec.color=red"))
        .await
        .unwrap();
    assert_eq!(listed.entries.len(), 5);
    let left = store
        .list(&ctx, ListOptions::default())
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let left: Vec<_> = left
        .entries
        .iter()
        .map(|entry| entry.attributes().unwrap().name.to_string())
        .collect();
    assert_eq!(left, ["w01", "w02", "w03", "w04", "w05", "w07", "w09"]);
}

// covers: registry/R-COL-02, registry/R-COL-09, registry/R-COL-10, registry/R-COL-21
#[tokio::test]
async fn the_first_error_ends_it_and_is_the_answer() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    for workers in [1, 4] {
        let store = paged(&fixture, 100, workers, Rules::default());
        fill(&store, &ctx, 10).await;
        let once = Once {
            store: store.clone(),
            ctx: fixture.ctx(),
            asked: AtomicUsize::new(1),
            refuse: "w03",
        };
        let admitted = fixture.ctx().with_admission(Arc::new(once));
        let result = store
            .delete_collection(&admitted, DeleteOptions::default(), ListOptions::default())
            .await;
        refused(
            result,
            403,
            "Forbidden",
            "widgets.example.com \"w03\" is forbidden: it stays",
        );
        let left = count(&store, &ctx).await;
        assert!(
            (10 - 3 - workers..10).contains(&left),
            "{left} left with {workers} workers"
        );
        store.see(&ctx, "w03").await.unwrap();
        store.see(&ctx, "w09").await.unwrap();
        store
            .delete_collection(&ctx, DeleteOptions::default(), ListOptions::default())
            .await
            .unwrap();
    }
}

// covers: registry/R-COL-08
#[tokio::test]
async fn two_at_once_both_succeed() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 3, 2, Rules::default());
    fill(&store, &ctx, 12).await;
    let both = || store.delete_collection(&ctx, DeleteOptions::default(), ListOptions::default());
    let (one, two) = futures::join!(both(), both());
    one.unwrap();
    two.unwrap();
    assert_eq!(count(&store, &ctx).await, 0);
}

// covers: registry/R-COL-17, registry/R-UNS-07
#[tokio::test]
async fn what_a_collection_cannot_do() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 3, 2, Rules::default());
    fill(&store, &ctx, 1).await;
    let nowhere = fixture.ctx_in(None);
    let result = store
        .delete_collection(&nowhere, DeleteOptions::default(), ListOptions::default())
        .await;
    refused(result, 400, "BadRequest", "Namespace parameter required.");
    let unread = DeleteOptions {
        ignore_store_read_error: Some(true),
        ..DeleteOptions::default()
    };
    assert!(
        store
            .delete_collection(&ctx, unread, ListOptions::default())
            .await
            .unwrap_err()
            .is_invalid()
    );
    assert_eq!(count(&store, &ctx).await, 1);
}

// covers: registry/R-COL-11
#[tokio::test]
async fn a_dropped_request_begins_no_further_deletion() {
    /// Lets two objects go and then waits for ever.
    struct Two(AtomicUsize);
    #[async_trait]
    impl Admission for Two {
        async fn validate(&self, _: &RequestContext, _: Review<'_>) -> Result<(), ApiError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 2 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 100, 1, Rules::default());
    fill(&store, &ctx, 10).await;
    let two = Arc::new(Two(AtomicUsize::new(0)));
    let admitted = fixture.ctx().with_admission(Arc::clone(&two) as _);
    {
        let request = store.delete_collection(&admitted, DeleteOptions::default(), ListOptions::default());
        let waits = std::future::poll_fn(|_| match two.0.load(Ordering::Relaxed) {
            3 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        });
        futures::pin_mut!(request);
        futures::future::select(request, waits).await;
    }
    assert_eq!(count(&store, &ctx).await, 8);
    assert_eq!(two.0.load(Ordering::Relaxed), 3);
}

// covers: registry/R-COL-16
#[tokio::test]
async fn watchers_see_each_object_go_with_its_last_state() {
    let fixture = Fixture::new().await;
    let ctx = fixture.ctx();
    let store = paged(&fixture, 2, 2, Rules::default());
    fill(&store, &ctx, 5).await;
    let mut watch = store.watch(&ctx, WatchOptions::default()).await.unwrap();
    let listed = store
        .delete_collection(&ctx, DeleteOptions::default(), ListOptions::default())
        .await
        .unwrap();
    let mut gone = Vec::new();
    while gone.len() < 5 {
        let WatchItem::Batch(batch) = watch.next().await.unwrap().unwrap() else {
            continue;
        };
        for event in batch.events.iter() {
            assert_eq!(event.kind, EventKind::Deleted);
            let last = event.object.as_ref().unwrap();
            let was = listed.entries.iter().find(|entry| entry.key() == last.key()).unwrap();
            assert_eq!(last.json().unwrap(), was.at_revision(last.revision()).json().unwrap());
            gone.push(last.key().to_string());
        }
    }
    gone.sort();
    gone.dedup();
    assert_eq!(gone.len(), 5);
}
