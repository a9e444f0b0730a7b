//! Writes; answered with 405 until they are in place.

use apiserver_storage_api::{Collected, ListOptions, Object};
use serde_json::Value;

use super::Store;
use crate::context::RequestContext;
use crate::error::Result;
use crate::resource::{CreateOptions, DeleteOptions, Deleted, ObjectUpdate, UpdateOptions, Written, unsupported};

impl<T: Object> Store<T> {
    pub(super) async fn create_object(&self, _: &RequestContext, _: Value, _: CreateOptions) -> Result<Written> {
        Err(unsupported(self.info(), "create"))
    }

    pub(super) async fn update_object(
        &self,
        _: &RequestContext,
        _: &str,
        _: &mut dyn ObjectUpdate,
        _: UpdateOptions,
    ) -> Result<Written> {
        Err(unsupported(self.info(), "update"))
    }

    pub(super) async fn delete_object(&self, _: &RequestContext, _: &str, _: DeleteOptions) -> Result<Deleted> {
        Err(unsupported(self.info(), "delete"))
    }

    pub(super) async fn delete_objects(
        &self,
        _: &RequestContext,
        _: DeleteOptions,
        _: ListOptions,
    ) -> Result<Collected> {
        Err(unsupported(self.info(), "deletecollection"))
    }
}
