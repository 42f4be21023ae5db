//! Real members, real etcd tools, real kill -9.

mod cluster;
mod load;
mod swap;
