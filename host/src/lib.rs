//! The env86 command: images, terminal, network and everything else that touches the host.
//!
//! | module | what |
//! | --- | --- |
//! | [`api`] | machines in other Rust programs: [`VmBuilder`], [`Vm`], [`Guest`], [`Console`] |
//! | [`cli`] | one file per subcommand; parses, calls, reports |
//! | [`config`] | flags + `image.json` -> one resolved [`config::BootConfig`] |
//! | [`image`] | image directories and archives, `image.json`, store names, kernel and initrd |
//! | [`fs`] | the guest's file tree: index, content files, what the guest changes |
//! | [`snapshot`] | snapshots as files: found, read, written without ever losing one, described |
//! | [`console`] | the serial console on the user's terminal, and what ends a session |
//! | [`control`] | machines with a name, used by other env86 processes |
//! | [`rpc`] | the service inside the guest: commands, files, connections, clock |
//! | [`run`] | one command in a guest: streams, signals, exit status |
//! | [`net`] | the guest's network, made of the host's sockets |
//! | [`shares`] | directories of the host, shown to the guest |
//! | [`vm`] | the only module that knows how the machine is built and driven |
//! | [`lockstep`] | two engines on the same guest, compared until they differ |
//! | [`clock`] | the host's clocks and random numbers |
//! | [`signals`], [`paths`], [`perf_map`], [`progress`], [`limits`], [`error`] | what their names say |
//!
//! Errors are one `thiserror` enum per module; [`error::Error`] gathers them, with the exit status
//! and the hint that the command line prints.

#[cfg(target_os = "linux")]
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
#[cfg(unix)]
pub mod control;
#[cfg(target_os = "linux")]
mod descriptors;
pub mod error;
pub mod fs;
pub mod image;
pub mod limits;
pub mod lockstep;
#[cfg(target_os = "linux")]
pub mod net;
pub mod paths;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod perf_map;
pub mod progress;
pub mod rpc;
pub mod run;
#[cfg(unix)]
pub mod shares;
pub mod signals;
pub mod snapshot;
pub mod vm;

#[cfg(target_os = "linux")]
pub use api::{ApiError, CommandOutput, Console, Guest, Vm, VmBuilder};
pub use rpc::Command;
