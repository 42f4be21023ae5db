//! A real Kubernetes API server on our members; see `tests/`.
