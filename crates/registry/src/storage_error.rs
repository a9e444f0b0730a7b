//! From storage errors to what clients see: one match, in one place.
//!
//! The texts never contain storage keys. What a backend said in detail stays in the error's source, for logs; the
//! exceptions are unreadable objects, which an operator can only find by their key.

use apiserver_storage_api::{Entry, ResourceInfo, StorageError};

use crate::error::{ApiError, seconds};
use crate::field_error::{FieldError, FieldPath};
use crate::status::StatusCause;

/// What the storage was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageVerb {
    /// `create`
    Create,
    /// `get`
    Get,
    /// `list`
    List,
    /// `watch`
    Watch,
    /// `update`
    Update,
    /// `delete`
    Delete,
}

impl StorageVerb {
    /// As messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Seconds after which a server that could not reach its storage is asked again.
const RETRY_AFTER: u32 = 2;
/// What upstream says of every lost race.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
/// Causes of one list; the rest is only counted.
const MAX_UNREADABLE: usize = 100;

/// Translates an error of a verb on an object (`name` is empty for collections). Errors of the registry that travelled
/// through a storage callback come back as they were.
pub fn from_storage_error(error: StorageError, verb: StorageVerb, info: &ResourceInfo, name: &str) -> ApiError {
    translate(error, verb, info, (info.group(), info.resource()), name)
}

/// The same, naming the group and resource that were asked for: some kinds are served in two groups
/// (`registry/R-STO-14`).
pub(crate) fn translate(
    error: StorageError,
    verb: StorageVerb,
    info: &ResourceInfo,
    (group, resource): (&str, &str),
    name: &str,
) -> ApiError {
    let (list, create) = (verb == StorageVerb::List, verb == StorageVerb::Create);
    match error {
        StorageError::Callback(source) => match source.downcast::<ApiError>() {
            Ok(own) => *own,
            Err(other) => ApiError::internal(other),
        },
        StorageError::KeyNotFound { .. } => ApiError::not_found(group, resource, if list { "" } else { name }),
        StorageError::KeyExists { .. } if create => ApiError::already_exists(group, resource, name),
        StorageError::KeyExists { .. } => ApiError::conflict(group, resource, name, "the object exists already"),
        // The storage gave up repeating: the object changes all the time (`registry/R-NEW-11`).
        // deviates: registry/R-UPD-28: upstream repeats without a limit.
        StorageError::Conflict { stored, expected, .. } => ApiError::conflict(group, resource, name, MODIFIED)
            .with_retry_after(1)
            .with_mismatch(expected.map(|rv| rv.to_string()), stored.map(|rv| rv.to_string())),
        StorageError::InvalidObject { message, .. } => ApiError::conflict(group, resource, name, message),
        StorageError::InvalidKey { message } | StorageError::BadRequest { message } => ApiError::bad_request(message),
        StorageError::InvalidResourceVersion { value } => bad_version(&value, verb),
        StorageError::ResourceVersionSetOnCreate => version_on_create(info, name, ""),
        ref unreadable @ StorageError::Unreadable { ref key, .. } if list => {
            ApiError::store_read_error(group, resource, "list", vec![unreadable_cause(key, unreadable)])
        }
        unreadable @ StorageError::Unreadable { .. } => ApiError::internal(unreadable),
        StorageError::TooLargeResourceVersion {
            asked,
            current,
            retry_after,
        } => ApiError::too_large_resource_version(asked, current, seconds(retry_after)),
        StorageError::Expired { message, token } => ApiError::expired(message, token.as_ref()),
        StorageError::NotReady { retry_after, .. } | StorageError::TooManyRequests { retry_after, .. } => {
            ApiError::too_many_requests(error.to_string(), seconds(retry_after).max(1))
        }
        StorageError::Unreachable { .. } => {
            ApiError::server_timeout(group, resource, verb.as_str(), RETRY_AFTER).with_source(error)
        }
        StorageError::Timeout { .. } if list => {
            ApiError::server_timeout(group, resource, verb.as_str(), RETRY_AFTER).with_source(error)
        }
        StorageError::Timeout { .. } => {
            ApiError::timeout("request did not complete within requested timeout", RETRY_AFTER).with_source(error)
        }
        // No hint to retry: the write may have happened, and the client must look first.
        StorageError::OutcomeUnknown { .. } => {
            let text = format!(
                "it is unknown whether the {} took effect, read before trying again",
                verb.as_str()
            );
            ApiError::timeout(text, 0).with_source(error)
        }
        StorageError::TooLargeObject { limit, .. } => {
            ApiError::request_entity_too_large(format!("limit is {limit}")).with_source(error)
        }
        StorageError::NoSpace { .. } => {
            ApiError::generic(507, "InsufficientStorage", "storage space exceeded").with_source(error)
        }
        StorageError::Codec {
            action: "encode",
            ref source,
            ..
        } => ApiError::bad_request(format!(
            "the object cannot be stored as a {}: {source}",
            info.gvk().kind
        )),
        StorageError::Codec { .. } => ApiError::internal(&error).with_source(error),
        StorageError::NotSupported { .. } | StorageError::Internal { .. } => {
            ApiError::internal(&error).with_source(error)
        }
        StorageError::Closed => ApiError::service_unavailable("storage closed").with_retry_after(1),
        // A kind of error that is newer than this table.
        other => ApiError::internal(&other).with_source(other),
    }
}

/// Translates an error of a page of a list, or of the whole list.
pub fn from_list_error(error: StorageError, info: &ResourceInfo) -> ApiError {
    from_storage_error(error, StorageVerb::List, info, "")
}

/// Translates an error that ended a watch.
pub fn from_watch_error(error: StorageError, info: &ResourceInfo) -> ApiError {
    from_storage_error(error, StorageVerb::Watch, info, "")
}

/// The error of a list that met unreadable entries (see `OnUnreadable::Include`): one cause per key, at most 100
/// (`registry/R-LST-15`, `storage-api/LIST-48`). None when all of them can be read.
pub fn unreadable_entries<'a>(entries: impl IntoIterator<Item = &'a Entry>, info: &ResourceInfo) -> Option<ApiError> {
    let mut causes = Vec::new();
    for entry in entries {
        let Err(error) = entry.record() else { continue };
        if causes.len() == MAX_UNREADABLE {
            let text = "too many errors, the list is truncated";
            causes.push(StatusCause::new("FieldValueTooMany", text, ""));
            break;
        }
        causes.push(unreadable_cause(entry.named_key(), &error));
    }
    (!causes.is_empty()).then(|| ApiError::store_read_error(info.group(), info.resource(), "list", causes))
}

fn unreadable_cause(key: &str, error: &StorageError) -> StatusCause {
    StatusCause::new("UnexpectedServerResponse", error.to_string(), key)
}

/// A list refuses the request; a watch has no type for it and answers what Go's parser says, as recorded from a real
/// server.
fn bad_version(value: &str, verb: StorageVerb) -> ApiError {
    let quoted = crate::gofmt::quote(value);
    let parser = format!("strconv.ParseUint: parsing {quoted}: invalid syntax");
    match verb {
        StorageVerb::Watch => ApiError::generic(500, "", format!("resourceVersion: Invalid value: {quoted}: {parser}")),
        _ => ApiError::bad_request(format!("invalid resource version: {parser}")),
    }
}

/// A new object must not carry a version (`registry/R-NEW-07`).
pub(crate) fn version_on_create(info: &ResourceInfo, name: &str, value: &str) -> ApiError {
    let field = FieldPath::new("metadata.resourceVersion");
    let text = "resourceVersion should not be set on objects to be created";
    let error = match value {
        "" => FieldError::forbidden(&field, text),
        value => FieldError::invalid(&field, value, text),
    };
    ApiError::invalid(info.group(), &info.gvk().kind, name, vec![error])
}
