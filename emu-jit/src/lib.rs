//! Execution engine that translates guest code to host code.
