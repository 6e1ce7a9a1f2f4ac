//! Disks: IDE hard disks and CD-ROM, floppy drives, and what lies behind them.

pub mod backend;
pub mod floppy;
pub mod ide;
pub mod spec;

mod ata;
mod atapi;
mod busmaster;

#[cfg(test)]
mod test_rig;
