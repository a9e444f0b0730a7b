//! The storage contract of a Kubernetes-style API server: entries, keys, options, selectors, watch batches, errors.
