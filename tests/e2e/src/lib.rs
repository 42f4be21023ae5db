//! Real members against real etcd tools; see `tests/`.
