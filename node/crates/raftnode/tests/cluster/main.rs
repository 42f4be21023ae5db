//! Clusters of nodes in memory: scripts, the lines of what raft-rs gets wrong, hostile messages.

mod gate;
mod harness;
mod lines;
mod script;
