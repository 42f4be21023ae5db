//! A real Kubernetes API server on our members, and the operator under one; see `tests/`.

pub mod process;
