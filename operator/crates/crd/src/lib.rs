//! # crd: the kinds `QuorateCluster` and `QuorateMember`
#![forbid(unsafe_code)]
