//! What storage must know of the recorded kinds: built-in ones by the data of the project, custom ones by the
//! definitions that were recorded with their objects.

use std::sync::{Arc, LazyLock};

use apiserver_resources::crd::{self, CustomKind};
use apiserver_resources::normalizer;
use apiserver_resources::types::TypeRegistry;
use apiserver_storage_api::{Key, ResourceInfo};

use crate::data::{self, Object};

/// The kind of a resource.
pub(crate) fn info(group: &str, resource: &str) -> ResourceInfo {
    let entries = TypeRegistry::builtin().resources().iter();
    let mut own = entries.filter(|entry| entry.group == group && entry.resource == resource);
    match own.next() {
        Some(entry) => normalizer::resource_info(entry),
        None => custom(group, resource),
    }
}

/// The recorded definitions.
static DEFINITIONS: LazyLock<Vec<Object>> = LazyLock::new(|| {
    let mut objects = data::objects();
    objects.retain(|object| object.resource == "customresourcedefinitions");
    objects
});

fn custom(group: &str, resource: &str) -> ResourceInfo {
    let definition = DEFINITIONS
        .iter()
        .find(|object| object.key.ends_with(&format!("/{resource}.{group}")))
        .unwrap_or_else(|| panic!("nobody knows {resource} of {group:?}"));
    let kind = CustomKind::parse(&definition.served[0]).expect("a sound definition");
    crd::resource_info(&Arc::new(kind), 1).expect("one version is stored")
}

/// The key of a kind behind a recorded one, which has the prefix of the cluster.
pub(crate) fn key(info: &ResourceInfo, recorded: &str) -> Key {
    let key = recorded.strip_prefix("/registry").expect("the prefix of the cluster");
    Key::new(info.prefix(), key).unwrap_or_else(|error| panic!("{recorded}: {error}"))
}
