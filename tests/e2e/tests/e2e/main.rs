//! Real members, real etcd tools, real kill -9.

mod bad;
mod api;
mod cluster;
mod etcdctl;
mod load;
mod membership;
mod swap;
