//! What the registry knows of the request that it works for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use apiserver_storage_api::time::{Clock, Time};

use crate::admission::Admission;

/// Most warnings of one request; the rest is dropped, because headers are bounded.
const MAX_WARNINGS: usize = 64;
/// Most bytes of one warning.
const MAX_WARNING_BYTES: usize = 256;

/// One request: where it goes, who asks, and what is to be said beside the answer.
///
/// `namespace` is `None` for cluster-scoped requests and for those across all namespaces.
pub struct RequestContext {
    /// The namespace in the URL.
    pub namespace: Option<String>,
    /// Who asks; none inside the server itself.
    pub user: Option<UserInfo>,
    /// The API group as requested; empty for the core group.
    pub group: String,
    /// The API version as requested.
    pub version: String,
    /// The resource as requested; empty where a store is used directly.
    pub resource: String,
    /// The subresource as requested.
    pub subresource: Option<String>,
    clock: Arc<dyn Clock>,
    admission: Option<Arc<dyn Admission>>,
    warnings: Mutex<Vec<String>>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// The uid, if the authenticator knows one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More, by the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

impl RequestContext {
    /// A request without a namespace, told the time by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            namespace: None,
            user: None,
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: None,
            clock,
            admission: None,
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// The request goes to a namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Who asks.
    #[must_use]
    pub fn with_user(mut self, user: UserInfo) -> Self {
        self.user = Some(user);
        self
    }

    /// What was requested, as the URL says it.
    #[must_use]
    pub fn with_resource(mut self, group: &str, version: &str, resource: &str, subresource: Option<&str>) -> Self {
        self.group = group.to_owned();
        self.version = version.to_owned();
        self.resource = resource.to_owned();
        self.subresource = subresource.map(str::to_owned);
        self
    }

    /// Asks this admission before anything is written.
    #[must_use]
    pub fn with_admission(mut self, admission: Arc<dyn Admission>) -> Self {
        self.admission = Some(admission);
        self
    }

    /// The current time, in whole seconds.
    pub fn now(&self) -> Time {
        Time::from_system(self.clock.now())
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Who is asked before anything is written.
    pub fn admission(&self) -> Option<&Arc<dyn Admission>> {
        self.admission.as_ref()
    }

    /// Says something beside the answer (HTTP: a `Warning` header). Repeated texts are said once; too many are
    /// dropped, too long ones cut.
    pub fn warn(&self, text: impl Into<String>) {
        let mut text: String = text.into();
        let mut end = text.len().min(MAX_WARNING_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        // A warning is a whole text; a panic elsewhere cannot have left half of one.
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Takes the warnings out, in the order in which they were given.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("namespace", &self.namespace)
            .field("group", &self.group)
            .field("version", &self.version)
            .field("resource", &self.resource)
            .field("subresource", &self.subresource)
            .finish_non_exhaustive()
    }
}
