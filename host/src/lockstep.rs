//! Two engines on the same guest, compared until they differ.
//!
//! Both machines have the deterministic clock, so each is a function of what it starts from. They run side by
//! side in steps; behind each, registers and memory must be equal. At the first difference both are built
//! again, run to the last step that was equal, and go on in smaller steps, down to one instruction or to where
//! steps have become so small that the difference does not appear: translated code needs room for a block.

use std::fmt::Write;

use emu_core::cpu::{CpuState, paging};
use emu_core::engine::CpuEngine;
use emu_devices::machine::{Machine, StopReason};

/// Guest nanoseconds of an instruction (`vm.rs`).
const INSTRUCTION: u64 = 4;
/// Nanoseconds of the first steps.
const FIRST_STEP: u64 = INSTRUCTION << 25;
/// Each round's steps are so much smaller.
const FINER: u64 = 16;
/// Instructions listed before the difference.
const LISTED: usize = 48;

/// How a comparison ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both stopped for the same reason in the same state.
    Equal {
        /// Why they stopped; `None`: they were to.
        reason: Option<StopReason>,
        /// Instructions.
        retired: u64,
    },
    /// They differ.
    Different(Box<Difference>),
}

/// Where two machines differ.
#[derive(Debug)]
pub struct Difference {
    /// Instructions behind which they were equal.
    pub equal_at: u64,
    /// Instructions behind which they were not.
    pub different_at: u64,
    /// EIP where they were equal.
    pub eip: u32,
    /// Physical addresses of the instructions behind that point, as the first engine executes them.
    pub path: Vec<u64>,
    /// The machines' states in words.
    pub text: String,
}

/// Builds both machines anew. The first time they may talk to the world.
pub type Build<'a, A, B, F> = dyn FnMut(bool) -> Result<(Machine<A>, Machine<B>), F> + 'a;

/// Compares until both stop, `is_over` says so between two steps, or they differ; `second` then sees the
/// second machine behind the difference.
///
/// # Errors
/// What building a machine gives.
pub fn compare<A: CpuEngine, B: CpuEngine, F>(
    build: &mut Build<'_, A, B, F>,
    is_over: &mut dyn FnMut() -> bool,
    second: &mut dyn FnMut(&Machine<B>, &Difference),
) -> Result<Outcome, F> {
    let (mut good, mut bad, mut step) = (0, u64::MAX, FIRST_STEP);
    let mut first = true;
    let mut found = None;
    loop {
        let (mut a, mut b) = build(first)?;
        if good > 0 {
            a.run_until(good);
            b.run_until(good);
        }
        let mut seen = None;
        let mut last = point(&a);
        while good < bad {
            let at = good.saturating_add(step).min(bad);
            let (x, y) = (a.run_until(at), b.run_until(at));
            if x != y || differs(&a, &b) {
                seen = Some((at, last, format!("{x:?} {y:?}\n{}", describe(&a, &b))));
                break;
            }
            if x.is_some() || first && is_over() {
                return Ok(Outcome::Equal { reason: x, retired: a.retired() });
            }
            good = at;
            last = point(&a);
        }
        first = false;
        let Some((at, (equal_at, eip), text)) = seen else {
            // Gone with smaller steps: what the round before has seen is all there is.
            break;
        };
        let difference =
            Difference { equal_at, different_at: a.retired().max(b.retired()), eip, path: Vec::new(), text };
        found = Some((good, difference, b));
        bad = at;
        if step <= INSTRUCTION {
            break;
        }
        step = (step / FINER).max(INSTRUCTION);
    }
    let Some((good, mut difference, b)) = found else {
        return Ok(Outcome::Equal { reason: None, retired: 0 });
    };
    let (mut a, other) = build(false)?;
    drop(other);
    a.run_until(good);
    for n in 1..=LISTED as u64 {
        if a.retired() >= difference.different_at {
            break;
        }
        let cpu = a.cpu();
        let lin = cpu.seg[emu_core::cpu::seg::CS].base.wrapping_add(cpu.eip);
        difference.path.extend(paging::translate_quiet(cpu, a.memory(), lin));
        if a.run_until(good.saturating_add(n * INSTRUCTION)).is_some() {
            break;
        }
    }
    second(&b, &difference);
    Ok(Outcome::Different(Box::new(difference)))
}

fn point<E: CpuEngine>(machine: &Machine<E>) -> (u64, u32) {
    (machine.retired(), machine.cpu().eip)
}

/// Registers in words: a name and a value each.
fn registers(c: &CpuState) -> Vec<(String, String)> {
    const NAMES: [&str; 8] = ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"];
    const SEGMENTS: [&str; 6] = ["ES", "CS", "SS", "DS", "FS", "GS"];
    let mut all: Vec<_> =
        NAMES.iter().zip(&c.gpr).map(|(name, v)| ((*name).to_owned(), format!("{v:08x}"))).collect();
    let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
    add("EIP", format!("{:08x}", c.eip));
    add("EFLAGS", format!("{:08x}", c.eflags()));
    add("CPL", c.cpl.to_string());
    for (name, v) in [("CR0", c.cr0), ("CR2", c.cr2), ("CR3", c.cr3), ("CR4", c.cr4), ("MXCSR", c.mxcsr)] {
        add(name, format!("{v:08x}"));
    }
    add("retired", c.retired.to_string());
    add("halted", c.halted.to_string());
    add("x87", format!("{:x?}", c.x87));
    for (name, s) in SEGMENTS.iter().zip(&c.seg) {
        add(
            name,
            format!("{:04x} base {:08x} limit {:08x} attributes {:04x}", s.selector, s.base, s.limit, s.attr),
        );
    }
    for (n, v) in c.xmm.iter().enumerate() {
        add(&format!("XMM{n}"), format!("{v:032x}"));
    }
    all
}

fn differs<A: CpuEngine, B: CpuEngine>(a: &Machine<A>, b: &Machine<B>) -> bool {
    let (x, y) = (a.cpu(), b.cpu());
    x.gpr[..8] != y.gpr[..8]
        || (x.eip, x.retired, x.eflags()) != (y.eip, y.retired, y.eflags())
        || registers(x) != registers(y)
        || a.memory().ram().as_slice() != b.memory().ram().as_slice()
}

/// What is different.
fn describe<A: CpuEngine, B: CpuEngine>(a: &Machine<A>, b: &Machine<B>) -> String {
    let mut text = String::new();
    for ((name, x), (_, y)) in registers(a.cpu()).into_iter().zip(registers(b.cpu())) {
        if x != y {
            let _ = writeln!(text, "{name:<8} {x}\n         {y}");
        }
    }
    let (x, y) = (a.memory().ram().as_slice(), b.memory().ram().as_slice());
    let pages = x.chunks(4096).zip(y.chunks(4096)).enumerate().filter(|(_, (x, y))| x != y);
    for (page, (x, y)) in pages.take(8) {
        let at = x.iter().zip(y).position(|(x, y)| x != y).unwrap_or(0);
        let some = |bytes: &[u8]| {
            let bytes: Vec<_> = bytes.iter().skip(at).take(16).map(|b| format!("{b:02x}")).collect();
            bytes.join(" ")
        };
        let _ = writeln!(text, "memory {:08x} {}\n                {}", (page << 12) + at, some(x), some(y));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use emu_core::bus::SystemBus;
    use emu_core::engine::{EngineStats, Exit};
    use emu_core::interp::Interpreter;
    use emu_core::mem::Memory;
    use emu_core::time::ClockSource;
    use emu_devices::machine::{Boot, MachineConfig, Mailbox};

    use super::*;

    /// An interpreter that adds 1 to EBX at some instruction.
    struct Wrong {
        core: Interpreter,
        at: u64,
        done: bool,
    }

    impl CpuEngine for Wrong {
        fn run(
            &mut self,
            cpu: &mut CpuState,
            mem: &mut Memory,
            sys: &mut dyn SystemBus,
            budget: u64,
        ) -> Exit {
            let exit = self.core.run(cpu, mem, sys, budget);
            if cpu.retired >= self.at && !self.done {
                self.done = true;
                cpu.gpr[3] = cpu.gpr[3].wrapping_add(1);
            }
            exit
        }

        fn flush(&mut self, mem: &mut Memory) {
            self.core.flush(mem);
        }

        fn stats(&self) -> EngineStats {
            self.core.stats()
        }
    }

    /// A firmware that counts in EAX: `inc eax; jmp $-3`, in 16-bit code.
    fn machine<E: CpuEngine>(engine: E) -> Machine<E> {
        let mut bios = vec![0xF4; 0x1_0000];
        bios[0xFFF0..0xFFF4].copy_from_slice(&[0x66, 0x40, 0xEB, 0xFC]);
        let config = MachineConfig {
            memory_size: 4 << 20,
            vga_memory_size: 1 << 20,
            acpi: true,
            serial: [const { None }; 4],
            cpuid_level: 2,
            filesystem: None,
            shares: None,
            random: Box::new(|| 4),
            network_card: emu_devices::machine::NetworkCard::Ne2000,
            network: None,
            mac: [2; 6],
            preserve_mac: false,
            virtio_rng: false,
            boot: Boot::Firmware { bios, vga_bios: None },
            clock: ClockSource::Deterministic { ps_per_instruction: INSTRUCTION * 1000, wall_start_ns: 0 },
        };
        Machine::new(config, engine, Mailbox::new()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn outcome(at: u64, rounds: u32) -> Outcome {
        let mut build = |_: bool| -> Result<_, Infallible> {
            let wrong = Wrong { core: Interpreter::new(), at, done: false };
            Ok((machine(Interpreter::new()), machine(wrong)))
        };
        let mut left = rounds;
        let mut is_over = || {
            left -= 1;
            left == 0
        };
        let Ok(outcome) = compare(&mut build, &mut is_over, &mut |_, _| ());
        outcome
    }

    #[test]
    fn equal_machines_are_equal() {
        let Outcome::Equal { reason: None, retired } = outcome(u64::MAX, 1) else { panic!("they differ") };
        assert!(retired >= FIRST_STEP / INSTRUCTION / 2, "{retired}");
    }

    #[test]
    fn first_difference_is_found_to_the_instruction() {
        let Outcome::Different(d) = outcome(1_234_567, 10) else { panic!("not found") };
        assert_eq!((d.equal_at, d.different_at), (1_234_566, 1_234_567));
        assert!(d.text.contains("EBX      00000000\n         00000001"), "{}", d.text);
        assert_eq!(d.path.len(), 1);
        assert!(matches!(d.path[0] & 0xFFFF, 0xFFF0 | 0xFFF2), "{:x?}", d.path);
    }
}
