//! The two decisions of a delete, as pure functions on metadata: how long to wait, and which finalizers to set.
//!
//! Upstream: pkg/registry/rest (delete.go, BeforeDelete), pkg/registry/generic/registry (store.go).

use apiserver_storage_api::Meta;
use apiserver_storage_api::time::Time;

use crate::resource::DeleteOptions;
use crate::strategy::GarbageCollection;

/// Dependents are to lose their owner first.
const ORPHAN: &str = "orphan";
/// Dependents are to go first.
const FOREGROUND: &str = "foregroundDeletion";

/// Whether somebody must stop the thing before it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grace {
    /// No: it may go at once.
    None,
    /// Yes, and this request changes nothing about it.
    Pending,
    /// Yes, or not any more: the metadata says until when.
    Begun,
}

/// Decides about the grace period, and marks the metadata (`registry/R-GRC-01` to `R-GRC-10`). `policy` is the kind's:
/// from the requested seconds to those that are granted, or none where such an object is not stopped gracefully.
pub(super) fn grace(
    meta: &mut Meta,
    requested: Option<i64>,
    now: Time,
    policy: impl FnOnce(Option<i64>) -> Option<i64>,
) -> Grace {
    let at_least_one = |seconds: i64| if seconds < 0 { 1 } else { seconds };
    let requested = requested.map(at_least_one);
    let Some(until) = meta.deletion_timestamp else {
        let Some(granted) = policy(requested).map(at_least_one) else {
            return Grace::None;
        };
        meta.deletion_timestamp = Some(Time::from_unix(now.unix().saturating_add(granted)));
        meta.deletion_grace_period_seconds = Some(granted);
        count_generation(meta);
        return Grace::Begun;
    };
    // Without seconds left, only the last step is missing: whoever was to do it died in between.
    let left = match meta.deletion_grace_period_seconds.map(at_least_one) {
        None | Some(0) => return Grace::None,
        Some(left) => left,
    };
    meta.deletion_grace_period_seconds = Some(left);
    let Some(shorter) = requested.filter(|&requested| requested < left) else {
        return Grace::Pending;
    };
    let earlier = Time::from_unix(until.unix().saturating_sub(left).saturating_add(shorter));
    let (until, seconds) = match earlier < now {
        false => (earlier, shorter),
        // The new end has passed already. Unless it was to be at once, somebody else still does the last step.
        true => (now, shorter.min(1)),
    };
    meta.deletion_timestamp = Some(until);
    meta.deletion_grace_period_seconds = Some(seconds);
    Grace::Begun
}

/// Marks an object that only finalizers hold (`registry/R-DEL-11`).
pub(super) fn mark(meta: &mut Meta, now: Time) {
    if meta.deletion_timestamp.is_none() {
        count_generation(meta);
    }
    if meta.deletion_timestamp.is_none_or(|until| until > now) {
        meta.deletion_timestamp = Some(now);
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// Being deleted changes what controllers must do; kinds that count get one more.
fn count_generation(meta: &mut Meta) {
    if let Some(generation) = meta.generation.as_mut().filter(|generation| **generation > 0) {
        *generation = generation.saturating_add(1);
    }
}

/// The finalizers that tell a garbage collector what to do, set or cleared (`registry/R-GC-02` to `R-GC-06`).
pub(super) fn propagate(finalizers: &mut Vec<String>, policy: GarbageCollection, options: &DeleteOptions) {
    let orphan = wants_orphan(finalizers, policy, options);
    let foreground = wants_foreground(finalizers, policy, options);
    let has = |name: &str| finalizers.iter().any(|own| own == name);
    if has(ORPHAN) == orphan && has(FOREGROUND) == foreground {
        return;
    }
    finalizers.retain(|own| own != ORPHAN && own != FOREGROUND);
    finalizers.extend(orphan.then(|| ORPHAN.to_owned()));
    finalizers.extend(foreground.then(|| FOREGROUND.to_owned()));
}

/// The one of the two that an earlier request has set.
fn earlier(finalizers: &[String]) -> Option<&str> {
    finalizers
        .iter()
        .map(String::as_str)
        .find(|own| matches!(*own, ORPHAN | FOREGROUND))
}

fn wants_orphan(finalizers: &[String], policy: GarbageCollection, options: &DeleteOptions) -> bool {
    if policy == GarbageCollection::Unsupported {
        return false;
    }
    if let Some(orphan) = options.orphan_dependents {
        return orphan;
    }
    match (options.propagation_policy.as_deref(), earlier(finalizers)) {
        (Some(asked), _) => asked == "Orphan",
        (None, Some(earlier)) => earlier == ORPHAN,
        (None, None) => policy == GarbageCollection::OrphanDependents,
    }
}

fn wants_foreground(finalizers: &[String], policy: GarbageCollection, options: &DeleteOptions) -> bool {
    if policy == GarbageCollection::Unsupported || options.orphan_dependents.is_some() {
        return false;
    }
    match (options.propagation_policy.as_deref(), earlier(finalizers)) {
        (Some(asked), _) => asked == "Foreground",
        (None, earlier) => earlier == Some(FOREGROUND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn meta(until: Option<i64>, left: Option<i64>) -> Meta {
        let mut meta = Meta::named("a");
        meta.generation = Some(1);
        meta.deletion_timestamp = until.map(Time::from_unix);
        meta.deletion_grace_period_seconds = left;
        meta
    }

    // covers: registry/R-GRC-01, registry/R-GRC-03, registry/R-GRC-10
    #[test]
    fn the_first_request_sets_the_end_and_counts() {
        for (requested, granted) in [(None, 30), (Some(0), 0), (Some(5), 5), (Some(-7), 1)] {
            let mut meta = meta(None, None);
            let decision = grace(&mut meta, requested, Time::from_unix(NOW), |asked| {
                Some(asked.unwrap_or(30))
            });
            assert_eq!(decision, Grace::Begun);
            assert_eq!(
                meta.deletion_timestamp,
                Some(Time::from_unix(NOW + granted)),
                "{requested:?}"
            );
            assert_eq!(meta.deletion_grace_period_seconds, Some(granted));
            assert_eq!(meta.generation, Some(2));
        }
        let mut untouched = meta(None, None);
        assert_eq!(
            grace(&mut untouched, Some(5), Time::from_unix(NOW), |_| None),
            Grace::None
        );
        assert_eq!(untouched, meta(None, None));
    }

    // covers: registry/R-GRC-01, registry/R-GRC-05, registry/R-GRC-06, registry/R-GRC-07, registry/R-GRC-08, registry/R-GRC-11, registry/R-DEL-28
    #[test]
    fn later_requests_can_only_shorten() {
        use Grace::{Begun, None as AtOnce, Pending};
        for (left, requested, decision, want) in [
            (None, Some(5), AtOnce, None),
            (Some(0), Some(-1), AtOnce, Some(0)),
            (Some(0), Some(0), AtOnce, Some(0)),
            (Some(0), Some(1), AtOnce, Some(0)),
            (Some(0), Some(2), AtOnce, Some(0)),
            (Some(1), None, Pending, Some(1)),
            (Some(1), Some(-1), Pending, Some(1)),
            (Some(1), Some(0), Begun, Some(0)),
            (Some(1), Some(1), Pending, Some(1)),
            (Some(1), Some(2), Pending, Some(1)),
            (Some(2), Some(-1), Begun, Some(1)),
            (Some(2), Some(0), Begun, Some(0)),
            (Some(2), Some(1), Begun, Some(1)),
            (Some(2), Some(2), Pending, Some(2)),
            (Some(-1), Some(-1), Pending, Some(1)),
            (Some(-1), Some(0), Begun, Some(0)),
            (Some(-1), Some(1), Pending, Some(1)),
            (Some(-1), Some(2), Pending, Some(1)),
        ] {
            let mut meta = meta(Some(NOW + 100), left);
            let got = grace(&mut meta, requested, Time::from_unix(NOW), |_| {
                panic!("the kind has decided already")
            });
            assert_eq!(got, decision, "left {left:?}, requested {requested:?}");
            assert_eq!(
                meta.deletion_grace_period_seconds, want,
                "left {left:?}, requested {requested:?}"
            );
            assert_eq!(meta.generation, Some(1));
            if decision == Begun {
                let moved = 100 - left.unwrap().max(1).max(left.unwrap()) + want.unwrap();
                assert_eq!(meta.deletion_timestamp, Some(Time::from_unix(NOW + moved)));
            }
        }
    }

    // covers: registry/R-GRC-09
    #[test]
    fn an_end_in_the_past_becomes_now() {
        for (requested, want) in [(50, 1), (1, 1), (0, 0)] {
            let mut meta = meta(Some(NOW - 60), Some(60));
            assert_eq!(
                grace(&mut meta, Some(requested), Time::from_unix(NOW), |_| None),
                Grace::Begun
            );
            assert_eq!(meta.deletion_timestamp, Some(Time::from_unix(NOW)));
            assert_eq!(meta.deletion_grace_period_seconds, Some(want), "{requested}");
        }
    }

    // covers: registry/R-DEL-11, registry/R-DEL-26
    #[test]
    fn a_mark_is_set_once_and_never_moved_later() {
        for (until, want, generation) in [(None, NOW, 2), (Some(NOW + 9), NOW, 1), (Some(NOW - 9), NOW - 9, 1)] {
            let mut meta = meta(until, None);
            mark(&mut meta, Time::from_unix(NOW));
            assert_eq!(meta.deletion_timestamp, Some(Time::from_unix(want)), "{until:?}");
            assert_eq!(meta.deletion_grace_period_seconds, Some(0));
            assert_eq!(meta.generation, Some(generation));
        }
        let mut uncounted = Meta::named("a");
        mark(&mut uncounted, Time::from_unix(NOW));
        assert_eq!(uncounted.generation, None);
    }

    #[track_caller]
    fn check(before: &[&str], policy: GarbageCollection, orphan: Option<bool>, asked: Option<&str>, want: &[&str]) {
        let mut finalizers: Vec<String> = before.iter().map(|&name| name.to_owned()).collect();
        let options = DeleteOptions {
            orphan_dependents: orphan,
            propagation_policy: asked.map(str::to_owned),
            ..DeleteOptions::default()
        };
        propagate(&mut finalizers, policy, &options);
        assert_eq!(finalizers, want, "{before:?}, {policy:?}, {orphan:?}, {asked:?}");
    }

    // covers: registry/R-GC-02, registry/R-GC-04, registry/R-GC-05, registry/R-GC-07, registry/R-GC-08, registry/R-GC-09
    #[test]
    fn orphaning_follows_the_request_then_the_object_then_the_kind() {
        use GarbageCollection::{DeleteDependents as Delete, OrphanDependents as Orphan};
        for policy in [Delete, Orphan] {
            check(&["x", "orphan", "y"], policy, Some(true), None, &["x", "orphan", "y"]);
            check(&["x", "y"], policy, Some(true), None, &["x", "y", "orphan"]);
            check(&[], policy, Some(true), None, &["orphan"]);
            check(&["x", "orphan", "y"], policy, Some(false), None, &["x", "y"]);
            check(&["x", "y"], policy, Some(false), None, &["x", "y"]);
            check(&["orphan"], policy, Some(false), None, &[]);
            check(&["x", "orphan", "y"], policy, None, None, &["x", "orphan", "y"]);
            check(&["orphan"], policy, None, None, &["orphan"]);
        }
        check(&["x", "y"], Delete, None, None, &["x", "y"]);
        check(&["x", "y"], Orphan, None, None, &["x", "y", "orphan"]);
        check(&[], Delete, None, None, &[]);
        check(&[], Orphan, None, None, &["orphan"]);
    }

    // covers: registry/R-GC-03, registry/R-GC-06, registry/R-GC-10, registry/R-GC-11, registry/R-GC-12, registry/R-GC-13
    #[test]
    fn the_policy_of_a_request_beats_everything_older() {
        use GarbageCollection::{DeleteDependents as Delete, OrphanDependents as Orphan, Unsupported};
        for policy in [Delete, Orphan] {
            for before in [&[][..], &["orphan"], &["foregroundDeletion"]] {
                check(before, policy, None, Some("Foreground"), &["foregroundDeletion"]);
                check(before, policy, None, Some("Background"), &[]);
                check(before, policy, None, Some("Orphan"), &["orphan"]);
            }
            check(&["foregroundDeletion"], policy, None, None, &["foregroundDeletion"]);
            check(&["foregroundDeletion"], policy, Some(false), None, &[]);
        }
        for asked in [None, Some("Orphan"), Some("Foreground")] {
            check(&["orphan", "x", "foregroundDeletion"], Unsupported, None, asked, &["x"]);
        }
    }
}
