//! The verbs with a `T` in and a `T` out.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, Scope};
use crate::object::{Encoded, Object};
use crate::options::{CreateOptions, DeleteOptions, GetOptions, ListOptions, UpdateOptions};
use crate::revision::Revision;
use crate::storage::{Change, NoCheck, Storage, Update};

/// A view of a store through a type. Objects carry their revision in `metadata.resourceVersion`.
pub struct Typed<T> {
    storage: Arc<dyn Storage>,
    of: PhantomData<fn() -> T>,
}

/// A decoded list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TypedList<T> {
    /// The state that the list shows.
    pub revision: Revision,
    /// Objects in key order.
    pub items: Vec<T>,
    /// The way to the next page.
    pub next: Option<crate::ContinueToken>,
    /// How many more objects there are, if known.
    pub remaining: Option<u64>,
}

impl<T: Object> Typed<T> {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            of: PhantomData,
        }
    }

    /// The store behind this view.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// [`Storage::create`].
    ///
    /// # Errors
    ///
    /// As there, and when the object does not encode or decode.
    pub async fn create(&self, key: &Key, object: &T, options: CreateOptions) -> Result<T> {
        self.storage.create(key, Encoded::of(object)?, options).await?.decode()
    }

    /// [`Storage::get`].
    ///
    /// # Errors
    ///
    /// As there, and when the object does not decode.
    pub async fn get(&self, key: &Key, options: GetOptions) -> Result<T> {
        self.storage.get(key, options).await?.decode()
    }

    /// [`Storage::get`] of an object that may not be there.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), but for [`KeyNotFound`](crate::StorageError::KeyNotFound).
    pub async fn find(&self, key: &Key, options: GetOptions) -> Result<Option<T>> {
        match self.get(key, options).await {
            Err(error) if error.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// [`Storage::list`], decoded page by page.
    ///
    /// # Errors
    ///
    /// As there, and when an object does not decode.
    pub async fn list(&self, scope: &Scope, options: ListOptions) -> Result<TypedList<T>> {
        let list = self.storage.list(scope, options).await?;
        let mut typed = TypedList {
            revision: list.revision(),
            items: Vec::new(),
            next: None,
            remaining: None,
        };
        let mut pages = list.into_pages();
        // Decoded as they come: the bytes of a page go before the next one is read.
        while let Some(page) = pages.next().await {
            let page = page?;
            typed.items.reserve(page.entries.len());
            for entry in &page.entries {
                typed.items.push(entry.decode()?);
            }
            if let Some(end) = page.end {
                (typed.next, typed.remaining) = (end.next, end.remaining);
                break;
            }
        }
        Ok(typed)
    }

    /// [`Storage::guaranteed_update`]: `update` gets the current object, or `None` where nothing is stored and the
    /// options ask to create, and returns the new one. It runs once per attempt.
    ///
    /// # Errors
    ///
    /// As there, and when an object does not encode or decode.
    pub async fn guaranteed_update<F, Fut>(&self, key: &Key, options: UpdateOptions, update: F) -> Result<T>
    where
        F: FnMut(Option<T>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let mut update = TypedUpdate {
            update,
            of: PhantomData,
        };
        self.storage
            .guaranteed_update(key, options, &mut update)
            .await?
            .decode()
    }

    /// [`Storage::delete`] without a validation. Returns the last state.
    ///
    /// # Errors
    ///
    /// As there, and when the object does not decode.
    pub async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<T> {
        self.storage.delete(key, options, &mut NoCheck).await?.decode()
    }
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed")
            .field("resource", self.storage.resource())
            .finish()
    }
}

struct TypedUpdate<T, F> {
    update: F,
    of: PhantomData<fn() -> T>,
}

#[async_trait]
impl<T, F, Fut> Update for TypedUpdate<T, F>
where
    T: Object,
    F: FnMut(Option<T>) -> Fut + Send,
    Fut: Future<Output = Result<T>> + Send,
{
    async fn update(&mut self, current: Option<&Entry>) -> Result<Change> {
        let current = current.map(Entry::decode).transpose()?;
        let object = (self.update)(current).await?;
        Ok(Change::put(Encoded::of(&object)?))
    }
}
