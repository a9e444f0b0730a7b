//! Errors: the texts of the API, and the one table from storage errors to them.

use std::time::Duration;

use apiserver_registry::{
    ApiError, FieldError, FieldPath, Status, StatusCause, StorageVerb, from_list_error, from_storage_error,
    from_watch_error,
};
use apiserver_storage_api::{ContinueToken, KeyPrefix, ResourcePrefix, Revision, StorageError, UnreadableReason};
use serde_json::json;

use crate::common::{machines, widgets};

#[track_caller]
fn check(error: &ApiError, code: u16, reason: &str, message: &str) {
    assert_eq!((error.code(), error.reason(), error.message()), (code, reason, message));
    assert_eq!(error.to_string(), message);
}

// covers: apiserver-http/STAT-03, apiserver-http/STAT-04, apiserver-http/STAT-05, apiserver-http/STAT-06, apiserver-http/STAT-08, apiserver-http/STAT-09, apiserver-http/STAT-10, apiserver-http/STAT-11, apiserver-http/STAT-12, apiserver-http/STAT-13, apiserver-http/STAT-14, apiserver-http/STAT-15, apiserver-http/STAT-16, registry/R-ERR-07
#[test]
fn each_error_has_the_text_that_clients_know() {
    let apps = ("apps", "deployments", "a");
    for (error, code, reason, message) in [
        (
            ApiError::not_found("", "pods", "a"),
            404,
            "NotFound",
            "pods \"a\" not found",
        ),
        (
            ApiError::not_found(apps.0, apps.1, apps.2),
            404,
            "NotFound",
            "deployments.apps \"a\" not found",
        ),
        (
            ApiError::already_exists("", "pods", "a"),
            409,
            "AlreadyExists",
            "pods \"a\" already exists",
        ),
        (
            ApiError::generate_name_conflict("", "pods", "a", 1),
            409,
            "AlreadyExists",
            "pods \"a\" already exists, the server was not able to generate a unique name for the object",
        ),
        (
            ApiError::conflict(apps.0, apps.1, apps.2, "why"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"a\": why",
        ),
        (
            ApiError::apply_conflict("conflict", vec![]),
            409,
            "Conflict",
            "conflict",
        ),
        (ApiError::bad_request("what"), 400, "BadRequest", "what"),
        (ApiError::unauthorized(""), 401, "Unauthorized", "Unauthorized"),
        (
            ApiError::forbidden("", "pods", "a", "no"),
            403,
            "Forbidden",
            "pods \"a\" is forbidden: no",
        ),
        (
            ApiError::forbidden("", "pods", "", "no"),
            403,
            "Forbidden",
            "pods is forbidden: no",
        ),
        (ApiError::forbidden("", "", "", "no"), 403, "Forbidden", "forbidden: no"),
        (
            ApiError::method_not_supported("", "pods", "create"),
            405,
            "MethodNotAllowed",
            "create is not supported on resources of kind \"pods\"",
        ),
        (ApiError::not_acceptable("x"), 406, "NotAcceptable", "x"),
        (ApiError::unsupported_media_type("x"), 415, "UnsupportedMediaType", "x"),
        (
            ApiError::request_entity_too_large("limit is 3145728"),
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        ),
        (ApiError::too_many_requests("slow", 3), 429, "TooManyRequests", "slow"),
        (
            ApiError::server_timeout("", "pods", "list", 2),
            500,
            "ServerTimeout",
            "The list operation against pods could not be completed at this time, please try again.",
        ),
        (ApiError::timeout("late", 0), 504, "Timeout", "Timeout: late"),
        (ApiError::expired("old", None), 410, "Expired", "old"),
        (ApiError::gone("gone"), 410, "Gone", "gone"),
        (
            ApiError::internal("bug"),
            500,
            "InternalError",
            "Internal error occurred: bug",
        ),
        (ApiError::service_unavailable("down"), 503, "ServiceUnavailable", "down"),
        (ApiError::generic(418, "Teapot", "x"), 418, "Teapot", "x"),
    ] {
        check(&error, code, reason, message);
    }
    assert_eq!(
        ApiError::generate_name_conflict("", "pods", "a", 1).retry_after_seconds(),
        Some(1)
    );
    assert_eq!(ApiError::too_many_requests("slow", 3).retry_after_seconds(), Some(3));
    assert_eq!(ApiError::timeout("late", 0).retry_after_seconds(), None);
    assert_eq!(
        ApiError::internal("bug").details().unwrap().causes,
        [StatusCause::new("", "bug", "")]
    );
    assert_eq!(
        ApiError::server_timeout("", "pods", "list", 2).details().unwrap().name,
        "list"
    );
}

// covers: apiserver-http/STAT-01, apiserver-http/STAT-02, apiserver-http/STAT-07
#[test]
fn an_invalid_object_lists_its_faults_in_the_status() {
    let field = FieldPath::new("spec").child("replicas");
    let faults = vec![
        FieldError::invalid(&field, -1, "must be greater than or equal to 0"),
        FieldError::required(&FieldPath::new("spec").child("selector"), ""),
    ];
    let error = ApiError::invalid("apps", "Deployment", "a", faults);
    let want = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Deployment.apps \"a\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal \
                    to 0, spec.selector: Required value]",
        "reason": "Invalid",
        "details": {"name": "a", "group": "apps", "kind": "Deployment", "causes": [
            {"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be greater than or equal to 0",
             "field": "spec.replicas"},
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.selector"},
        ]},
        "code": 422,
    });
    assert_eq!(error.to_status_json(), want);
    let back: Status = serde_json::from_slice(&error.to_status_bytes()).unwrap();
    assert_eq!(&back, error.status());
    check(
        &ApiError::invalid("", "Pod", "a", vec![]),
        422,
        "Invalid",
        "Pod \"a\" is invalid",
    );
}

const VERBS: [StorageVerb; 6] = [
    StorageVerb::Create,
    StorageVerb::Get,
    StorageVerb::List,
    StorageVerb::Watch,
    StorageVerb::Update,
    StorageVerb::Delete,
];

type Row = (fn() -> StorageError, fn(StorageVerb) -> (u16, &'static str));

fn key() -> String {
    "/registry/example.com/widgets/ns/a".into()
}

// covers: storage-api/ERR-06, storage-api/ERR-07, storage-api/ERR-08, storage-api/ERR-09, storage-api/ERR-10, storage-api/ERR-11, storage-api/ERR-12, storage-api/ERR-13, storage-api/ERR-14, storage-api/ERR-15, storage-api/ERR-16, registry/R-NEW-11, registry/R-ERR-01, registry/R-ERR-02, registry/R-ERR-03, registry/R-ERR-04, registry/R-CRE-33, registry/R-GET-07, registry/R-LST-14, registry/R-UPD-31, apiserver-http/STAT-20, apiserver-http/STAT-17
#[test]
fn every_storage_error_has_one_answer_for_each_verb() {
    use StorageVerb::{Create, List, Watch};
    let rows: [Row; 22] = [
        (|| StorageError::KeyNotFound { key: key() }, |_| (404, "NotFound")),
        (
            || StorageError::KeyExists { key: key() },
            |verb| {
                if verb == Create {
                    (409, "AlreadyExists")
                } else {
                    (409, "Conflict")
                }
            },
        ),
        (
            || StorageError::Conflict {
                key: key(),
                stored: None,
                expected: None,
            },
            |_| (409, "Conflict"),
        ),
        (
            || StorageError::InvalidObject {
                key: key(),
                message: "no".into(),
            },
            |_| (409, "Conflict"),
        ),
        (
            || StorageError::InvalidKey { message: "no".into() },
            |_| (400, "BadRequest"),
        ),
        (
            || StorageError::InvalidResourceVersion { value: "x".into() },
            |verb| if verb == Watch { (500, "") } else { (400, "BadRequest") },
        ),
        (|| StorageError::bad_request("no"), |_| (400, "BadRequest")),
        (|| StorageError::ResourceVersionSetOnCreate, |_| (422, "Invalid")),
        (
            || {
                let reason = UnreadableReason::Decode("x".into());
                StorageError::Unreadable {
                    key: key(),
                    revision: None,
                    reason,
                }
            },
            |verb| {
                if verb == List {
                    (500, "StorageReadError")
                } else {
                    (500, "InternalError")
                }
            },
        ),
        (
            || StorageError::TooLargeResourceVersion {
                asked: Revision::MAX,
                current: Revision::MIN,
                retry_after: Duration::from_secs(1),
            },
            |_| (504, "Timeout"),
        ),
        (StorageError::expired_list, |_| (410, "Expired")),
        (
            || StorageError::NotReady {
                cause: "filling".into(),
                retry_after: Duration::from_millis(1),
            },
            |_| (429, "TooManyRequests"),
        ),
        (
            || StorageError::TooManyRequests {
                cause: "full".into(),
                retry_after: Duration::ZERO,
            },
            |_| (429, "TooManyRequests"),
        ),
        (
            || StorageError::Unreachable { source: "down".into() },
            |_| (500, "ServerTimeout"),
        ),
        (
            || StorageError::Timeout { key: key() },
            |verb| {
                if verb == List {
                    (500, "ServerTimeout")
                } else {
                    (504, "Timeout")
                }
            },
        ),
        (
            || StorageError::OutcomeUnknown {
                key: key(),
                source: "cut".into(),
            },
            |_| (504, "Timeout"),
        ),
        (
            || StorageError::TooLargeObject {
                key: key(),
                size: 9,
                limit: 8,
            },
            |_| (413, "RequestEntityTooLarge"),
        ),
        (
            || StorageError::NoSpace { source: "full".into() },
            |_| (507, "InsufficientStorage"),
        ),
        (
            || StorageError::Codec {
                key: key(),
                action: "encode",
                source: "spec: odd".into(),
            },
            |_| (400, "BadRequest"),
        ),
        (
            || StorageError::NotSupported { what: "x".into() },
            |_| (500, "InternalError"),
        ),
        (|| StorageError::Closed, |_| (503, "ServiceUnavailable")),
        (|| StorageError::internal("bug"), |_| (500, "InternalError")),
    ];
    for (error, want) in rows {
        for verb in VERBS {
            let text = format!("{:?} of {verb:?}", error());
            let got = from_storage_error(error(), verb, &widgets(), "a");
            assert_eq!((got.code(), got.reason()), want(verb), "{text}");
            let client_sees_key = got.message().contains("/registry");
            let names_the_unreadable = matches!(error(), StorageError::Unreadable { .. }) && verb != List;
            assert_eq!(client_sees_key, names_the_unreadable, "{text}: {got}");
            if matches!(error(), StorageError::Conflict { .. }) {
                assert_eq!(got.retry_after_seconds(), Some(1), "{text}");
            }
            if got.code() == 429 {
                assert_eq!(got.retry_after_seconds(), Some(1), "{text}");
            }
        }
    }
}

// covers: registry/R-ERR-06, registry/R-ERR-05
#[test]
fn errors_of_the_registry_pass_through_storage_unchanged() {
    let own = ApiError::generic(418, "Teapot", "no coffee").with_retry_after(7);
    let back = from_storage_error(StorageError::callback(own), StorageVerb::Update, &widgets(), "a");
    check(&back, 418, "Teapot", "no coffee");
    assert_eq!(back.retry_after_seconds(), Some(7));
    let other = from_storage_error(StorageError::callback("x"), StorageVerb::Update, &widgets(), "a");
    check(&other, 500, "InternalError", "Internal error occurred: x");
    let source: &dyn std::error::Error = &ApiError::internal("x").with_source(std::fmt::Error);
    assert!(source.source().is_some());
}

// covers: storage-api/ERR-07, storage-api/LIST-34, apiserver-http/RLST-06, storage-api/ERR-09
#[test]
fn an_expired_token_comes_with_one_that_goes_on() {
    let prefix = KeyPrefix::new(&ResourcePrefix::new("/machines/").unwrap(), "/machines/").unwrap();
    let token = ContinueToken::after(Revision::MIN, &prefix, "/machines/a")
        .unwrap()
        .at_latest();
    let error = from_list_error(StorageError::expired_continue(Some(token.clone())), &machines());
    assert_eq!(error.continue_token(), Some(token.encode().as_str()));
    assert!(error.is_expired());
    assert_eq!(error.to_status_json()["metadata"]["continue"], token.encode());
    let missing = from_list_error(StorageError::KeyNotFound { key: key() }, &machines());
    check(&missing, 404, "NotFound", "machines \"\" not found");
}

// covers: storage-api/WATCH-28, storage-api/ERR-14
#[test]
fn a_watch_from_nonsense_answers_what_go_says() {
    let error = from_watch_error(
        StorageError::InvalidResourceVersion { value: "abc".into() },
        &machines(),
    );
    let text = "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax";
    check(&error, 500, "", text);
}
