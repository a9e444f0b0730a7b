//! What was told, what watches showed and what is stored in the end, held against each other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::watcher::Followed;
use super::writer::{Told, Tried};
use super::{LOGS, items_of, log_name};

pub(super) struct Ended {
    pub(super) tried: Vec<Tried>,
    pub(super) maps: Followed,
    pub(super) accounts: Followed,
    /// Names that are stored in the end, with their versions.
    pub(super) stored: BTreeMap<String, u64>,
    /// Items of each log in the end.
    pub(super) items: BTreeMap<String, Vec<String>>,
}

impl Ended {
    pub(super) fn check_told(&self) -> Result<()> {
        let wrong: Vec<_> = self.tried.iter().flat_map(|tried| &tried.wrong).collect();
        ensure!(
            wrong.is_empty(),
            "{} wrong answers, the first: {}",
            wrong.len(),
            wrong[0]
        );
        for followed in [&self.maps, &self.accounts] {
            if let Some(wrong) = &followed.wrong {
                bail!("a watch broke its promise: {wrong}");
            }
        }
        Ok(())
    }

    /// Created and deleted objects: what was told, what watches showed and what is stored agree.
    pub(super) fn check_writes(&self) -> Result<String> {
        let mut added = BTreeMap::new();
        let mut deleted = BTreeSet::new();
        for seen in self.maps.events.iter().filter(|seen| seen.name != "end") {
            match seen.kind.as_str() {
                "ADDED" => {
                    let again = added.insert(seen.name.as_str(), seen.version);
                    ensure!(again.is_none(), "{} was added twice", seen.name);
                }
                "DELETED" => ensure!(deleted.insert(seen.name.as_str()), "{} was deleted twice", seen.name),
                other => bail!("nobody changes {}, but there is {other}", seen.name),
            }
        }
        let (mut done, mut unknown) = (0, 0);
        for tried in &self.tried {
            for (name, told) in &tried.created {
                let seen = added.get(name.as_str());
                match told {
                    Told::Done(version) => ensure!(seen == Some(version), "{name}: told {version}, seen {seen:?}"),
                    Told::NotDone => ensure!(seen.is_none(), "{name}: told that it was not created, seen {seen:?}"),
                    Told::Unknown => unknown += 1,
                }
                done += u64::from(matches!(told, Told::Done(_)));
            }
            for (name, told) in &tried.deleted {
                let seen = deleted.contains(name.as_str());
                match told {
                    Told::Done(_) => ensure!(seen, "{name}: told that it was deleted"),
                    Told::NotDone => ensure!(!seen, "{name}: told that it was not deleted"),
                    Told::Unknown => unknown += 1,
                }
                done += u64::from(matches!(told, Told::Done(_)));
            }
        }
        let tried = |name: &str| self.tried.iter().any(|tried| tried.created.contains_key(name));
        let invented = added.keys().find(|name| !tried(name));
        ensure!(invented.is_none(), "nobody created {invented:?}");
        let asked = |name: &str| self.tried.iter().any(|tried| tried.deleted.contains_key(name));
        let invented = deleted.iter().find(|name| !asked(name));
        ensure!(invented.is_none(), "nobody deleted {invented:?}");
        added.retain(|name, _| !deleted.contains(name));
        let stored = self.stored.iter().filter(|(name, _)| *name != "end");
        let stored: BTreeMap<&str, u64> = stored.map(|(name, version)| (name.as_str(), *version)).collect();
        // What every namespace has by itself was there before the watch.
        let ours = stored.into_iter().filter(|(name, _)| tried(name));
        ensure!(ours.eq(added.into_iter()), "what is stored is not what watches showed");
        ensure!(done > 0, "nothing was written");
        let connections = self.maps.connections;
        Ok(format!(
            "{done} acknowledged, {unknown} unknown; the watch was opened {connections} times"
        ))
    }

    /// Each event of a log appends one item; each item is there once, if it may be.
    pub(super) fn check_items(&self) -> Result<String> {
        let mut logs: BTreeMap<String, Vec<String>> =
            (0..LOGS).map(|log| (log_name(log), vec!["start".to_owned()])).collect();
        let mut appended = BTreeMap::new();
        for seen in self.accounts.events.iter().filter(|seen| seen.name.starts_with("log-")) {
            let items = items_of(&seen.object);
            let before = logs.get_mut(&seen.name).context("a log that nobody made")?;
            let added = items.strip_prefix(before.as_slice());
            let Some([item]) = added else {
                bail!(
                    "{} at {} is not one item more than before: {added:?}",
                    seen.name,
                    seen.version
                )
            };
            let again = appended.insert(item.clone(), seen.version);
            ensure!(again.is_none(), "{item} was appended twice");
            *before = items;
        }
        let (mut done, mut unknown) = (0, 0);
        for (item, told) in self.tried.iter().flat_map(|tried| &tried.appended) {
            let seen = appended.remove(item);
            match told {
                Told::Done(version) => {
                    done += 1;
                    ensure!(seen == Some(*version), "{item}: told {version}, seen {seen:?}");
                }
                Told::NotDone => ensure!(seen.is_none(), "{item}: told that it was not appended, seen {seen:?}"),
                Told::Unknown => unknown += 1,
            }
        }
        ensure!(appended.is_empty(), "nobody appended {appended:?}");
        for (log, items) in &logs {
            let stored = self.items.get(log);
            ensure!(stored == Some(items), "{log} is not what its watch showed");
        }
        ensure!(done > 0, "nothing was appended");
        Ok(format!("{done} acknowledged, {unknown} unknown"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::e2e::leader::watcher::Seen;

    fn seen(kind: &str, name: &str, version: u64, items: &[&str]) -> Seen {
        let secrets: Vec<Value> = items.iter().map(|item| json!({ "name": item })).collect();
        Seen {
            kind: kind.to_owned(),
            name: name.to_owned(),
            version,
            object: json!({ "secrets": secrets }),
        }
    }

    fn ended(tried: Tried, maps: Vec<Seen>, accounts: Vec<Seen>, stored: &[(&str, u64)], log: &[&str]) -> Ended {
        let followed = |events| Followed {
            events,
            ..Followed::default()
        };
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        Ended {
            tried: vec![tried],
            maps: followed(maps),
            accounts: followed(accounts),
            stored: stored
                .iter()
                .map(|(name, version)| ((*name).to_owned(), *version))
                .collect(),
            items: [(log_name(0), owned(log)), (log_name(1), owned(&["start"]))].into(),
        }
    }

    #[test]
    fn writes_that_are_lost_doubled_or_invented_are_noticed() {
        let added = || seen("ADDED", "a", 7, &[]);
        let gone = || seen("DELETED", "a", 8, &[]);
        for (created, deleted, events, stored, good) in [
            (Told::Done(7), None, vec![added()], &[("a", 7)][..], true),
            (Told::Done(7), Some(Told::Done(0)), vec![added(), gone()], &[], true),
            (Told::Done(7), Some(Told::Unknown), vec![added()], &[("a", 7)], true),
            (Told::Done(7), None, vec![], &[], false),
            (Told::Done(7), None, vec![added()], &[], false),
            (Told::Done(6), None, vec![added()], &[("a", 7)], false),
            (Told::Done(7), None, vec![added(), gone()], &[], false),
            (Told::Done(7), Some(Told::NotDone), vec![added(), gone()], &[], false),
            (Told::Done(7), Some(Told::Done(0)), vec![added()], &[("a", 7)], false),
            (Told::NotDone, None, vec![added()], &[("a", 7)], false),
            (
                Told::Done(7),
                None,
                vec![added(), seen("ADDED", "b", 9, &[])],
                &[("a", 7)],
                false,
            ),
        ] {
            let mut tried = Tried::default();
            tried.created.insert("a".to_owned(), created);
            if let Some(told) = deleted {
                tried.deleted.insert("a".to_owned(), told);
            }
            let text = format!("{created:?} {deleted:?} {events:?} {stored:?}");
            let checked = ended(tried, events, Vec::new(), stored, &[]).check_writes();
            assert_eq!(checked.is_ok(), good, "{text}: {checked:?}");
        }
    }

    #[test]
    fn items_that_are_lost_doubled_or_invented_are_noticed() {
        let one = |items: &[&str]| vec![seen("MODIFIED", "log-0", 7, items)];
        for (told, events, stored, good) in [
            (Told::Done(7), one(&["start", "a"]), &["start", "a"][..], true),
            (Told::Done(7), one(&["start", "a", "a"]), &["start", "a", "a"], false),
            (Told::Done(7), one(&["start", "b"]), &["start", "b"], false),
            (Told::Done(7), one(&["a"]), &["a"], false),
            (Told::Done(6), one(&["start", "a"]), &["start", "a"], false),
            (Told::Done(7), one(&["start", "a"]), &["start"], false),
            (Told::Done(7), Vec::new(), &["start"], false),
            (Told::NotDone, one(&["start", "a"]), &["start", "a"], false),
        ] {
            let mut tried = Tried::default();
            tried.appended.insert("a".to_owned(), told);
            let text = format!("{told:?} {events:?} {stored:?}");
            let checked = ended(tried, Vec::new(), events, &[], stored).check_items();
            assert_eq!(checked.is_ok(), good, "{text}: {checked:?}");
        }
    }
}
