//! The operator: observe, plan, check, execute one action, write status.
#![forbid(unsafe_code)]

fn main() {}
