//! The front door: every request passes here, from the first header to the answer.
//!
//! Order of the layers: audit id, panic guard, loopback guard, classification, authentication, limits, router. Each
//! relies only on what lies before it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use apiserver_registry::{Admission, ApiError, RequestContext, UserInfo};
use apiserver_storage_api::Forms;
use apiserver_storage_api::time::Clock;

use crate::http::body::Body;
use crate::http::documents::Documents;
use crate::http::health::{self, Check};
use crate::http::path::{self, BadPath, RequestInfo, ResourcePath, Verb};
use crate::http::query::{self, Query};
use crate::http::respond;
use crate::http::trace::Trace;
use crate::http::under_way::{UnderWay, held};
use crate::http::verbs::Call;
use crate::http::warnings;
use crate::kinds::catalog::Catalogs;
use crate::server::auth::{Identity, Tokens};
use crate::server::listener::{Handler, Peer};
use crate::server::shutdown::Signals;

/// The deadline of everything that is no watch (`apiserver-http/LIM-01`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests under way at once (`apiserver-http/LIM-05`).
const MAX_READING: usize = 400;
const MAX_MUTATING: usize = 200;

/// Answers requests. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) catalogs: Catalogs,
    pub(crate) documents: Documents,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admission: Arc<dyn Admission>,
    /// Whether the storage can be reached, the last known state.
    pub(crate) storage_health: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Whether everything that is needed to serve is there.
    pub(crate) started: Arc<std::sync::atomic::AtomicBool>,
    pub(crate) metrics: Box<dyn Fn() -> String + Send + Sync>,
    pub(crate) signals: Signals,
    /// What a server that stops waits for.
    pub(crate) under_way: Arc<UnderWay>,
    pub(crate) limits: Limits,
    /// Forms of entries that are made once for all clients.
    pub(crate) forms: Arc<Forms>,
}

/// Places for requests under way.
pub(crate) struct Limits {
    reading: Semaphore,
    mutating: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reading: Semaphore::new(MAX_READING),
            mutating: Semaphore::new(MAX_MUTATING),
        }
    }
}

impl Handler for Front {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let audit_id = match request.headers().get("audit-id") {
            Some(id) => id.clone(),
            None => HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("")),
        };
        let head = request.method() == Method::HEAD;
        let answered = AssertUnwindSafe(self.answer(request, peer, &audit_id))
            .catch_unwind()
            .await;
        let mut response = answered.unwrap_or_else(|_| {
            let text = "This request caused apiserver to panic. Look in the logs for details.\n";
            let mut response = respond::text(StatusCode::INTERNAL_SERVER_ERROR, text);
            // Who knows what state the connection is in (`apiserver-http/STAT-23`).
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        });
        let headers = response.headers_mut();
        headers.insert("audit-id", audit_id);
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        if head {
            *response.body_mut() = crate::http::body::empty();
        }
        response
    }
}

impl Front {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer, audit_id: &HeaderValue) -> Response<Body> {
        let (parts, body) = request.into_parts();
        // Without TLS only programs of this machine are served: a web page whose name was bound to 127.0.0.1 must
        // not get at the data, so the name in Host has to be a loopback one.
        if !peer.secure && !is_loopback_host(&parts) {
            let text = "plain HTTP answers to loopback names only (localhost, 127.0.0.1, [::1])\n";
            return respond::text(StatusCode::FORBIDDEN, text);
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = match path::classify(&parts.method, parts.uri.path(), &query) {
            Ok(info) => info,
            Err(BadPath(text)) => {
                return respond::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("Internal Server Error: {text}\n"),
                );
            }
        };
        let path = parts.uri.path();
        let user = match self.authenticate(&parts.headers, path) {
            Ok(user) => user,
            Err(error) => return respond::error(&error, &parts.headers, &query),
        };
        match info {
            RequestInfo::Path => self.plain_path(&parts.method, path, &parts.headers, &query),
            RequestInfo::Resource(info) => self.resource(info, query, parts.headers, user, body, audit_id).await,
        }
    }

    /// Who asks. Without a token file nobody is asked; health endpoints never ask.
    fn authenticate(&self, headers: &HeaderMap, path: &str) -> Result<Option<UserInfo>, ApiError> {
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            // deviates: apiserver-http/CHN-14: refused, there is nobody to say who may impersonate whom.
            // Ignoring them would show one user what another one may see.
            return Err(ApiError::forbidden("", "", "", "impersonation is not supported"));
        }
        let identity = match &self.0.tokens {
            Some(tokens) => tokens.identify(headers),
            // A token that nobody can check is wrong, not anonymous (`apiserver-http/AUTN-06`).
            None => match Tokens::default().identify(headers) {
                Identity::None => return Ok(None),
                other => other,
            },
        };
        match identity {
            Identity::Known(user) => Ok(Some(user)),
            Identity::None if is_health(path) => Ok(None),
            Identity::None | Identity::Invalid => Err(ApiError::unauthorized("Unauthorized")),
        }
    }

    async fn resource(
        &self,
        path: ResourcePath,
        query: Query,
        headers: HeaderMap,
        user: Option<UserInfo>,
        body: Incoming,
        audit_id: &HeaderValue,
    ) -> Response<Body> {
        let started = self.0.clock.monotonic();
        let verb = path.verb;
        let trace = Trace::start(&self.0.clock, started, &path);
        // Before it is looked whether requests are still taken: who stops the server sees this one, or it sees that.
        let (under_way, ending) = match verb {
            Verb::Watch => self.0.under_way.watch(),
            _ => (self.0.under_way.requests.token(), self.0.signals.draining.clone()),
        };
        let resource = path.resource.clone();
        let catalog = self.0.catalogs.current();
        let Some(served) = catalog.find(&path) else {
            return respond::error(&not_found(), &headers, &query);
        };
        let mut context = RequestContext::new(Arc::clone(&self.0.clock)).with_admission(Arc::clone(&self.0.admission));
        if !path.namespace.is_empty() && served.resource.info().is_namespaced() {
            context = context.with_namespace(path.namespace.clone());
        }
        if let Some(user) = user {
            context = context.with_user(user);
        }
        let subresource = (!path.subresource.is_empty()).then_some(path.subresource.as_str());
        let context = context.with_resource(&path.group, &path.version, &path.resource, subresource);
        let context = Arc::new(context);
        let call = Call {
            api_version: served.api_version.clone(),
            kind: served.kind.clone(),
            list_kind: served.list_kind.clone(),
            resource: Arc::clone(&served.resource),
            model: Arc::clone(&served.model),
            path,
            query: query.clone(),
            headers: headers.clone(),
            context: Arc::clone(&context),
            forms: Arc::clone(&self.0.forms),
            draining: ending,
        };
        let result = match served.routes(&call.path) {
            Ok(()) => {
                let run = self.limited(verb, &query, call.run(body));
                match &trace {
                    Some(trace) => trace.latency().scope(run).await,
                    None => run.await,
                }
            }
            Err(error) => Err(error),
        };
        let mut response = result.unwrap_or_else(|error| respond::error(&error, &headers, &query));
        for value in warnings::headers(context.take_warnings()) {
            response.headers_mut().append(header::WARNING, value);
        }
        let code = response.status().as_u16().to_string();
        let labels = [
            ("verb", verb.metric().to_owned()),
            ("resource", resource),
            ("code", code),
        ];
        metrics::counter!("apiserver_request_total", &labels).increment(1);
        if verb != Verb::Watch {
            let took = self.0.clock.monotonic().saturating_sub(started);
            let [verb, resource, _] = labels;
            metrics::histogram!("apiserver_request_duration_seconds", &[verb, resource]).record(took.as_secs_f64());
        }
        let trace = trace.and_then(|trace| trace.handled(audit_id, response.status()));
        // Other answers are there in one piece, and go out before their connection closes.
        let is_stream = matches!(verb, Verb::List | Verb::Watch);
        if is_stream || trace.is_some() {
            response = held(response, (under_way, trace));
        }
        response
    }

    /// Runs a request within the limits on number and time. Watches have neither.
    async fn limited(
        &self,
        verb: Verb,
        query: &Query,
        run: impl Future<Output = Result<Response<Body>, ApiError>> + Send,
    ) -> Result<Response<Body>, ApiError> {
        if self.0.signals.draining.is_cancelled() {
            return Err(ApiError::service_unavailable("the server is shutting down").with_retry_after(1));
        }
        if verb == Verb::Watch {
            return run.await;
        }
        let limit = if verb.is_mutating() {
            &self.0.limits.mutating
        } else {
            &self.0.limits.reading
        };
        let Ok(_place) = limit.try_acquire() else {
            // deviates: apiserver-http/LIM-05: a Status instead of plain text, so that every client can read it.
            return Err(ApiError::too_many_requests(
                "Too many requests, please try again later.",
                1,
            ));
        };
        let deadline = match query.text("timeout") {
            "" => REQUEST_TIMEOUT,
            text => match query::go_duration(text) {
                Some(asked) if asked.is_zero() => REQUEST_TIMEOUT,
                Some(asked) => asked.min(REQUEST_TIMEOUT),
                None => {
                    return Err(ApiError::bad_request(format!(
                        "invalid timeout specified in the request URL - {text}: time: invalid duration {text:?}"
                    )));
                }
            },
        };
        tokio::select! {
            result = run => result,
            () = self.0.clock.sleep(deadline) => {
                Err(ApiError::timeout("request did not complete within the allotted timeout", 0))
            }
        }
    }

    /// Everything that is no resource.
    fn plain_path(&self, method: &Method, path: &str, headers: &HeaderMap, query: &Query) -> Response<Body> {
        let (endpoint, rest) = match path.trim_matches('/').split_once('/') {
            Some((endpoint, rest)) => (endpoint, rest.trim_matches('/')),
            None => (path.trim_matches('/'), ""),
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return respond::error(&method_not_allowed(), headers, query);
        }
        let catalog = self.0.catalogs.current();
        match endpoint {
            "livez" | "healthz" => health::answer(endpoint, rest, query, vec![Check::new("ping", Ok(()))]),
            "readyz" => health::answer(endpoint, rest, query, self.readiness()),
            "metrics" if rest.is_empty() => {
                let body = crate::http::body::full((self.0.metrics)());
                respond::plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
            }
            _ => match self.0.documents.answer(path, headers, query, &catalog) {
                Some(response) => response,
                None => respond::error(&not_found(), headers, query),
            },
        }
    }

    fn readiness(&self) -> Vec<Check> {
        let started = self.0.started.load(std::sync::atomic::Ordering::Acquire);
        let catalog = self.0.catalogs.current();
        vec![
            Check::new("ping", Ok(())),
            Check::new("storage", (self.0.storage_health)()),
            Check::new("storage-readiness", catalog.ready()),
            Check::new(
                "poststarthook/bootstrap",
                if started { Ok(()) } else { Err("not finished".into()) },
            ),
            Check::new(
                "shutdown",
                if self.0.signals.stopping.is_cancelled() {
                    Err("process is shutting down".into())
                } else {
                    Ok(())
                },
            ),
        ]
    }
}

fn is_health(path: &str) -> bool {
    ["/livez", "/readyz", "/healthz"]
        .iter()
        .any(|known| path == *known || path.starts_with(&format!("{known}/")))
}

pub(crate) fn not_found() -> ApiError {
    ApiError::generic(404, "NotFound", "the server could not find the requested resource")
}

pub(crate) fn method_not_allowed() -> ApiError {
    ApiError::generic(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

/// Whether the name that the client used for this server is a loopback one.
fn is_loopback_host(parts: &http::request::Parts) -> bool {
    let header = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = header.or_else(|| parts.uri.authority().map(|authority| authority.as_str())) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered_without_tls() {
        for (host, want) in [
            ("localhost", true),
            ("localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("127.1.2.3", true),
            ("[::1]:8080", true),
            ("LOCALHOST:1", true),
            ("evil.example.com", false),
            ("evil.example.com:8080", false),
            ("10.0.0.1", false),
            ("localhost.evil.com", false),
            ("", false),
        ] {
            let request = Request::builder().uri("/").header(header::HOST, host).body(()).unwrap();
            assert_eq!(is_loopback_host(&request.into_parts().0), want, "{host}");
        }
    }
}
