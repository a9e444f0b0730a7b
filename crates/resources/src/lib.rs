//! Kubernetes' built-in kinds as data: canonical JSON, protobuf, defaults, strategic merge, tables, OpenAPI.
