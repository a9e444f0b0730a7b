//! Which resources are served from memory, and how much of their history is kept: one answer per resource, from what is
//! said for all of them and what is said for this one.
//!
//! Upstream: kubernetes/apiserver pkg/server/options/etcd.go (watch cache sizes).
//
// deviates: storagebackend/B-FLG-10: a size other than 0 is the number of changes that are kept whatever their age, within
//   the bytes of the history; upstream reads it and does nothing with it (also B-FLG-11, B-GRO-05).
// deviates: storagebackend/B-CFG-09: a history below 75 s is allowed, only none at all is refused; who asks for a short one
//   gets more 410s (also B-DEC-06).
// deviates: storagebackend/B-GRO-06: what is said of events holds for both groups that serve them, as they are one set of
//   stored objects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use apiserver_storage_api::{Index, ResourceInfo};
use apiserver_storage_cacher::CacherConfig;

use crate::config::Fault;

/// Less than this for all caches cannot work: each of them keeps its latest change whatever that costs, and a few changes of
/// objects as large as a store takes them would use it up for good.
const LEAST_TOTAL: usize = 16 << 20;

/// The watch caches of a process: what holds for all resources, and what holds for some.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachesConfig {
    /// So many changes of each resource are kept whatever their age. 0: only resources with a size of their own have a
    /// cache. Default 100.
    pub default_size: usize,
    /// Most bytes of history that all caches keep together, at least 16 MiB. Default 512 MiB.
    pub total_history_bytes: usize,
    /// What differs for single resources, by name (`pods`, `deployments.apps`).
    pub rules: BTreeMap<String, CacheRule>,
}

/// What differs for the watch cache of one resource. What is not said is as for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheRule {
    /// So many changes are kept whatever their age, within the bytes. 0: no cache.
    pub size: Option<usize>,
    /// Most bytes of history. Default 64 MiB, or what all caches may keep together if that is less.
    pub history_bytes: Option<usize>,
    /// How long history is kept while there is room. Default 75 s.
    pub history_time: Option<Duration>,
    /// Most bytes of live objects; what is more is served from the backend, all of it. Default none.
    pub live_bytes: Option<usize>,
    /// Indexes beside those that the kind brings along. Fields have to be selectable ones of the kind.
    pub indexes: Vec<Index>,
}

impl Default for CachesConfig {
    fn default() -> Self {
        Self {
            default_size: 100,
            total_history_bytes: 512 << 20,
            rules: BTreeMap::new(),
        }
    }
}

impl CacheRule {
    /// No cache.
    pub fn off() -> Self {
        Self::of_size(0)
    }

    /// A cache that keeps so many changes whatever their age.
    pub fn of_size(size: usize) -> Self {
        Self {
            size: Some(size),
            ..Self::default()
        }
    }
}

impl CachesConfig {
    /// The rule of a resource, by name; an empty one where there was none.
    pub fn rule(&mut self, resource: impl Into<String>) -> &mut CacheRule {
        self.rules.entry(resource.into()).or_default()
    }

    /// Everything that is wrong, by flag and resource.
    pub(crate) fn check(&self, faults: &mut Vec<Fault>) {
        let mut fault = |field: String, message: &str| faults.push(Fault::new(field, message));
        if self.total_history_bytes < LEAST_TOTAL {
            let text = format!("must be at least {LEAST_TOTAL} bytes, or a few large objects would use it up");
            fault("watch-cache-total-history".into(), &text);
        }
        for (name, rule) in &self.rules {
            if !is_name(name) {
                fault(
                    "watch-cache-sizes".into(),
                    &format!("{name:?} is no resource; write it like pods or deployments.apps"),
                );
            }
            let of = |flag: &str| format!("{flag}[{name}]");
            if rule.history_bytes == Some(0) || rule.history_time == Some(Duration::ZERO) {
                fault(
                    of("watch-cache-history"),
                    "must be more than nothing, or no watch could be resumed",
                );
            }
            if rule.history_bytes.is_some_and(|bytes| bytes > self.total_history_bytes) {
                let total = self.total_history_bytes;
                let text = format!("more than the {total} bytes that all caches may keep together");
                fault(of("watch-cache-history"), &text);
            }
            if rule.live_bytes == Some(0) {
                fault(of("watch-cache-live-bytes"), "must be more than nothing");
            }
            if rule.size == Some(0) && rule.is_more_than_a_size() {
                fault(of("watch-cache-sizes"), "is 0, and there is more said of its cache");
            }
        }
    }

    /// How a resource is cached; `None` where it is not.
    pub(crate) fn of(&self, info: &ResourceInfo) -> Option<CacheRule> {
        let rule = self.rule_for(info).cloned().unwrap_or_default();
        // Events come and go faster than anybody lists them: upstream's server does not cache them unless it is told to.
        let default = if is_events(info) { 0 } else { self.default_size };
        let size = rule.size.unwrap_or(default);
        // No cache is told that it may keep more than all of them.
        let own = CacherConfig::default().history_bytes;
        let total = self.total_history_bytes;
        (size > 0).then_some(CacheRule {
            size: Some(size),
            history_bytes: rule.history_bytes.or_else(|| (total < own).then_some(total)),
            ..rule
        })
    }

    fn rule_for(&self, info: &ResourceInfo) -> Option<&CacheRule> {
        let own = self.rules.get(&info.group_resource());
        let twin = || match info.group() {
            "" => self.rules.get("events.events.k8s.io"),
            _ => self.rules.get("events"),
        };
        own.or_else(|| is_events(info).then(twin).flatten())
    }
}

impl CacheRule {
    fn is_more_than_a_size(&self) -> bool {
        let size = self.size;
        *self
            != Self {
                size,
                ..Self::default()
            }
    }

    /// What the cache is told.
    pub(crate) fn apply(&self, mut config: CacherConfig) -> CacherConfig {
        if let Some(size) = self.size {
            config.history_min_records = size;
        }
        if let Some(bytes) = self.history_bytes {
            config.history_bytes = bytes;
        }
        if let Some(time) = self.history_time {
            config.history_time = time;
        }
        config.with_live_bytes(self.live_bytes)
    }

    /// The kind with the indexes of this rule. Kinds come at run time, so an index that makes no sense for one is found
    /// here and said in the log.
    pub(crate) fn indexed(&self, info: &ResourceInfo) -> ResourceInfo {
        let mut indexes = info.indexes().to_vec();
        for index in &self.indexes {
            if let Index::Field(field) = index
                && !info.selectable_fields().iter().any(|known| *known.label == **field)
            {
                let resource = info.group_resource();
                tracing::warn!(resource, %field, "no index: objects cannot be selected by this field");
                continue;
            }
            if !indexes.contains(index) {
                indexes.push(index.clone());
            }
        }
        info.clone().with_indexes(indexes)
    }
}

fn is_events(info: &ResourceInfo) -> bool {
    matches!((info.group(), info.resource()), ("" | "events.k8s.io", "events"))
}

fn is_name(name: &str) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.');
    !name.starts_with('.') && !name.is_empty() && name.chars().all(allowed)
}

/// Reads an entry of `--watch-cache-sizes`, `resource[.group]#size`.
///
/// # Errors
///
/// Upstream's text.
pub fn watch_cache_size(entry: &str) -> Result<(String, usize), String> {
    let (name, size) = named(entry).ok_or_else(|| format!("invalid value of watch cache size: {entry}"))?;
    let size: i64 = size
        .parse()
        .map_err(|_| format!("invalid size of watch cache size: {entry}"))?;
    let size = usize::try_from(size).map_err(|_| format!("watch cache size cannot be negative: {entry}"))?;
    Ok((name.to_owned(), size))
}

/// Reads an entry that adds indexes, `resource[.group]#index;index`: an index is a field (`spec.nodeName`, or
/// `f:spec.nodeName`) or a label (`l:app`), as the label `index` of metrics has it.
///
/// # Errors
///
/// What is wrong with it.
pub fn watch_cache_indexes(entry: &str) -> Result<(String, Vec<Index>), String> {
    let (name, indexes) = named(entry).ok_or("write it like pods#spec.nodeName;l:app")?;
    let index = |text: &str| match text.split_once(':') {
        None => Some(Index::Field(text.into())),
        Some(("f", field)) => Some(Index::Field(field.into())),
        Some(("l", label)) => Some(Index::Label(label.into())),
        Some(_) => None,
    };
    let filled = |index: &Index| matches!(index, Index::Field(name) | Index::Label(name) if !name.is_empty());
    let mut seen = BTreeSet::new();
    let indexes: Option<Vec<_>> = indexes
        .split(';')
        .filter(|text| seen.insert(*text))
        .map(|text| index(text).filter(filled))
        .collect();
    let indexes = indexes.ok_or("an index is a field (spec.nodeName) or a label (l:app)")?;
    Ok((name.to_owned(), indexes))
}

/// The two sides of an entry with exactly one `#`.
fn named(entry: &str) -> Option<(&str, &str)> {
    entry.split_once('#').filter(|(_, value)| !value.contains('#'))
}

#[cfg(test)]
mod tests {
    use apiserver_storage_api::ResourceScope;

    use super::*;

    fn kind(group: &str, resource: &str) -> ResourceInfo {
        ResourceInfo::new(group, "v1", resource, "Kind", ResourceScope::Namespaced).with_selectable_field("spec.node")
    }

    // covers: storagebackend/B-WCS-01, storagebackend/B-WCS-02, storagebackend/B-WCS-03
    #[test]
    fn sizes_are_read_as_upstream_reads_them() {
        for (entry, want) in [
            ("deployments.apps#65536", Ok(("deployments.apps", 65536))),
            ("pods#0", Ok(("pods", 0))),
            ("a.b.c#+1", Ok(("a.b.c", 1))),
            ("pods", Err("invalid value of watch cache size: pods")),
            ("", Err("invalid value of watch cache size: ")),
            ("pods#1#2", Err("invalid value of watch cache size: pods#1#2")),
            ("pods#", Err("invalid size of watch cache size: pods#")),
            ("pods#1k", Err("invalid size of watch cache size: pods#1k")),
            ("pods#1.5", Err("invalid size of watch cache size: pods#1.5")),
            ("pods#-1", Err("watch cache size cannot be negative: pods#-1")),
        ] {
            let want = want.map(|(name, size)| (name.to_owned(), size)).map_err(str::to_owned);
            assert_eq!(watch_cache_size(entry), want, "{entry}");
        }
        // The first dot ends the resource, as in the names that kinds have.
        assert_eq!(kind("b.c", "a").group_resource(), "a.b.c");
    }

    #[test]
    fn indexes_are_read_by_the_names_that_metrics_have() {
        let (name, indexes) = watch_cache_indexes("pods#spec.nodeName;l:app.kubernetes.io/name;f:x;l:a;l:a").unwrap();
        let label = |name: &str| Index::Label(name.into());
        let field = |name: &str| Index::Field(name.into());
        let want = [
            field("spec.nodeName"),
            label("app.kubernetes.io/name"),
            field("x"),
            label("a"),
        ];
        assert_eq!((name.as_str(), indexes.as_slice()), ("pods", &want[..]));
        for wrong in ["pods", "pods#", "pods#a;", "pods#x:a", "pods#l:", "pods#a#b"] {
            assert!(watch_cache_indexes(wrong).is_err(), "{wrong}");
        }
    }

    // covers: storagebackend/B-DEC-09, storagebackend/B-DEC-04
    #[test]
    fn every_resource_has_one_answer() {
        let mut caches = CachesConfig::default();
        let size = |caches: &CachesConfig, group: &str, resource: &str| {
            caches.of(&kind(group, resource)).and_then(|rule| rule.size)
        };
        assert_eq!(size(&caches, "", "pods"), Some(100));
        assert_eq!(size(&caches, "", "events"), None);
        assert_eq!(size(&caches, "events.k8s.io", "events"), None);
        assert_eq!(size(&caches, "example.com", "events"), Some(100), "another kind");

        *caches.rule("pods") = CacheRule::off();
        *caches.rule("deployments.apps") = CacheRule::of_size(7);
        caches.rule("events").size = Some(9);
        assert_eq!(size(&caches, "", "pods"), None);
        assert_eq!(size(&caches, "metrics.k8s.io", "pods"), Some(100), "of another group");
        assert_eq!(size(&caches, "apps", "deployments"), Some(7));
        assert_eq!(size(&caches, "", "events"), Some(9));
        assert_eq!(size(&caches, "events.k8s.io", "events"), Some(9), "the same objects");
        caches.rule("events.events.k8s.io").size = Some(8);
        assert_eq!(size(&caches, "events.k8s.io", "events"), Some(8));
        assert_eq!(size(&caches, "", "events"), Some(9));

        let history = |caches: &CachesConfig, resource: &str| {
            let rule = caches.of(&kind("", resource)).unwrap();
            rule.apply(CacherConfig::default()).history_bytes
        };
        assert_eq!(history(&caches, "secrets"), 64 << 20);
        caches.total_history_bytes = 32 << 20;
        caches.rule("configmaps").history_bytes = Some(20 << 20);
        assert_eq!(history(&caches, "secrets"), 32 << 20, "no more than all together");
        assert_eq!(history(&caches, "configmaps"), 20 << 20);
        caches.rules.remove("configmaps");

        caches.default_size = 0;
        assert_eq!(size(&caches, "", "configmaps"), None);
        assert_eq!(size(&caches, "apps", "deployments"), Some(7));
    }

    #[test]
    fn what_a_rule_says_reaches_the_cache_and_the_rest_is_the_caches_own() {
        let own = CacherConfig::default();
        let mut rule = CacheRule::of_size(5);
        let told = rule.apply(own.clone());
        assert_eq!(told.history_min_records, 5);
        assert_eq!(
            (told.history_bytes, told.history_time, told.live_bytes),
            (own.history_bytes, own.history_time, None)
        );
        rule.history_bytes = Some(1 << 20);
        rule.history_time = Some(Duration::from_secs(9));
        rule.live_bytes = Some(3);
        let told = rule.apply(own);
        assert_eq!((told.history_bytes, told.live_bytes), (1 << 20, Some(3)));
        assert_eq!(told.history_time, Duration::from_secs(9));
    }

    #[test]
    fn indexes_are_added_once_and_only_where_objects_can_be_selected_by_them() {
        let node = Index::Field("spec.node".into());
        let app = Index::Label("app".into());
        let rule = CacheRule {
            indexes: vec![node.clone(), Index::Field("spec.other".into()), app.clone()],
            ..CacheRule::default()
        };
        let plain = rule.indexed(&kind("", "pods"));
        assert_eq!(plain.indexes(), [node.clone(), app.clone()]);
        let had = rule.indexed(&kind("", "pods").with_indexes(vec![app.clone()]));
        assert_eq!(had.indexes(), [app, node]);
    }

    // covers: storagebackend/B-NEW-05
    #[test]
    fn all_that_makes_no_sense_is_told_at_once() {
        let mut caches = CachesConfig::default();
        let faults = |caches: &CachesConfig| {
            let mut faults = Vec::new();
            caches.check(&mut faults);
            faults.iter().map(Fault::to_string).collect::<Vec<_>>()
        };
        assert_eq!(faults(&caches), [""; 0]);
        caches.rule("a").history_bytes = Some(0);
        caches.rule("b").history_time = Some(Duration::ZERO);
        caches.rule("c").history_bytes = Some(caches.total_history_bytes + 1);
        caches.rule("d").live_bytes = Some(0);
        *caches.rule("e") = CacheRule::off();
        *caches.rule("f") = CacheRule::off();
        caches.rule("f").indexes = vec![Index::Label("x".into())];
        caches.rule("g/h").size = Some(1);
        let nothing = "must be more than nothing, or no watch could be resumed";
        assert_eq!(
            faults(&caches),
            [
                format!("watch-cache-history[a]: {nothing}"),
                format!("watch-cache-history[b]: {nothing}"),
                "watch-cache-history[c]: more than the 536870912 bytes that all caches may keep together".into(),
                "watch-cache-live-bytes[d]: must be more than nothing".into(),
                "watch-cache-sizes[f]: is 0, and there is more said of its cache".into(),
                "watch-cache-sizes: \"g/h\" is no resource; write it like pods or deployments.apps".into(),
            ]
        );
        for (total, refused) in [(0, true), ((16 << 20) - 1, true), (16 << 20, false)] {
            let little = CachesConfig {
                total_history_bytes: total,
                ..CachesConfig::default()
            };
            let text =
                "watch-cache-total-history: must be at least 16777216 bytes, or a few large objects would use it up";
            let want: &[&str] = if refused { &[text] } else { &[] };
            assert_eq!(faults(&little), want, "{total}");
        }
    }
}
