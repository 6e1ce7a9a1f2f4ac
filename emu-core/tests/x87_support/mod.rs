//! A bare CPU with flat memory that executes single instructions.
#![allow(dead_code, reason = "each test uses its part")]

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::segment::Segment;
use emu_core::cpu::{CpuState, Exec, cr0, seg};
use emu_core::decode::iced::{Decode, decode};
use emu_core::engine::EngineStats;
use emu_core::interp::Env;
use emu_core::mem::Memory;

/// A bus with nothing on it but the FERR# pin and what requests its interrupt.
#[derive(Default)]
pub struct Bus {
    /// Levels FERR# was driven to.
    pub ferr: Vec<bool>,
    /// IGNNE#.
    pub ignne: bool,
    /// The request that FERR# latched: vector 75h.
    pub interrupt: bool,
}

impl SystemBus for Bus {
    fn port_in(&mut self, _: &mut Memory, _: CpuContext, _: u16, size: AccessSize) -> u32 {
        size.ones()
    }
    fn port_out(&mut self, _: &mut Memory, _: CpuContext, _: u16, _: AccessSize, _: u32) {}
    fn mmio_read(&mut self, _: &mut Memory, _: CpuContext, _: u64, size: AccessSize) -> u32 {
        size.ones()
    }
    fn mmio_write(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize, _: u32) {}
    fn interrupt_pending(&self) -> bool {
        self.interrupt
    }
    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        std::mem::take(&mut self.interrupt).then_some(0x75)
    }
    fn must_exit(&self) -> bool {
        false
    }
    fn tsc(&mut self, _: CpuContext) -> u64 {
        0
    }
    fn random(&mut self) -> u32 {
        0
    }
    fn ferr(&mut self, asserted: bool) -> bool {
        self.ferr.push(asserted);
        self.interrupt |= asserted && !self.ignne;
        self.ignne
    }
}

/// CPU, memory and bus.
pub struct Machine {
    pub cpu: CpuState,
    pub mem: Memory,
    pub bus: Bus,
    stats: EngineStats,
}

impl Machine {
    /// Protected mode with flat 32-bit segments at CPL 0, no paging, CR0.NE set, the unit as after FNINIT.
    pub fn new() -> Self {
        let mut cpu = CpuState::new();
        cpu.cr0 = cr0::PE | cr0::NE | cr0::ET;
        let flat = Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: 0xC093 };
        for index in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            cpu.set_segment(index, flat);
        }
        cpu.set_segment(seg::CS, Segment { selector: 8, attr: 0xC09B, ..flat });
        cpu.eip = 0x1000;
        Self { cpu, mem: Memory::new(1 << 20).unwrap(), bus: Bus::default(), stats: EngineStats::default() }
    }

    /// Real mode, segments 0 with 64 KiB.
    pub fn real() -> Self {
        let mut machine = Self::new();
        machine.cpu.cr0 &= !cr0::PE;
        for index in 0..6 {
            machine.cpu.set_segment(index, Segment::real(0, 0));
        }
        machine
    }

    /// Executes one instruction; EIP moves behind it unless it faults.
    pub fn execute(&mut self, bytes: &[u8]) -> Exec {
        // Something behind it: deciding that an encoding is undefined may take another byte.
        let padded = [bytes, &[0x90; 15]].concat();
        let Decode::Insn(insn) = decode(&padded, self.cpu.mode) else {
            panic!("{bytes:02x?} is no instruction")
        };
        let start = self.cpu.eip;
        self.cpu.eip = start.wrapping_add(u32::from(insn.len));
        let result = self.with_env(|cpu, env| (insn.exec)(cpu, env, &insn));
        if result.is_err() {
            self.cpu.eip = start;
        }
        result
    }

    /// Calls `f` as an instruction.
    pub fn with_env<R>(&mut self, f: impl FnOnce(&mut CpuState, &mut Env<'_>) -> R) -> R {
        let mut env = Env {
            mem: &mut self.mem,
            sys: &mut self.bus,
            index: 0,
            limit: 1,
            attention: false,
            touched_device: false,
            stats: &mut self.stats,
        };
        env.mem.select_view(self.cpu.cpl == 3);
        f(&mut self.cpu, &mut env)
    }

    /// Bytes of physical memory.
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        self.mem.dma_slice(at, len).unwrap().to_vec()
    }

    /// Changes physical memory.
    pub fn set_bytes(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.mem.dma_write(at, bytes));
    }
}

impl Machine {
    /// Turns paging on: the first MiB is mapped to itself, except the page at `missing`.
    pub fn enable_paging(&mut self, missing: u32) {
        const DIRECTORY: u32 = 0xF_0000;
        const TABLE: u32 = 0xF_1000;
        self.set_bytes(u64::from(DIRECTORY), &(TABLE | 7).to_le_bytes());
        for page in 0..256u32 {
            let present = u32::from(page << 12 != missing);
            let entry = page << 12 | 6 | present;
            self.set_bytes(u64::from(TABLE + 4 * page), &entry.to_le_bytes());
        }
        self.cpu.cr3 = DIRECTORY;
        self.cpu.cr0 |= cr0::PG;
        self.mem.flush_views();
    }
}
