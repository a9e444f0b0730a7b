//! The options of each verb, from query or body, checked as Kubernetes checks them: all faults of one call together.
//!
//! Upstream: k8s.io/apimachinery pkg/apis/meta/v1/validation (validation.go), pkg/apis/meta/internalversion/validation.

use std::num::NonZeroU64;

use apiserver_registry::{ApiError, DeleteOptions, FieldError, FieldPath};
use apiserver_storage_api::{
    FieldSelector, LabelSelector, ListAt, ListOptions, OnUnreadable, Preconditions, ReadAt, SelectionPredicate,
    WatchOptions, WatchStart,
};

use crate::http::query::Query;

const GROUP: &str = "meta.k8s.io";

/// What to do about fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

/// Which verb's options are read; names the kind in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    /// Apply allows `force` and needs a field manager.
    Patch {
        apply: bool,
    },
}

impl WriteOptions {
    /// Reads and checks the query (`apiserver-http/QRY-15` to `QRY-22`).
    pub(crate) fn parse(query: &Query, write: Write) -> Result<Self, ApiError> {
        let mut faults = Vec::new();
        if let Write::Patch { apply } = write {
            if apply && query.text("fieldManager").is_empty() {
                faults.push(FieldError::required(
                    &FieldPath::new("fieldManager"),
                    "is required for apply patch",
                ));
            }
            if !apply && query.has("force") {
                faults.push(FieldError::forbidden(
                    &FieldPath::new("force"),
                    "may not be specified for non-apply patch",
                ));
            }
        }
        field_manager_faults(query.text("fieldManager"), &mut faults);
        let dry_run = dry_run(&query.all("dryRun"), &mut faults);
        let field_validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let allowed = ["", "Ignore", "Strict", "Warn"];
                faults.push(FieldError::not_supported(
                    &FieldPath::new("fieldValidation"),
                    other,
                    &allowed,
                ));
                FieldValidation::Warn
            }
        };
        let kind = match write {
            Write::Create => "CreateOptions",
            Write::Update => "UpdateOptions",
            Write::Patch { .. } => "PatchOptions",
        };
        check(kind, faults)?;
        Ok(Self {
            dry_run,
            field_validation,
        })
    }
}

fn dry_run(values: &[&str], faults: &mut Vec<FieldError>) -> bool {
    if values.iter().any(|value| *value != "All") {
        let all = values.to_vec();
        faults.push(FieldError::not_supported(&FieldPath::new("dryRun"), all, &["All"]));
    }
    !values.is_empty()
}

fn field_manager_faults(manager: &str, faults: &mut Vec<FieldError>) {
    const MAX: usize = 128;
    if manager.len() > MAX {
        faults.push(FieldError::too_long(&FieldPath::new("fieldManager"), MAX));
    }
    for (at, char) in manager.char_indices() {
        if char.is_control() || (char.is_whitespace() && char != ' ') {
            let detail = format!("invalid character {char:?} (at position {at})");
            faults.push(FieldError::invalid(&FieldPath::new("fieldManager"), manager, detail));
            break;
        }
    }
}

fn check(kind: &str, faults: Vec<FieldError>) -> Result<(), ApiError> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(GROUP, kind, "", faults))
    }
}

/// `DeleteOptions` from the query, which counts only where the body is empty (`apiserver-http/QRY-18`).
pub(crate) fn delete_options_of_query(query: &Query) -> Result<DeleteOptions, ApiError> {
    let uid = query
        .get("preconditions.uid")
        .or_else(|| query.get("uid"))
        .map(str::to_owned);
    let resource_version = query.get("preconditions.resourceVersion").map(str::to_owned);
    let grace_period_seconds = query.integer("gracePeriodSeconds").map_err(ApiError::bad_request)?;
    let preconditions =
        (uid.is_some() || resource_version.is_some()).then_some(Preconditions { uid, resource_version });
    Ok(DeleteOptions {
        grace_period_seconds,
        preconditions,
        orphan_dependents: query.optional_flag("orphanDependents"),
        propagation_policy: query.get("propagationPolicy").map(str::to_owned),
        dry_run: query.all("dryRun").into_iter().map(str::to_owned).collect(),
        ignore_store_read_error: query.optional_flag("ignoreStoreReadErrorWithClusterBreakingPotential"),
        absent: false,
    })
}

/// The parameters of lists, watches and delete-collections.
#[derive(Debug, Clone)]
pub(crate) struct ListParameters {
    predicate: SelectionPredicate,
    limit: Option<NonZeroU64>,
    token: Option<String>,
    resource_version: String,
    version_match: Option<String>,
    send_initial_events: Option<bool>,
    pub(crate) allow_bookmarks: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListParameters {
    /// Reads and checks the query (`apiserver-http/QRY-04` to `QRY-12`). `name` is the name in the path, where
    /// there is one; `check_field` refuses fields that the kind cannot be selected by.
    pub(crate) fn parse(
        query: &Query,
        watch: bool,
        name: Option<&str>,
        check_field: &dyn Fn(&str) -> Result<(), ApiError>,
    ) -> Result<Self, ApiError> {
        let limit = query
            .integer("limit")
            .map_err(ApiError::bad_request)?
            .unwrap_or_default();
        let timeout = query
            .integer("timeoutSeconds")
            .map_err(ApiError::bad_request)?
            .unwrap_or_default();
        let labels = LabelSelector::parse(query.text("labelSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let mut fields = FieldSelector::parse(query.text("fieldSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let parameters = Self {
            predicate: SelectionPredicate::default(),
            limit: u64::try_from(limit).ok().and_then(NonZeroU64::new),
            token: query
                .get("continue")
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
            resource_version: query.text("resourceVersion").to_owned(),
            version_match: query
                .get("resourceVersionMatch")
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
            send_initial_events: query.optional_flag("sendInitialEvents"),
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: u64::try_from(timeout).ok().filter(|seconds| *seconds > 0),
        };
        check(
            "ListOptions",
            if watch {
                parameters.watch_faults()
            } else {
                parameters.list_faults()
            },
        )?;
        fields.fields().try_for_each(check_field)?;
        if let Some(name) = name {
            match fields.requires_exact("metadata.name") {
                Some(own) if own == name => {}
                _ if fields.is_empty() => fields = fields.with_equal("metadata.name", name),
                _ => {
                    let text = "fieldSelector metadata.name doesn't match requested name";
                    return Err(ApiError::bad_request(text));
                }
            }
        }
        Ok(Self {
            predicate: SelectionPredicate::new(labels, fields),
            ..parameters
        })
    }

    fn list_faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        if let Some(version_match) = &self.version_match {
            let field = "resourceVersionMatch";
            if self.resource_version.is_empty() {
                faults.push(FieldError::forbidden(
                    &FieldPath::new(field),
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.token.is_some() {
                faults.push(FieldError::forbidden(
                    &FieldPath::new(field),
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if !matches!(version_match.as_str(), "Exact" | "NotOlderThan") {
                faults.push(FieldError::not_supported(
                    &FieldPath::new(field),
                    version_match.as_str(),
                    &["Exact", "NotOlderThan", ""],
                ));
            }
            if version_match == "Exact" && self.resource_version == "0" {
                let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                faults.push(FieldError::forbidden(&FieldPath::new(field), text));
            }
        }
        if self.send_initial_events.is_some() {
            faults.push(FieldError::forbidden(
                &FieldPath::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        faults
    }

    fn watch_faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let field = "resourceVersionMatch";
        let version_match = self.version_match.as_deref();
        if self.send_initial_events.is_some() && version_match != Some("NotOlderThan") {
            let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            faults.push(FieldError::forbidden(&FieldPath::new(field), text));
        }
        if let Some(other) = version_match {
            if self.send_initial_events.is_none() {
                let text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                faults.push(FieldError::forbidden(&FieldPath::new(field), text));
            }
            if other != "NotOlderThan" {
                faults.push(FieldError::not_supported(
                    &FieldPath::new(field),
                    other,
                    &["NotOlderThan"],
                ));
            }
        }
        if self.version_match.is_some() && self.token.is_some() {
            faults.push(FieldError::forbidden(
                &FieldPath::new(field),
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        faults
    }

    /// What the store is asked for a list.
    pub(crate) fn list_options(&self) -> Result<ListOptions, ApiError> {
        let version_match = self.version_match.as_deref();
        let at = ListAt::parse(
            &self.resource_version,
            version_match,
            self.limit,
            self.token.as_deref(),
            true,
        )
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
        Ok(ListOptions {
            at,
            limit: self.limit,
            predicate: self.predicate.clone(),
            unreadable: OnUnreadable::Fail,
        })
    }

    /// What the store is asked for a watch.
    pub(crate) fn watch_options(&self) -> Result<WatchOptions, ApiError> {
        let start = WatchStart::parse(&self.resource_version, self.send_initial_events).map_err(|_| {
            let value = &self.resource_version;
            // The recorded answer of the real server: a bare 500 with Go's text.
            ApiError::generic(
                500,
                "",
                format!(
                    "resourceVersion: Invalid value: {value:?}: strconv.ParseUint: parsing {value:?}: invalid syntax"
                ),
            )
        })?;
        Ok(WatchOptions {
            start,
            predicate: self.predicate.clone(),
            progress: self.allow_bookmarks,
            ..WatchOptions::from_start(start)
        })
    }

    /// Whether the initial state is closed by an annotated bookmark.
    pub(crate) fn wants_initial_bookmark(&self) -> bool {
        self.send_initial_events == Some(true) && self.allow_bookmarks
    }
}

/// The `resourceVersion` of a get.
pub(crate) fn read_at(query: &Query) -> Result<ReadAt, ApiError> {
    if query.flag("export") {
        let text = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(ApiError::bad_request(text));
    }
    ReadAt::parse(query.text("resourceVersion")).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Deleting unreadable objects works one by one only (`apiserver-http/RCOL-04`).
pub(crate) fn collection_forbids_unsafe() -> ApiError {
    let field = FieldPath::new("ignoreStoreReadErrorWithClusterBreakingPotential");
    let detail = "is not allowed with DELETECOLLECTION, try again after removing the option";
    ApiError::invalid(
        GROUP,
        "DeleteOptions",
        "",
        vec![FieldError::invalid(&field, true, detail)],
    )
}
