//! placeholder until the service exists
fn main() {}
