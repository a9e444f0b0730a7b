//! The verbs: one request in, one call on a resource, one answer out.

mod delete;
mod json_patch;
mod list;
mod patch;
mod read;
mod watch;
mod write;

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;

use apiserver_registry::{ApiError, RequestContext, Resource};
use apiserver_storage_api::Forms;
use tokio_util::sync::CancellationToken;

use crate::http::body::Body;
use crate::http::negotiate::{self, NotAcceptable, Representation};
use crate::http::path::{ResourcePath, Verb};
use crate::http::query::Query;
use crate::http::respond::Asked;
use crate::kinds::model::Model;

/// One request for a resource, with everything that was found out about it.
pub(crate) struct Call {
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) context: Arc<RequestContext>,
    pub(crate) resource: Arc<dyn Resource>,
    pub(crate) model: Arc<dyn Model>,
    /// The kind of the objects, and of a list of them.
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    /// `v1`, `apps/v1`.
    pub(crate) api_version: String,
    /// Forms of entries that are made once for all clients.
    pub(crate) forms: Arc<Forms>,
    /// Ends the watch, when the server stops.
    pub(crate) draining: CancellationToken,
}

impl Call {
    /// Runs the verb.
    pub(crate) async fn run(self, body: Incoming) -> Result<Response<Body>, ApiError> {
        match self.path.verb {
            Verb::Get => read::get(&self).await,
            Verb::List => list::list(self).await,
            Verb::Watch => watch::watch(self).await,
            Verb::Create => write::create(&self, body).await,
            Verb::Update => write::update(&self, body).await,
            Verb::Patch => patch::patch(&self, body).await,
            Verb::Delete => delete::delete(&self, body).await,
            Verb::DeleteCollection => delete::delete_collection(&self, body).await,
            Verb::Other => Err(self.not_supported()),
        }
    }

    /// The name in messages: `pods`, `deployments.apps`.
    pub(crate) fn not_supported(&self) -> ApiError {
        let action = match self.path.verb {
            Verb::Other => "",
            verb => verb.as_str(),
        };
        ApiError::method_not_supported(&self.path.group, &self.path.resource, action)
    }

    pub(crate) fn negotiate(&self, watch: bool) -> Result<Representation, ApiError> {
        negotiate::negotiate(&self.headers, &self.query, self.model.offer(), watch)
            .map_err(|NotAcceptable(message)| ApiError::not_acceptable(message))
    }

    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            headers: &self.headers,
            query: &self.query,
            now: self.context.clock().now(),
        }
    }

    /// The namespace in the path, where the kind has one.
    pub(crate) fn expected_namespace(&self) -> &str {
        if self.resource.info().is_namespaced() {
            &self.path.namespace
        } else {
            ""
        }
    }
}

/// 201 where an object came into being.
pub(crate) fn code(created: bool) -> StatusCode {
    if created { StatusCode::CREATED } else { StatusCode::OK }
}
