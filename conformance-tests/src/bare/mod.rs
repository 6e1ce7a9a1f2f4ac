//! Bare-metal programs: ring 0, real mode and whatever else user code of the host's CPU cannot do.
//!
//! Each program is a multiboot kernel of many small cases. A case prints one line, `name: outcome fields`,
//! to COM1. The same image runs on our machine and on QEMU. `docs/conformance.md` says how lines are
//! compared, and how to add a case.

pub mod builder;
pub mod compare;
pub mod layout;
pub mod machine;
pub mod qemu;
mod runtime;

mod a20;
mod debug;
mod faults;
mod gates;
mod interrupts;
mod iobitmap;
mod iret;
mod msr;
mod nmi;
mod paging;
mod real_mode;
mod segments;
mod system_insns;
mod tasks;
mod vm86;

use iced_x86::IcedError;

/// A program.
#[derive(Clone, Copy)]
pub struct Program {
    /// Name, also of the files with the expected lines.
    pub name: &'static str,
    /// Makes the image.
    pub build: fn() -> Result<Vec<u8>, IcedError>,
}

const fn program(name: &'static str, build: fn() -> Result<Vec<u8>, IcedError>) -> Program {
    Program { name, build }
}

/// All programs.
pub const PROGRAMS: &[Program] = &[
    program("paging", paging::build),
    program("paging_rights", paging::build_rights),
    program("paging_pae", paging::build_pae),
    program("gates", gates::build),
    program("gates_far", gates::build_far),
    program("segments", segments::build),
    program("segments_looks", segments::build_looks),
    program("system_insns", system_insns::build),
    program("iret", iret::build),
    program("vm86", vm86::build),
    program("iobitmap", iobitmap::build),
    program("real_mode", real_mode::build),
    program("interrupts", interrupts::build),
    program("nmi", nmi::build),
    program("msr", msr::build),
    program("a20", a20::build),
    program("debug", debug::build),
    program("debug_data", debug::build_data),
    program("faults", faults::build),
    program("shutdown_no_double_fault_gate", faults::build_no_double_fault_gate),
    program("shutdown_no_idt", faults::build_no_idt),
    program("shutdown_no_stack", faults::build_no_stack),
    program("shutdown_no_tables", faults::build_no_tables),
    program("shutdown_bad_double_fault_task", faults::build_bad_double_fault_task),
    program("tasks", tasks::build),
    program("tasks_faults", tasks::build_faults),
];
