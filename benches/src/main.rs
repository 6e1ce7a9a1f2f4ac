//! Benchmarks of env86 against its peers.

mod kernels;

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::{CpuState, Segment, cr0, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;

/// A bus with nothing on it.
struct NoBus;

impl SystemBus for NoBus {
    fn port_in(&mut self, _: &mut Memory, _: CpuContext, _: u16, size: AccessSize) -> u32 {
        size.ones()
    }
    fn port_out(&mut self, _: &mut Memory, _: CpuContext, _: u16, _: AccessSize, _: u32) {}
    fn mmio_read(&mut self, _: &mut Memory, _: CpuContext, _: u64, size: AccessSize) -> u32 {
        size.ones()
    }
    fn mmio_write(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize, _: u32) {}
    fn interrupt_pending(&self) -> bool {
        false
    }
    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        None
    }
    fn must_exit(&self) -> bool {
        false
    }
    fn tsc(&mut self, cx: CpuContext) -> u64 {
        cx.retired
    }
    fn random(&mut self) -> u32 {
        0
    }
}

#[allow(clippy::disallowed_methods)] // measuring time is what this program is for
fn main() -> anyhow::Result<()> {
    for kernel in kernels::all()? {
        let mut mem = Memory::new(8 << 20)?;
        anyhow::ensure!(mem.dma_write(u64::from(kernels::CODE), &kernel.code));
        let mut cpu = CpuState::new();
        cpu.cr0 = cr0::PE | cr0::ET;
        for s in 0..6 {
            cpu.set_segment(s, Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: 0xC093 });
        }
        cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: 8, attr: 0xC09B });
        cpu.eip = kernels::CODE;
        let mut engine = Interpreter::new();
        let start = std::time::Instant::now();
        let exit = engine.run(&mut cpu, &mut mem, &mut NoBus, u64::MAX);
        let t = start.elapsed().as_secs_f64();
        println!(
            "{:8} {:?} eax={} {:9} instructions {:6.1} ms {:7.1} MIPS",
            kernel.name,
            exit == Exit::Shutdown,
            cpu.gpr[0],
            cpu.retired,
            t * 1e3,
            cpu.retired as f64 / t / 1e6
        );
        let _ = kernel.expect;
    }
    Ok(())
}
