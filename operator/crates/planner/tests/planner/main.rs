//! The planner in a world: stories, steps tables, and a search through everything that can happen.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod model;
mod script;
mod world;
