//! Descriptions of kinds that implement kube's `Resource`: `k8s-openapi` types and `#[derive(CustomResource)]`.

use std::borrow::Cow;

use apiserver_storage_api::{ResourceInfo, ResourceScope};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};

/// Where the objects of a type live, for scopes that are known when it is compiled.
///
/// Kube's dynamic scope says nothing, so there is no implementation for it.
pub trait StaticScope {
    /// The scope.
    const SCOPE: ResourceScope;
}

impl StaticScope for NamespaceResourceScope {
    const SCOPE: ResourceScope = ResourceScope::Namespaced;
}

impl StaticScope for ClusterResourceScope {
    const SCOPE: ResourceScope = ResourceScope::Cluster;
}

/// The description of a kind in the version that the type is written for.
///
/// ```
/// use k8s_openapi::api::core::v1::{ConfigMap, Node};
///
/// let config_maps = apiserver_registry::resource_info::<ConfigMap>();
/// assert_eq!((config_maps.resource(), config_maps.is_namespaced()), ("configmaps", true));
/// assert!(!apiserver_registry::resource_info::<Node>().is_namespaced());
/// ```
pub fn resource_info<K>() -> ResourceInfo
where
    K: kube::Resource<DynamicType = ()>,
    K::Scope: StaticScope,
{
    let text: [Cow<'static, str>; 4] = [K::group(&()), K::version(&()), K::plural(&()), K::kind(&())];
    let [group, version, plural, kind] = &text;
    ResourceInfo::new(group, version, plural, kind, <K::Scope as StaticScope>::SCOPE)
}
