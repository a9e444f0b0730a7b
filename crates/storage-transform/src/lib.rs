//! Encryption at rest in Kubernetes' own stored format: identity, AES-GCM, prefix dispatch, rotation.
