//! Our CPU, set up like a 32-bit Linux process on the host: ring 3, flat segments, paging with only
//! code and arena mapped.

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::{CpuState, Segment, TrapKind, cr0, cr4, seg};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;

use crate::fp::FpState;
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// A bus with nothing on it.
pub struct NoBus;

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

/// Our CPU and memory.
pub struct Subject {
    cpu: CpuState,
    mem: Memory,
    engine: Interpreter,
}

const DIRECTORY: u64 = 0x8_0000;
const TABLE: u64 = 0x8_1000;

impl Subject {
    /// A fresh one.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new() -> std::io::Result<Self> {
        let mut mem = Memory::new(8 << 20)?;
        let mut pages = vec![0u8; 4096];
        for page in [CODE, CODE + 0x1000].into_iter().chain((ARENA..ARENA + ARENA_LEN).step_by(4096)) {
            let slot = (page >> 12) as usize * 4;
            // present, writable, user, accessed, dirty
            pages[slot..slot + 4].copy_from_slice(&(page | 0x67).to_le_bytes());
        }
        assert!(mem.dma_write(TABLE, &pages));
        assert!(mem.dma_write(DIRECTORY, &(TABLE as u32 | 0x67).to_le_bytes()));
        Ok(Self { cpu: CpuState::new(), mem, engine: Interpreter::new() })
    }

    /// Runs `code`, which has at most `count` instructions, from the given state to its end.
    pub fn run(&mut self, code: &[u8], count: u32, before: &State) -> Outcome {
        assert!(self.mem.dma_write(u64::from(CODE), code));
        assert!(self.mem.dma_write(u64::from(ARENA), &before.arena));
        let cpu = &mut self.cpu;
        *cpu = CpuState::new();
        cpu.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP | cr0::AM;
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.cr3 = DIRECTORY as u32;
        for s in 0..6 {
            cpu.set_segment(s, Segment { base: 0, limit: u32::MAX, selector: 0x2B, attr: 0xC0F3 });
        }
        cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: 0x23, attr: 0xC0FB });
        cpu.cpl = 3;
        self.mem.flush_views();
        self.mem.select_view(true);
        cpu.gpr[..8].copy_from_slice(&before.gpr);
        cpu.set_eflags(before.eflags | 0x202);
        cpu.update_alignment_check();
        before.fp.load(cpu);
        cpu.eip = CODE;
        let mut fault = None;
        let end = CODE + code.len() as u32;
        for _ in 0..count {
            if cpu.eip == end {
                break;
            }
            // A repeated string instruction takes several passes.
            let mut passes = 0;
            let result = loop {
                let r = self.engine.step(cpu, &mut self.mem, &mut NoBus);
                passes += 1;
                if r != Err(TrapKind::Restart) || passes > 1_000_000 {
                    break r;
                }
            };
            if let Err(trap) = result {
                let (vector, error) = match trap {
                    TrapKind::Exception(e) => (e.vector, u32::from(e.error.unwrap_or(0))),
                    TrapKind::Restart | TrapKind::Shutdown => (0xFF, 0),
                };
                let cr2 = if vector == 14 { cpu.fault_address } else { 0 };
                fault = Some(Fault { vector, error, cr2, eip: cpu.eip });
                break;
            }
        }
        let mut gpr = [0; 8];
        gpr.copy_from_slice(&cpu.gpr[..8]);
        let mut arena = vec![0; ARENA_LEN as usize];
        assert!(self.mem.dma_read(u64::from(ARENA), &mut arena));
        Outcome { state: State { gpr, eflags: cpu.eflags(), fp: FpState::of(cpu), arena }, fault }
    }
}
