//! `boot --lockstep`: the interpreter and the translator on the same guest until they differ.

use crate::config::BootConfig;
use crate::image::Image;
use crate::image::kernel_source::KernelFlags;
use crate::snapshot::locate::Opened;

use super::report::Reporter;

/// Opens the snapshot that the machine starts from, if it does.
type Find<'a> = dyn Fn() -> anyhow::Result<Option<Opened>> + 'a;

/// Compares. Exit status: 0 if they are equal to the end, 1 if they differ, 124 after the time is up.
///
/// # Errors
/// Whatever keeps a machine from being built.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn run(
    _: &Image,
    _: &Find<'_>,
    _: &BootConfig,
    _: &KernelFlags,
    _: Reporter,
) -> anyhow::Result<u8> {
    Err(crate::error::Error::from(crate::vm::VmError::Engine("jit")).into())
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use translated::run;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod translated {
    use std::io::{self, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use emu_core::interp::Interpreter;
    use emu_devices::machine::Machine;
    use emu_devices::serial::{NullSink, SerialSink};
    use emu_jit::Jit;

    use super::super::start;
    use super::*;
    use crate::clock;
    use crate::error::{Error, FAILURE};
    use crate::lockstep::{self, Difference, Outcome};
    use crate::vm;

    /// Exit status after `--timeout`.
    const TIMED_OUT: u8 = 124;

    /// Shows what the guest prints, and looks for a text in it.
    struct Console {
        line: Vec<u8>,
        wanted: Option<Vec<u8>>,
        found: Arc<AtomicBool>,
    }

    impl SerialSink for Console {
        fn write(&mut self, byte: u8) {
            self.line.push(byte);
            if self.wanted.as_ref().is_some_and(|wanted| self.line.ends_with(wanted)) {
                self.found.store(true, Ordering::Relaxed);
            }
            if byte == b'\n' {
                self.flush();
            }
        }

        fn flush(&mut self) {
            // A comparison goes on without anybody to look at it.
            let mut out = io::stdout().lock();
            let _ = out.write_all(&self.line).and_then(|()| out.flush());
            self.line.clear();
        }
    }

    /// See the other one.
    pub(in super::super) fn run(
        image: &Image,
        find: &Find<'_>,
        config: &BootConfig,
        flags: &KernelFlags,
        reporter: Reporter,
    ) -> anyhow::Result<u8> {
        let config = BootConfig { clock: crate::config::ClockMode::Deterministic, ..config.clone() };
        let found = Arc::new(AtomicBool::new(false));
        let begin = clock::now();
        let timed_out = || {
            let elapsed = clock::now().saturating_duration_since(begin);
            config.session.timeout.is_some_and(|limit| elapsed >= limit)
        };
        let mut build = |first: bool| -> anyhow::Result<(Machine<Interpreter>, Machine<Jit>)> {
            let spec = |console| start::spec(image, find()?, &config, flags, console, None, None, reporter);
            let console: Box<dyn SerialSink> = match first {
                true => Box::new(Console {
                    line: Vec::new(),
                    wanted: config.session.exit_on.clone(),
                    found: found.clone(),
                }),
                false => Box::new(NullSink),
            };
            let a = vm::build_deterministic(spec(Box::new(NullSink))?, Interpreter::new());
            let spec = spec(console)?;
            let jit = vm::build_translator(&spec).map_err(Error::from)?;
            let b = vm::build_deterministic(spec, jit);
            Ok((a.map_err(Error::from)?, b.map_err(Error::from)?))
        };
        let mut listings = String::new();
        let mut list = |machine: &Machine<Jit>, difference: &Difference| {
            for listing in machine.engine().listings(machine.memory()) {
                let own = u64::from(listing.phys)..u64::from(listing.phys) + listing.guest.len() as u64;
                if difference.path.iter().any(|at| own.contains(at)) {
                    listings += &format!(
                        "block at {:08x}\n{}{}",
                        listing.phys, listing.guest_text, listing.host_text
                    );
                }
            }
        };
        let mut is_over = || found.load(Ordering::Relaxed) || timed_out();
        match lockstep::compare(&mut build, &mut is_over, &mut list)? {
            Outcome::Equal { retired, .. } => {
                reporter.text(&format!("equal for {retired} instructions"));
                Ok(if timed_out() { TIMED_OUT } else { 0 })
            }
            Outcome::Different(d) => {
                let path: Vec<_> = d.path.iter().map(|at| format!("{at:x}")).collect();
                reporter.failure(
                    &format!("The engines differ between instruction {} and {}", d.equal_at, d.different_at),
                    None,
                );
                reporter.text(&format!(
                    "equal up to EIP {:08x}, then (interpreter first, physical addresses) {}\n{}\n{listings}",
                    d.eip,
                    path.join(" "),
                    d.text
                ));
                Ok(FAILURE)
            }
        }
    }
}
