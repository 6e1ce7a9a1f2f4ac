//! Project tasks: demo, test, fixtures, ci.

fn main() {}
