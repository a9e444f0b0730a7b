//! A Kubernetes-style API server and its storage stack as crates; starts on a laptop without etcd.
