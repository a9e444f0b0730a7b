//! Which representation a client gets: the Accept header against what a resource can be shown as.
//!
//! Upstream: kubernetes/apiserver pkg/endpoints/handlers/negotiation (negotiate.go).

use http::HeaderMap;
use http::header;

use crate::http::query::Query;

/// A way to write an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What is shown instead of the plain object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// The object or list itself.
    Plain,
    /// `Table` of this version of `meta.k8s.io`.
    Table(&'static str),
    /// `PartialObjectMetadata` of this version of `meta.k8s.io`.
    Metadata(&'static str),
    /// `PartialObjectMetadataList` of this version of `meta.k8s.io`.
    MetadataList(&'static str),
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Representation {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    /// Indented, for people.
    pub(crate) pretty: bool,
}

impl Representation {
    /// Compact JSON of the object itself.
    pub(crate) const JSON: Self = Self {
        format: Format::Json,
        shape: Shape::Plain,
        pretty: false,
    };
}

/// What a resource can be shown as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// Formats of the plain object, in order of preference.
    pub(crate) formats: &'static [Format],
    /// Whether Table and metadata forms are there.
    pub(crate) shapes: bool,
}

impl Offer {
    /// Kinds with a protobuf form.
    pub(crate) const BUILTIN: Self = Self {
        formats: &[Format::Json, Format::Yaml, Format::Protobuf],
        shapes: true,
    };
    /// Kinds without one.
    pub(crate) const CUSTOM: Self = Self {
        formats: &[Format::Json, Format::Yaml],
        shapes: true,
    };
    /// Errors and documents.
    pub(crate) const PLAIN: Self = Self {
        formats: &[Format::Json, Format::Yaml],
        shapes: false,
    };
}

/// One part of an Accept header.
#[derive(Debug, PartialEq)]
pub(crate) struct Clause<'a> {
    pub(crate) media_type: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }
}

/// The clauses of an Accept header, best first.
pub(crate) fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<_> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
            let parameters: Vec<_> = parts
                .filter_map(|parameter| parameter.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                .collect();
            let quality = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .and_then(|(_, q)| q.parse().ok());
            Some(Clause {
                media_type,
                parameters,
                quality: quality.unwrap_or(1.0),
            })
        })
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// All values of the Accept header in one text.
pub(crate) fn accept(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    values.join(",")
}

/// Nothing that the client accepts can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotAcceptable(pub(crate) String);

/// Chooses the representation of an answer (`apiserver-http/NEG-01` to `NEG-11`).
pub(crate) fn negotiate(
    headers: &HeaderMap,
    query: &Query,
    offer: &Offer,
    watch: bool,
) -> Result<Representation, NotAcceptable> {
    let accept = accept(headers);
    let choice = choose(&accept, offer, watch);
    let Some((format, shape, asked_pretty)) = choice else {
        let suffix = if watch { ";stream=watch" } else { "" };
        let list: Vec<_> = offer
            .formats
            .iter()
            .map(|format| format!("{}{suffix}", format.media_type()))
            .collect();
        let list = list.join(", ");
        return Err(NotAcceptable(format!(
            "only the following media types are accepted: {list}"
        )));
    };
    let pretty = match query.get("pretty") {
        Some(_) => query.flag("pretty"),
        None => asked_pretty || is_browser(headers),
    };
    Ok(Representation {
        format,
        shape,
        pretty: pretty && !watch && format == Format::Json,
    })
}

fn choose(accept: &str, offer: &Offer, watch: bool) -> Option<(Format, Shape, bool)> {
    let clauses = clauses(accept);
    if clauses.is_empty() {
        return offer.formats.first().map(|format| (*format, Shape::Plain, false));
    }
    clauses.iter().find_map(|clause| {
        let shape = shape(clause, offer)?;
        // Metadata forms can be made of every kind, in every format.
        let formats = match shape {
            Shape::Plain => offer.formats,
            Shape::Table(_) => &[Format::Json, Format::Yaml],
            Shape::Metadata(_) | Shape::MetadataList(_) => Offer::BUILTIN.formats,
        };
        let stream = clause.parameter("stream");
        if !(stream.is_empty() || (watch && stream == "watch")) {
            return None;
        }
        let format = formats.iter().find(|format| {
            let own = format.media_type();
            match clause.media_type {
                "*/*" | "*" | "application/*" => true,
                asked => asked.eq_ignore_ascii_case(own),
            }
        })?;
        Some((*format, shape, matches!(clause.parameter("pretty"), "1" | "true")))
    })
}

fn shape(clause: &Clause<'_>, offer: &Offer) -> Option<Shape> {
    let (kind, group, version) = (clause.parameter("as"), clause.parameter("g"), clause.parameter("v"));
    if kind.is_empty() {
        return Some(Shape::Plain);
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    match kind {
        _ if !offer.shapes || group != "meta.k8s.io" => None,
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" => Some(Shape::Metadata(version)),
        "PartialObjectMetadataList" => Some(Shape::MetadataList(version)),
        _ => None,
    }
}

/// People with a terminal or a browser get indented JSON (`apiserver-http/ENC-02`).
fn is_browser(headers: &HeaderMap) -> bool {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|known| agent.starts_with(known))
}

/// Whether the client takes gzip (`apiserver-http/ENC-06`, with `q` understood).
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            clauses(value)
                .iter()
                .any(|clause| clause.media_type == "gzip" && clause.quality > 0.0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, offer: &Offer, want: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let got = negotiate(&headers, &Query::default(), offer, false)
            .ok()
            .map(|got| (got.format, got.shape));
        assert_eq!(got, want, "{accept}");
    }

    // covers: apiserver-http/NEG-01, apiserver-http/NEG-02, apiserver-http/NEG-03, apiserver-http/NEG-04, apiserver-http/NEG-05, apiserver-http/NEG-06, apiserver-http/NEG-10, apiserver-http/NEG-11
    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        check("", &Offer::BUILTIN, Some((Format::Json, Shape::Plain)));
        check("*/*", &Offer::BUILTIN, Some((Format::Json, Shape::Plain)));
        check(
            "application/yaml;q=0.5,application/json;q=0.9",
            &Offer::BUILTIN,
            Some((Format::Json, Shape::Plain)),
        );
        check("application/yaml", &Offer::CUSTOM, Some((Format::Yaml, Shape::Plain)));
        check("application/vnd.kubernetes.protobuf", &Offer::CUSTOM, None);
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            &Offer::CUSTOM,
            Some((Format::Json, Shape::Plain)),
        );
        check(table, &Offer::CUSTOM, Some((Format::Json, Shape::Table("v1"))));
        check(
            &format!("{table},application/json"),
            &Offer::PLAIN,
            Some((Format::Json, Shape::Plain)),
        );
        check(
            "application/json;as=Table;v=v1alpha1;g=meta.k8s.io",
            &Offer::BUILTIN,
            None,
        );
        check("application", &Offer::BUILTIN, None);
        check("text/plain", &Offer::BUILTIN, None);
        check(
            "application/json;charset=utf-8",
            &Offer::BUILTIN,
            Some((Format::Json, Shape::Plain)),
        );
    }

    // covers: apiserver-http/ENC-06
    #[test]
    fn gzip_is_taken_where_it_is_accepted() {
        for (value, want) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("gzip;q=0", false),
            ("br", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), want, "{value}");
        }
    }
}
