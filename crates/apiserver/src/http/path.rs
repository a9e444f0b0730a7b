//! What a request is about, from its method and path alone: computed once, before anything else looks at it.
//!
//! Upstream: kubernetes/apiserver pkg/endpoints/request (requestinfo.go).

use std::fmt;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::http::query::Query;

/// What the client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// A method that no resource knows.
    Other,
}

impl Verb {
    /// As in messages, authorization and discovery.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other => "",
        }
    }

    /// As in metrics (`apiserver-http/MTRX-05`).
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Watch => "WATCH",
            Self::Create => "POST",
            Self::Update => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::DeleteCollection => "DELETECOLLECTION",
            Self::Other => "other",
        }
    }

    /// Whether the request may change something.
    pub(crate) fn is_mutating(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Update | Self::Patch | Self::Delete | Self::DeleteCollection
        )
    }
}

/// A request for a resource, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) verb: Verb,
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// The namespace in the path; empty at cluster level.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    /// The name in the path; empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// Segments behind the subresource.
    pub(crate) rest: usize,
    /// The method was HEAD.
    pub(crate) head: bool,
}

/// A request, classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestInfo {
    /// Below `/api/v1/` or `/apis/<group>/<version>/`.
    Resource(ResourcePath),
    /// Everything else: discovery, health, metrics.
    Path,
}

/// The path cannot be decoded, or is one of the prefixes that need something behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPath(pub(crate) String);

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Classifies a request (`apiserver-http/RINF-01` to `RINF-11`).
pub(crate) fn classify(method: &Method, path: &str, query: &Query) -> Result<RequestInfo, BadPath> {
    let mut segments = Vec::new();
    for segment in path.trim_matches('/').split('/') {
        let decoded = percent_decode_str(segment).decode_utf8();
        segments.push(
            decoded
                .map_err(|_| BadPath(format!("the path {path:?} is not UTF-8")))?
                .into_owned(),
        );
    }
    let mut segments = segments.into_iter();
    let (group, version) = match (segments.next().as_deref(), segments.len()) {
        (Some("api"), 2..) => (String::new(), segments.next()),
        (Some("apis"), 3..) => (segments.next().unwrap_or_default(), segments.next()),
        _ => return Ok(RequestInfo::Path),
    };
    let version = version.unwrap_or_default();
    let mut rest: Vec<String> = segments.collect();
    let mut verb = match *method {
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => Verb::Other,
    };
    if rest.first().is_some_and(|first| first == "watch") {
        rest.remove(0);
        if rest.is_empty() {
            return Err(BadPath(format!(
                "unable to determine kind and namespace from url, {path}"
            )));
        }
        if verb == Verb::Get {
            verb = Verb::Watch;
        }
    }
    let mut namespace = String::new();
    if rest.first().is_some_and(|first| first == "namespaces")
        && let Some(name) = rest.get(1)
    {
        namespace.clone_from(name);
        // `status` and `finalize` belong to the namespace itself; anything else lies inside of it.
        if rest
            .get(2)
            .is_some_and(|sub| !matches!(sub.as_str(), "status" | "finalize"))
        {
            rest.drain(..2);
        }
    }
    let mut parts = rest.into_iter();
    let resource = parts.next().unwrap_or_default();
    let name = parts.next().unwrap_or_default();
    let subresource = parts.next().unwrap_or_default();
    let rest = parts.len();
    verb = match verb {
        Verb::Get if name.is_empty() && query.flag("watch") => Verb::Watch,
        Verb::Get if name.is_empty() => Verb::List,
        Verb::Delete if name.is_empty() => Verb::DeleteCollection,
        other => other,
    };
    Ok(RequestInfo::Resource(ResourcePath {
        verb,
        group,
        version,
        namespace,
        resource,
        name,
        subresource,
        rest,
        head: *method == Method::HEAD,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/RINF-01, apiserver-http/RINF-02, apiserver-http/RINF-03, apiserver-http/RINF-04, apiserver-http/RINF-05, apiserver-http/RINF-07, apiserver-http/RINF-08, apiserver-http/RINF-09, apiserver-http/RINF-11
    #[test]
    fn requests_are_classified_by_method_and_path() {
        let check = |method: &str, path: &str, want: Option<[&str; 7]>| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let got = classify(&method.parse().unwrap(), path, &Query::parse(query));
            let got = got.unwrap_or_else(|error| panic!("{path}: {error}"));
            match (got, want) {
                (RequestInfo::Path, None) => {}
                (RequestInfo::Resource(info), Some(want)) => {
                    let got = [
                        info.verb.as_str(),
                        &info.group,
                        &info.version,
                        &info.namespace,
                        &info.resource,
                        &info.name,
                        &info.subresource,
                    ];
                    assert_eq!(got, want, "{method} {path}");
                }
                (got, want) => panic!("{method} {path}: {got:?}, wanted {want:?}"),
            }
        };
        check("GET", "/", None);
        check("GET", "/api", None);
        check("GET", "/api/v1/", None);
        check("GET", "/apis/apps/v1", None);
        check("GET", "/api/v1/pods", Some(["list", "", "v1", "", "pods", "", ""]));
        check(
            "GET",
            "/api/v1/pods?watch",
            Some(["watch", "", "v1", "", "pods", "", ""]),
        );
        check(
            "GET",
            "/api/v1/pods?watch=False",
            Some(["list", "", "v1", "", "pods", "", ""]),
        );
        check(
            "HEAD",
            "/api/v1/namespaces/ns/pods/a",
            Some(["get", "", "v1", "ns", "pods", "a", ""]),
        );
        check(
            "POST",
            "/api/v1/namespaces/ns/pods",
            Some(["create", "", "v1", "ns", "pods", "", ""]),
        );
        check(
            "PUT",
            "/apis/apps/v1/namespaces/ns/deployments/a/status",
            Some(["update", "apps", "v1", "ns", "deployments", "a", "status"]),
        );
        check(
            "DELETE",
            "/api/v1/namespaces/ns/pods",
            Some(["deletecollection", "", "v1", "ns", "pods", "", ""]),
        );
        check(
            "GET",
            "/api/v1/namespaces/ns",
            Some(["get", "", "v1", "ns", "namespaces", "ns", ""]),
        );
        check(
            "PUT",
            "/api/v1/namespaces/ns/finalize",
            Some(["update", "", "v1", "ns", "namespaces", "ns", "finalize"]),
        );
        check(
            "GET",
            "/api/v1/watch/namespaces/ns/pods",
            Some(["watch", "", "v1", "ns", "pods", "", ""]),
        );
        check("OPTIONS", "/api/v1/pods", Some(["", "", "v1", "", "pods", "", ""]));
        check(
            "GET",
            "/api/v1/namespaces/a%3Ab/pods",
            Some(["list", "", "v1", "a:b", "pods", "", ""]),
        );
        assert!(classify(&Method::GET, "/api/v1/watch/", &Query::parse("")).is_err());
    }
}
