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
mod load;
mod membership;
mod recover;
mod start;
mod swap;
