//! # planner: what is observed in, at most one action out, with the reasons of all that was not done
#![forbid(unsafe_code)]
