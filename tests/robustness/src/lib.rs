//! Histories under faults; see `tests/`.
