//! `/livez`, `/readyz`, `/healthz`: the checks by name, one by one or all together.
//!
//! Upstream: kubernetes/apiserver pkg/server/healthz (healthz.go).

use std::fmt::Write as _;

use http::{Response, StatusCode};

use crate::http::body::Body;
use crate::http::query::Query;
use crate::http::respond;

/// One named check and what it says at the moment. Reasons go to the log, not to the client.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) result: Result<(), String>,
}

impl Check {
    pub(crate) fn new(name: &'static str, result: Result<(), String>) -> Self {
        Self { name, result }
    }
}

/// Answers a health endpoint (`apiserver-http/HLTH-01` to `HLTH-05`). `rest` is what follows its name in the path.
pub(crate) fn answer(endpoint: &str, rest: &str, query: &Query, checks: Vec<Check>) -> Response<Body> {
    if !rest.is_empty() {
        return match checks.into_iter().find(|check| check.name == rest) {
            None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            Some(Check { result: Ok(()), .. }) => respond::text(StatusCode::OK, "ok"),
            Some(Check {
                result: Err(reason), ..
            }) => respond::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {reason}\n"),
            ),
        };
    }
    let excluded = query.all("exclude");
    let (mut lines, mut failed) = (String::new(), false);
    for Check { name, result } in &checks {
        // Writing into a text does not fail.
        let _ = match result {
            _ if excluded.contains(name) => writeln!(lines, "[+]{name} excluded: ok"),
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(reason) => {
                failed = true;
                tracing::info!(check = name, %reason, endpoint, "health check failed");
                writeln!(lines, "[-]{name} failed: reason withheld")
            }
        };
    }
    let unknown: Vec<_> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|check| check.name == **name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        let _ = writeln!(
            lines,
            "warn: some health checks cannot be excluded: no matches for {}",
            unknown.join(",")
        );
    }
    if failed {
        return respond::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{endpoint} check failed\n"),
        );
    }
    if query.has("verbose") {
        return respond::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"));
    }
    respond::text(StatusCode::OK, "ok")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    // covers: apiserver-http/HLTH-01, apiserver-http/HLTH-02, apiserver-http/HLTH-03, apiserver-http/HLTH-04, apiserver-http/HLTH-05
    #[tokio::test]
    async fn checks_are_shown_one_by_one_and_reasons_withheld() {
        for (rest, query, fine, code, want) in [
            ("", "", true, 200, "ok"),
            (
                "",
                "verbose",
                true,
                200,
                "[+]ping ok\n[+]storage ok\nreadyz check passed\n",
            ),
            (
                "",
                "",
                false,
                500,
                "[+]ping ok\n[-]storage failed: reason withheld\nreadyz check failed\n",
            ),
            ("", "exclude=storage", false, 200, "ok"),
            (
                "",
                "exclude=x&verbose",
                true,
                200,
                "[+]ping ok\n[+]storage ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nreadyz check passed\n",
            ),
            ("storage", "", false, 500, "internal server error: gone\n"),
            ("ping", "", false, 200, "ok"),
            ("x", "", true, 404, "404 page not found\n"),
        ] {
            let storage = if fine { Ok(()) } else { Err("gone".to_owned()) };
            let checks = vec![Check::new("ping", Ok(())), Check::new("storage", storage)];
            let response = answer("readyz", rest, &Query::parse(query), checks);
            assert_eq!(response.status().as_u16(), code, "{rest} {query}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&body), want, "{rest} {query}");
        }
    }
}
