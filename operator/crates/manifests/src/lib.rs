//! # manifests: Kubernetes objects as functions of a cluster and its members
#![forbid(unsafe_code)]
