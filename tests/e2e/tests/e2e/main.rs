//! Real members, real etcd tools, real kill -9.

mod load;
mod swap;
