//! Delete of a collection: list page by page, delete several objects at once. Not atomic.
//!
//! Each object is deleted only if it is the one that was listed (by uid) and is still selected.
// deviates: registry/R-COL-18: upstream deletes by name alone, also what was created or relabelled since.
// deviates: registry/R-COL-03: 500 objects a page instead of 10000, which is what other clients read at once.
// deviates: registry/R-COL-06: no queue between list and delete; a page is deleted before the next is read.

use std::num::NonZeroU64;

use apiserver_storage_api::{Collected, Entry, ListAt, ListOptions, Object, SelectionPredicate};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::Store;
use super::delete::{Listed, validate};
use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::field_error::{FieldError, FieldPath};
use crate::resource::DeleteOptions;
use crate::storage_error::StorageVerb;

impl<T: Object> Store<T> {
    pub(super) async fn delete_objects(
        &self,
        ctx: &RequestContext,
        options: DeleteOptions,
        mut selection: ListOptions,
    ) -> Result<Collected> {
        validate(&options)?;
        if options.ignore_store_read_error == Some(true) {
            let field = FieldPath::new("ignoreStoreReadErrorWithClusterBreakingPotential");
            let error = FieldError::forbidden(&field, "collections are not deleted unread, delete each object by name");
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![error]));
        }
        let one_page = selection.limit.is_some();
        if !one_page {
            let page = u64::try_from(self.inner.options.collection_page.get()).unwrap_or(u64::MAX);
            selection.limit = NonZeroU64::new(page);
        }
        let mut all = self.page(ctx, &mut selection).await?;
        self.delete_page(ctx, &options, &selection.predicate, &all.entries)
            .await?;
        if one_page {
            return Ok(all);
        }
        // Everything will be processed, whatever the first page says of the rest.
        // deviates: registry/R-COL-19: the answer has no token and no remaining count.
        all.remaining = None;
        while let Some(token) = all.next.take() {
            selection.at = ListAt::Continue(token);
            let mut page = self.page(ctx, &mut selection).await?;
            self.delete_page(ctx, &options, &selection.predicate, &page.entries)
                .await?;
            all.entries.append(&mut page.entries);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One page. History may go while objects are deleted; then the list goes on at the latest state, which is as good
    /// for a deletion.
    async fn page(&self, ctx: &RequestContext, selection: &mut ListOptions) -> Result<Collected> {
        let paged = matches!(selection.at, ListAt::Continue(_));
        let listed = match self.list_objects(ctx, selection.clone()).await {
            Ok(list) => list
                .collect()
                .await
                .map_err(|error| self.translate(ctx, error, StorageVerb::List, "")),
            Err(error) => Err(error),
        };
        let token = match &listed {
            Err(error) if paged && error.is_expired() => error.continue_token().map(str::to_owned),
            _ => None,
        };
        let Some(token) = token else { return listed };
        let token = apiserver_storage_api::ContinueToken::decode(&token).map_err(ApiError::internal)?;
        selection.at = ListAt::Continue(token);
        let list = self.list_objects(ctx, selection.clone()).await?;
        list.collect()
            .await
            .map_err(|error| self.translate(ctx, error, StorageVerb::List, ""))
    }

    /// Deletes these objects, some at once. After an error no further one is begun; those that run are waited for.
    async fn delete_page(
        &self,
        ctx: &RequestContext,
        options: &DeleteOptions,
        predicate: &SelectionPredicate,
        entries: &[Entry],
    ) -> Result<()> {
        let workers = self.inner.options.collection_workers.get();
        let mut running: FuturesUnordered<BoxFuture<'_, Result<()>>> = FuturesUnordered::new();
        let mut waiting = entries.iter();
        let mut failed: Option<ApiError> = None;
        loop {
            while failed.is_none() && running.len() < workers {
                let Some(entry) = waiting.next() else { break };
                running.push(Box::pin(self.delete_listed(ctx, options, predicate, entry)));
            }
            match running.next().await {
                None => return failed.map_or(Ok(()), Err),
                Some(Ok(())) => {}
                Some(Err(error)) if failed.is_none() => failed = Some(error),
                // The client gets the first error; the others are for whoever looks after the server.
                Some(Err(error)) => tracing::warn!(%error, "object of a collection was not deleted"),
            }
        }
    }

    async fn delete_listed(
        &self,
        ctx: &RequestContext,
        options: &DeleteOptions,
        predicate: &SelectionPredicate,
        entry: &Entry,
    ) -> Result<()> {
        let attributes = entry
            .record()
            .map_err(|error| self.translate(ctx, error, StorageVerb::List, ""))?
            .attributes();
        let key = self.key(ctx, &attributes.name)?;
        let listed = Listed {
            uid: &attributes.uid,
            predicate,
        };
        match self
            .delete_checked(ctx, &key, &attributes.name, options, Some(listed))
            .await
        {
            Ok(_) => Ok(()),
            // Gone already, no longer selected, or another object by now.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
