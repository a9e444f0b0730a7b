//! A durable, revisioned, watchable key-value engine in this process: Kubernetes-style storage without etcd.
