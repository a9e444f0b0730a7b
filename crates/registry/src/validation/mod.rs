//! What must hold of the metadata of every object, as pure functions with upstream's texts.
//!
//! [`Store`](crate::Store) runs [`object_meta`] and [`object_meta_update`] on every write; strategies need them only
//! to check metadata inside of something else (a pod template).

mod meta;
mod names;

pub use self::meta::{
    annotations, field_manager, finalizers, labels, managed_fields, object_meta, object_meta_update, owner_references,
    qualified_finalizers,
};
pub use self::names::{
    is_dns1123_label, is_dns1123_subdomain, label_value_faults, name_is_dns_label, name_is_dns_subdomain,
    name_is_dns1035_label, name_is_path_segment, qualified_name_faults,
};
