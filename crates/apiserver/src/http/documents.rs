//! Documents about the server itself: discovery, OpenAPI, version, index. Made on demand and kept until kinds change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use apiserver_registry::{ApiError, ResourceMap};
use apiserver_resources::discovery::{self, AggregatedVersion};

use crate::http::body::{self, Body};
use crate::http::negotiate::{self, Format, NotAcceptable, Offer};
use crate::http::query::Query;
use crate::http::respond;
use crate::kinds::catalog::Catalog;

/// The documents of the current catalog.
#[derive(Debug)]
pub(crate) struct Documents {
    address: String,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    /// The map that the documents were made of; another one makes them void.
    of: Option<Arc<ResourceMap>>,
    documents: BTreeMap<String, Document>,
}

/// A document with its tag.
#[derive(Debug, Clone)]
struct Document {
    bytes: Bytes,
    /// Upper-case hexadecimal SHA-512.
    tag: String,
}

impl Document {
    fn new(bytes: Vec<u8>) -> Self {
        let tag = Sha512::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        Self {
            bytes: bytes.into(),
            tag,
        }
    }
}

impl Documents {
    /// Documents of a server that is reached at this address.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            made: Mutex::default(),
        }
    }

    /// The answer for a path; `None` where there is no such document.
    pub(crate) fn answer(
        &self,
        path: &str,
        headers: &HeaderMap,
        query: &Query,
        catalog: &Catalog,
    ) -> Option<Response<Body>> {
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            [""] | ["index.html"] => Some(self.index(catalog, headers, query)),
            ["version"] => Some(version()),
            ["api"] | ["apis"] => {
                let core = segments == ["api"];
                match aggregated_form(headers) {
                    Some(form) => Some(self.aggregated(core, form, catalog, headers)),
                    None => self.discovery(path, catalog, headers, query),
                }
            }
            ["api", _] | ["apis", _] | ["apis", _, _] => self.discovery(path, catalog, headers, query),
            ["openapi", "v3"] => Some(self.openapi_index(catalog, headers)),
            ["openapi", "v3", rest @ ..] => self.openapi(&rest.join("/"), catalog, headers, query),
            _ => None,
        }
    }

    /// The document of this name, made unless it is there.
    fn document(&self, name: &str, catalog: &Catalog, make: impl FnOnce() -> Option<Value>) -> Option<Document> {
        {
            let mut made = self.made.lock();
            match &made.of {
                Some(of) if Arc::ptr_eq(of, catalog.map()) => {
                    if let Some(document) = made.documents.get(name) {
                        return Some(document.clone());
                    }
                }
                _ => {
                    *made = Made {
                        of: Some(Arc::clone(catalog.map())),
                        documents: BTreeMap::new(),
                    }
                }
            }
        }
        // Made without the lock: an OpenAPI document takes a while, and two of the same do no harm.
        let document = Document::new(serde_json::to_vec(&make()?).ok()?);
        let mut made = self.made.lock();
        if made.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, catalog.map())) {
            made.documents.insert(name.to_owned(), document.clone());
        }
        Some(document)
    }

    fn discovery(&self, path: &str, catalog: &Catalog, headers: &HeaderMap, query: &Query) -> Option<Response<Body>> {
        let path = path.trim_matches('/');
        let document = self.document(path, catalog, || {
            let resources = catalog.discovered();
            let segments: Vec<_> = path.split('/').collect();
            match segments.as_slice() {
                ["api"] => Some(discovery::api_versions(&resources, &self.address)),
                ["apis"] => Some(discovery::api_group_list(&resources)),
                ["apis", group] => discovery::api_group(&resources, group),
                ["api", version] => discovery::api_resource_list(&resources, "", version),
                ["apis", group, version] => discovery::api_resource_list(&resources, group, version),
                _ => None,
            }
        })?;
        Some(match negotiate::negotiate(headers, query, &Offer::PLAIN, false) {
            Ok(representation) => respond::document(StatusCode::OK, &document.bytes, representation, headers),
            Err(NotAcceptable(text)) => respond::error(&ApiError::not_acceptable(text), headers, query),
        })
    }

    fn aggregated(
        &self,
        core: bool,
        form: AggregatedVersion,
        catalog: &Catalog,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let name = format!("aggregated/{core}/{}", form.name());
        let document = self.document(&name, catalog, || {
            Some(discovery::aggregated(&catalog.discovered(), core, form))
        });
        let Some(document) = document else {
            return respond::text(StatusCode::INTERNAL_SERVER_ERROR, "no document\n");
        };
        let mut response = tagged(&document, headers, Format::Json);
        let known = response.status() == StatusCode::NOT_MODIFIED;
        let response_headers = response.headers_mut();
        if let (Ok(content_type), false) = (HeaderValue::from_str(&form.content_type()), known) {
            response_headers.insert(header::CONTENT_TYPE, content_type);
        }
        response_headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        response_headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }

    /// `/openapi/v3`: where the document of each group version is (`apiserver-http/OAPI-01`).
    fn openapi_index(&self, catalog: &Catalog, headers: &HeaderMap) -> Response<Body> {
        let mut paths = serde_json::Map::new();
        for path in group_versions(catalog) {
            if let Some(document) = self.openapi_document(&path, catalog) {
                let url = format!("/openapi/v3/{path}?hash={}", document.tag);
                paths.insert(path, json!({ "serverRelativeURL": url }));
            }
        }
        let document = Document::new(serde_json::to_vec(&json!({ "paths": paths })).unwrap_or_default());
        let mut response = tagged(&document, headers, Format::Json);
        // As upstream serves it; clients parse the body whatever the header says.
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    /// `/openapi/v3/apis/apps/v1` (`apiserver-http/OAPI-02`, `OAPI-07`, `OAPI-08`).
    fn openapi(&self, path: &str, catalog: &Catalog, headers: &HeaderMap, query: &Query) -> Option<Response<Body>> {
        if !group_versions(catalog).iter().any(|known| known == path) {
            return None;
        }
        let document = self.openapi_document(path, catalog)?;
        if let Some(hash) = query.get("hash").filter(|hash| !hash.is_empty()) {
            if hash != document.tag {
                let json = Format::Json.media_type();
                let mut response = respond::plain(StatusCode::MOVED_PERMANENTLY, json, body::empty());
                let url = format!("/openapi/v3/{path}?hash={}", document.tag);
                response
                    .headers_mut()
                    .insert(header::LOCATION, HeaderValue::from_str(&url).ok()?);
                return Some(response);
            }
            let mut response = tagged(&document, headers, Format::Json);
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            response
                .headers_mut()
                .insert(header::VARY, HeaderValue::from_static("Accept"));
            return Some(response);
        }
        Some(tagged(&document, headers, Format::Json))
    }

    fn openapi_document(&self, path: &str, catalog: &Catalog) -> Option<Document> {
        let name = format!("openapi/{path}");
        self.document(&name, catalog, || crate::kinds::install::openapi_v3(catalog, path))
    }

    /// All paths that lead somewhere (`apiserver-http/HLTH-14`).
    fn index(&self, catalog: &Catalog, headers: &HeaderMap, query: &Query) -> Response<Body> {
        let mut paths: Vec<String> = [
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned)
        .to_vec();
        for path in group_versions(catalog) {
            if let Some((group, _)) = path.strip_prefix("apis/").and_then(|rest| rest.split_once('/')) {
                paths.push(format!("/apis/{group}"));
            }
            paths.push(format!("/openapi/v3/{path}"));
            paths.push(format!("/{path}"));
        }
        paths.sort();
        paths.dedup();
        let json = respond::to_bytes(&json!({ "paths": paths }));
        let representation =
            negotiate::negotiate(headers, query, &Offer::PLAIN, false).unwrap_or(negotiate::Representation {
                pretty: true,
                ..negotiate::Representation::JSON
            });
        respond::document(StatusCode::OK, &json, representation, headers)
    }
}

/// `api/v1`, `apis/apps/v1`: every group version that is served.
fn group_versions(catalog: &Catalog) -> Vec<String> {
    let mut all: Vec<String> = catalog
        .map()
        .iter()
        .map(|served| match served.group.as_str() {
            "" => format!("api/{}", served.version),
            group => format!("apis/{group}/{}", served.version),
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Whether a client asks for the aggregated form: any clause counts, whatever stands before it
/// (`apiserver-http/AGD-01`, `AGD-03`).
fn aggregated_form(headers: &HeaderMap) -> Option<AggregatedVersion> {
    let accept = negotiate::accept(headers);
    negotiate::clauses(&accept).iter().find_map(|clause| {
        let asked = clause.media_type == "application/json"
            && clause.parameter("g") == "apidiscovery.k8s.io"
            && clause.parameter("as") == "APIGroupDiscoveryList";
        match clause.parameter("v") {
            "v2" if asked => Some(AggregatedVersion::V2),
            "v2beta1" if asked => Some(AggregatedVersion::V2Beta1),
            _ => None,
        }
    })
}

/// A document with its tag; 304 for a client that has it.
fn tagged(document: &Document, headers: &HeaderMap, format: Format) -> Response<Body> {
    let tag = format!("\"{}\"", document.tag);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known == tag);
    let mut response = if known {
        respond::plain_status(StatusCode::NOT_MODIFIED, body::empty())
    } else {
        respond::sized(StatusCode::OK, format, document.bytes.clone(), headers)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The version of Kubernetes whose behaviour is served, and of this program (`apiserver-http/HLTH-15`).
fn version() -> Response<Body> {
    let version = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": concat!("v1.36.3+apiserver.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    let bytes = serde_json::to_vec_pretty(&version).unwrap_or_default();
    respond::plain(StatusCode::OK, Format::Json.media_type(), body::full(bytes))
}
