//! The suites of others, as far as they need the machine or the host's CPU: `cargo xtask suite` finds and
//! builds them, the program `suite-runner` runs what it built. See `docs/suites.md`.

pub mod corpus;
pub mod firmware;
pub mod machine;
pub mod moo;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod native;
