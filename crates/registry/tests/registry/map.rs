//! The resource map.

use std::sync::Arc;

use apiserver_registry::{MapError, Names, ResourceMap, ServedResource, SharedResourceMap, Store, Strategy};
use apiserver_storage_api::Storage;

use crate::common::{Fixture, Rules, Widget, machines};

fn served<S: Strategy<Widget>>(fixture: &Fixture, rules: S) -> ServedResource {
    let storage: Arc<dyn Storage> = Arc::clone(&fixture.storage) as _;
    ServedResource::new(Arc::new(Store::new(storage, rules)))
}

// covers: registry/R-MAP-01, registry/R-MAP-02, registry/R-MAP-03, registry/R-MAP-06, registry/R-RST-04
#[tokio::test]
async fn what_can_be_served_is_and_the_rest_is_reported() {
    let (widgets, machines) = (Fixture::new().await, Fixture::of(machines()).await);
    let (widget, machine) = (served(&widgets, Rules::default()), served(&machines, Rules::default()));
    assert_eq!(
        (widget.api_version().as_str(), machine.api_version().as_str()),
        ("example.com/v1", "v1")
    );
    assert_eq!(widget.names.singular, "widget");
    let mut status = widget.with_subresource("status", Arc::clone(&widget.resource));
    status.namespaced = false;
    let mut slashed = widget.clone();
    slashed.names = Names::new("wid/gets", "Widget");
    let orphan = widget
        .in_version("v2")
        .with_subresource("status", Arc::clone(&widget.resource));
    let (map, errors) = ResourceMap::builder()
        .with(status)
        .with(widget.clone())
        .with(machine)
        .with(widget.clone())
        .with(slashed)
        .with(orphan)
        .with(widget.in_version("v1beta1"))
        .build();
    let paths: Vec<_> = map
        .iter()
        .map(|own| format!("{}/{}", own.api_version(), own.path()))
        .collect();
    let want = [
        "v1/machines",
        "example.com/v1/widgets",
        "example.com/v1/widgets/status",
        "example.com/v1beta1/widgets",
    ];
    assert_eq!(paths, want);
    assert_eq!(errors.len(), 3);
    assert!(matches!(&errors[0], MapError::Name { path } if path == "wid/gets"));
    assert!(matches!(&errors[1], MapError::Duplicate { path, .. } if path == "widgets"));
    assert!(matches!(&errors[2], MapError::MissingParent { version, .. } if version == "v2"));
    let status = map.get("example.com", "v1", "widgets", Some("status")).unwrap();
    assert!(status.namespaced, "a subresource lives where its parent lives");
    assert!(map.get("example.com", "v1", "widgets", Some("scale")).is_none());
    assert!(map.get("", "v1", "widgets", None).is_none());
    assert!(!map.get("", "v1", "machines", None).unwrap().namespaced);
    assert_eq!(map.of_version("example.com", "v1").len(), 2);
    assert_eq!(map.of_version("example.com", "v3").len(), 0);
}

// covers: registry/R-MAP-04
#[tokio::test]
async fn a_replaced_map_leaves_running_requests_their_own() {
    let fixture = Fixture::new().await;
    let (map, errors) = ResourceMap::builder().with(served(&fixture, Rules::default())).build();
    assert_eq!(errors, []);
    let shared = SharedResourceMap::new(map);
    let before = shared.load();
    shared.update(|map| map.to_builder().without("example.com", "widgets").build().0);
    assert!(shared.load().get("example.com", "v1", "widgets", None).is_none());
    assert!(before.get("example.com", "v1", "widgets", None).is_some());
    shared.store(ResourceMap::default());
    assert_eq!(shared.load().iter().count(), 0);
}
