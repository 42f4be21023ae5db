//! What follows from what was observed, worked out once.
