//! Real members, real etcd tools, real kill -9.

mod api;
mod bad;
mod clock;
mod cluster;
mod command_line;
mod cost;
mod documented;
mod door;
mod etcdctl;
mod explain;
mod leases;
mod load;
mod membership;
mod metrics;
mod recover;
mod start;
mod swap;
mod upkeep;
mod watches;
