//! The motherboard: which chips there are, how they are wired, and the loop that runs them.

mod acpi_tables;
mod board;
mod builder;
mod config;
pub mod loader;
// The type and its file have the name of what they are.
#[allow(clippy::module_inception)]
mod machine;
mod mailbox;
mod snapshot;

pub use board::Board;
pub use config::{Boot, MachineConfig, NetworkCard, SERIAL_PORTS, SHARES_TAG, ram_size, vga_size};
pub use loader::{LinuxBoot, LoadError};
pub use machine::{BuildError, Machine, StopReason};
pub use mailbox::{HostMessage, MAX_QUEUED_BYTES, MachineStatus, Mailbox};
pub use snapshot::{MachineSnapshot, RestoreFailure};
