//! The etcd backend of the apiserver storage stack.
