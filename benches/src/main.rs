//! Benchmarks of env86 against its peers.

fn main() {}
