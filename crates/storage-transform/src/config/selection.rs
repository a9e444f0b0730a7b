//! Which entry of the configuration a resource belongs to.
//!
//! The most specific rule alone decides: the exact name, else the wildcard of its group, else `*.*`. A value that the
//! chosen providers cannot read is an error, not a reason to ask a wider rule.

use std::collections::HashMap;
use std::fmt;

use super::error::BuildError;

/// The wildcard for every resource, or, as the group, every group.
const ANY: &str = "*";

/// A resource and its group, such as `deployments` in `apps`. The core group is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupResource {
    /// The group; empty for the core group.
    pub group: String,
    /// The resource, in plural.
    pub resource: String,
}

impl GroupResource {
    /// Splits a name at its first dot. Without a dot the resource is in the core group.
    pub fn parse(name: &str) -> Self {
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        Self::new(group, resource)
    }

    /// The resource of this name in this group.
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.group == ANY && self.resource == ANY
    }

    pub(super) fn any_resource(&self) -> bool {
        self.resource == ANY
    }

    pub(super) fn any_group(&self) -> bool {
        self.group == ANY
    }
}

impl fmt::Display for GroupResource {
    /// As it stands in a configuration file; the wildcard of the core group is `*.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() || self.any_resource() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// What each rule of the configuration leads to.
#[derive(Debug)]
pub(super) struct Rules<T> {
    /// By group and, in it, by resource: a lookup on every call of a store must not allocate.
    by_group: HashMap<String, HashMap<String, T>>,
}

impl<T> Rules<T> {
    pub(super) fn new() -> Self {
        Self {
            by_group: HashMap::new(),
        }
    }

    /// The value of a rule that is about to be added to, made on first use.
    ///
    /// # Errors
    ///
    /// An earlier wildcard covers the rule, so that it would never be used. A wildcard covers itself.
    pub(super) fn entry(&mut self, rule: GroupResource) -> Result<&mut T, BuildError>
    where
        T: Default,
    {
        // The narrower of the two covering rules is named.
        for wide in [
            GroupResource::new(rule.group.as_str(), ANY),
            GroupResource::new(ANY, ANY),
        ] {
            if self.get(&wide.group, &wide.resource).is_some() {
                return Err(BuildError::Masked {
                    resource: rule.to_string(),
                    rule: wide.to_string(),
                });
            }
        }
        Ok(self
            .by_group
            .entry(rule.group)
            .or_default()
            .entry(rule.resource)
            .or_default())
    }

    /// The most specific rule that covers the resource.
    pub(super) fn find(&self, group: &str, resource: &str) -> Option<&T> {
        self.get(group, resource)
            .or_else(|| self.get(group, ANY))
            .or_else(|| self.get(ANY, ANY))
    }

    fn get(&self, group: &str, resource: &str) -> Option<&T> {
        self.by_group.get(group)?.get(resource)
    }

    pub(super) fn try_map<U, E>(self, mut f: impl FnMut(&GroupResource, T) -> Result<U, E>) -> Result<Rules<U>, E> {
        let mut mapped = Rules::new();
        for (group, resources) in self.by_group {
            let mut in_group = HashMap::with_capacity(resources.len());
            for (resource, value) in resources {
                let rule = GroupResource::new(group.as_str(), resource);
                let value = f(&rule, value)?;
                in_group.insert(rule.resource, value);
            }
            mapped.by_group.insert(group, in_group);
        }
        Ok(mapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(names: &[&str]) -> Result<Rules<String>, BuildError> {
        let mut rules = Rules::new();
        for name in names {
            let rule: &mut String = rules.entry(GroupResource::parse(name))?;
            rule.push_str(name);
        }
        Ok(rules)
    }

    // covers: storage-transform/SEL-01, storage-transform/SEL-02, storage-transform/SEL-03, storage-transform/SEL-04
    #[test]
    fn the_most_specific_rule_decides() {
        let rules =
            rules(&["secrets", "widgets.example.com", "*.example.com", "*.", "*.*"]).expect("nothing is masked");
        for (group, resource, want) in [
            ("", "secrets", "secrets"),
            ("", "configmaps", "*."),
            ("example.com", "widgets", "widgets.example.com"),
            ("example.com", "secrets", "*.example.com"),
            ("apps", "deployments", "*.*"),
            ("com", "widgets.example", "*.*"),
        ] {
            assert_eq!(
                rules.find(group, resource).map(String::as_str),
                Some(want),
                "{resource}.{group}"
            );
        }
    }

    #[test]
    fn a_resource_without_a_rule_has_none() {
        let rules = rules(&["secrets", "*.apps"]).expect("nothing is masked");
        assert_eq!(rules.find("", "configmaps"), None);
        assert_eq!(rules.find("example.com", "secrets"), None);
    }

    // covers: storage-transform/SEL-07, storage-transform/SEL-09, storage-transform/SEL-10
    #[test]
    fn a_rule_behind_a_wider_one_is_refused() {
        for (names, want) in [
            (&["secrets", "secrets", "*.", "*.*"][..], None),
            (&["*.", "secrets"], Some(("secrets", "*."))),
            (&["*.", "*."], Some(("*.", "*."))),
            (&["*.foo", "pandas.foo"], Some(("pandas.foo", "*.foo"))),
            (&["*.*", "*."], Some(("*.", "*.*"))),
            (&["*.foo", "*.*", "pandas.foo"], Some(("pandas.foo", "*.foo"))),
            (&["*.*", "*.*"], Some(("*.*", "*.*"))),
        ] {
            let masked = want.map(|(resource, rule): (&str, &str)| BuildError::Masked {
                resource: resource.to_owned(),
                rule: rule.to_owned(),
            });
            assert_eq!(rules(names).err(), masked, "{names:?}");
        }
    }
}
