//! The revisioned key-value contract and the one object store that turns any such backend into a Kubernetes-style storage.
