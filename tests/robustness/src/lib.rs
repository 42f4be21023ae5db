//! Histories, and walks through memberships, under faults; see `tests/`.
