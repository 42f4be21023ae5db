//! Suites that others wrote, turned on our node; see `tests/`.
