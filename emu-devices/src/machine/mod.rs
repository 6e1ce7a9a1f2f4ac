//! The motherboard: which chips there are, how they are wired, and the loop that runs them.

mod acpi_tables;
pub mod loader;
