//! What an instruction function can reach besides the CPU state: memory and the bus.
//!
//! All guest memory accesses of the interpreter go through [`Env::read`], [`Env::write`] and
//! [`Env::modify`] with a linear address, or through the segmented forms with an [`Insn`]'s operand.
//! Accesses that cross a page translate both halves before any effect.

use crate::bus::{AccessSize, CpuContext, SystemBus};
use crate::cpu::paging::{self, Access};
use crate::cpu::tlb::Scalar;
use crate::cpu::{CpuState, Exec, Trap, debug_regs, gpr, seg};
use crate::decode::Insn;
use crate::engine::{EngineStats, SlowCause};
use crate::mem::{Memory, PageKind};

/// Memory and bus as an instruction sees them.
pub struct Env<'a> {
    /// Physical memory.
    pub mem: &'a mut Memory,
    /// Ports, device memory, interrupt controllers.
    pub sys: &'a mut dyn SystemBus,
    /// Instructions of the running block completed before the current one.
    pub index: u32,
    /// Instructions of the running block that may run; a store into code lowers it so that the
    /// next instruction is decoded afresh.
    pub limit: u32,
    /// Something happened that the run loop must look at before the next block: interrupt flag,
    /// port or device access, halt, changed mode.
    pub attention: bool,
    /// The instruction accessed a device through memory. Unlike `limit` this does not depend on what
    /// happens to be decoded.
    pub touched_device: bool,
    /// Counters.
    pub stats: &'a mut EngineStats,
}

impl Env<'_> {
    /// Where the CPU is, for the bus.
    #[inline]
    pub fn context(&self, cpu: &CpuState) -> CpuContext {
        CpuContext { retired: cpu.retired + u64::from(self.index), vm86: cpu.vm86() }
    }

    /// The run loop looks around before the next instruction.
    #[inline(always)]
    pub fn end_block(&mut self) {
        self.attention = true;
        self.limit = 0;
    }

    // ---- linear addresses --------------------------------------------------------------------

    /// Reads a scalar at a linear address with the rights of CPL.
    #[inline(always)]
    pub fn read<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32) -> Exec<T> {
        match self.mem.fast_read(lin) {
            Some(v) => Ok(v),
            None => self.read_slow(cpu, lin, cpu.cpl == 3),
        }
    }

    /// Writes a scalar at a linear address with the rights of CPL.
    #[inline(always)]
    pub fn write<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32, value: T) -> Exec {
        if self.mem.fast_write(lin, value) { Ok(()) } else { self.write_slow(cpu, lin, value, cpu.cpl == 3) }
    }

    /// Read-modify-write. Write permission is checked before the read, so `f` runs only when the
    /// write cannot fault.
    #[inline(always)]
    pub fn modify<T: Scalar>(
        &mut self,
        cpu: &mut CpuState,
        lin: u32,
        f: impl FnOnce(&mut CpuState, T) -> T,
    ) -> Exec {
        if let Some(old) = self.mem.fast_read_for_write(lin) {
            let new = f(cpu, old);
            let written = self.mem.fast_write(lin, new);
            debug_assert!(written);
            return Ok(());
        }
        self.probe_write(cpu, lin, size_of::<T>() as u32)?;
        let old = self.read_slow(cpu, lin, cpu.cpl == 3)?;
        let new = f(cpu, old);
        self.write_slow(cpu, lin, new, cpu.cpl == 3)
    }

    /// Read with supervisor rights: descriptor tables and TSS at any CPL.
    pub fn read_system<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32) -> Exec<T> {
        match self.in_view(false, |env| env.mem.fast_read(lin)) {
            Some(v) => Ok(v),
            None => self.read_slow(cpu, lin, false),
        }
    }

    /// Write with supervisor rights.
    pub fn write_system<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32, value: T) -> Exec {
        self.write_as(cpu, lin, value, false)
    }

    /// Write with the rights of a class that need not be that of CPL: the stack of a more
    /// privileged handler.
    pub fn write_as<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32, value: T, user: bool) -> Exec {
        if self.in_view(user, |env| env.mem.fast_write(lin, value)) {
            Ok(())
        } else {
            self.write_slow(cpu, lin, value, user)
        }
    }

    /// Checks that `len` bytes (1 to 4096) can be written with the rights of a class; nothing is.
    pub fn probe_write_as(&mut self, cpu: &mut CpuState, lin: u32, len: u32, user: bool) -> Exec {
        let last = lin.wrapping_add(len.max(1) - 1);
        let fast =
            |env: &mut Self| env.mem.views.write_entry(lin) != 0 && env.mem.views.write_entry(last) != 0;
        if self.in_view(user, fast) {
            return Ok(());
        }
        paging::translate(cpu, self.mem, lin, Access::Write, user)?;
        if (last ^ lin) >> 12 != 0 {
            paging::translate(cpu, self.mem, last & !0xFFF, Access::Write, user)?;
        }
        Ok(())
    }

    /// Does something with the view of a class selected.
    #[inline(always)]
    fn in_view<R>(&mut self, user: bool, f: impl FnOnce(&mut Self) -> R) -> R {
        let selected = self.mem.views.is_user();
        self.mem.select_view(user);
        let result = f(self);
        self.mem.select_view(selected);
        result
    }

    /// Checks that `len` bytes (at most 4096) can be written; nothing is.
    pub fn probe_write(&mut self, cpu: &mut CpuState, lin: u32, len: u32) -> Exec {
        let user = cpu.cpl == 3;
        paging::translate(cpu, self.mem, lin, Access::Write, user)?;
        let last = lin.wrapping_add(len.max(1) - 1);
        if (last ^ lin) >> 12 != 0 {
            paging::translate(cpu, self.mem, last & !0xFFF, Access::Write, user)?;
        }
        Ok(())
    }

    /// Checks that `len` bytes (at most 4096) can be read.
    pub fn probe_read(&mut self, cpu: &mut CpuState, lin: u32, len: u32) -> Exec {
        let user = cpu.cpl == 3;
        paging::translate(cpu, self.mem, lin, Access::Read, user)?;
        let last = lin.wrapping_add(len.max(1) - 1);
        if (last ^ lin) >> 12 != 0 {
            paging::translate(cpu, self.mem, last & !0xFFF, Access::Read, user)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32, user: bool) -> Exec<T> {
        self.stats.slow_accesses += 1;
        let size = size_of::<T>() as u32;
        if cpu.debug_armed {
            debug_regs::note_data_access(cpu, lin, size, false);
        }
        let here = 0x1000 - (lin & 0xFFF);
        let phys = paging::translate(cpu, self.mem, lin, Access::Read, user)?;
        self.count_slow(phys, here < size, false);
        if here >= size {
            return Ok(self.read_phys(cpu, phys));
        }
        let phys2 = paging::translate(cpu, self.mem, lin.wrapping_add(here), Access::Read, user)?;
        let mut bytes = [0u8; 16];
        for i in 0..size {
            let at = if i < here { phys + u64::from(i) } else { phys2 + u64::from(i - here) };
            bytes[i as usize] = self.read_phys::<u8>(cpu, at);
        }
        Ok(T::from_le(&bytes))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Scalar>(&mut self, cpu: &mut CpuState, lin: u32, value: T, user: bool) -> Exec {
        self.stats.slow_accesses += 1;
        let size = size_of::<T>() as u32;
        let here = 0x1000 - (lin & 0xFFF);
        let phys = paging::translate(cpu, self.mem, lin, Access::Write, user)?;
        self.count_slow(phys, here < size, true);
        if here >= size {
            self.write_phys(cpu, phys, value);
        } else {
            let phys2 = paging::translate(cpu, self.mem, lin.wrapping_add(here), Access::Write, user)?;
            let mut bytes = [0u8; 16];
            value.to_le(&mut bytes);
            for i in 0..size {
                let at = if i < here { phys + u64::from(i) } else { phys2 + u64::from(i - here) };
                self.write_phys(cpu, at, bytes[i as usize]);
            }
        }
        if cpu.debug_armed {
            debug_regs::note_data_access(cpu, lin, size, true);
        }
        Ok(())
    }

    /// Counts an access that was not fast and is allowed.
    fn count_slow(&mut self, phys: u64, crosses: bool, write: bool) {
        let cause = if crosses {
            SlowCause::Crossing
        } else if self.mem.kind(phys >> 12) == PageKind::Device {
            SlowCause::Device
        } else if write && self.mem.flags().code_lines((phys >> 12) as u32) != 0 {
            SlowCause::Code
        } else {
            SlowCause::Fill
        };
        self.stats.slow[cause as usize] += 1;
    }

    /// Reads physical memory: RAM, ROM or a device.
    pub fn read_phys<T: Scalar>(&mut self, cpu: &CpuState, phys: u64) -> T {
        if self.mem.kind(phys >> 12) != PageKind::Device
            && let Some(v) = self.mem.phys_read(phys)
        {
            return v;
        }
        let cx = self.context(cpu);
        self.end_block();
        self.touched_device = true;
        let mut bytes = [0u8; 16];
        match size_of::<T>() {
            1 => bytes[0] = self.sys.mmio_read(self.mem, cx, phys, AccessSize::Byte) as u8,
            2 => {
                let v = self.sys.mmio_read(self.mem, cx, phys, AccessSize::Word) as u16;
                bytes[..2].copy_from_slice(&v.to_le_bytes());
            }
            n => {
                for i in (0..n).step_by(4) {
                    let v = self.sys.mmio_read(self.mem, cx, phys + i as u64, AccessSize::Dword);
                    bytes[i..i + 4].copy_from_slice(&v.to_le_bytes());
                }
            }
        }
        T::from_le(&bytes)
    }

    /// Writes physical memory: RAM (code there is dropped), ROM (ignored) or a device.
    pub fn write_phys<T: Scalar>(&mut self, cpu: &CpuState, phys: u64, value: T) {
        if self.mem.kind(phys >> 12) != PageKind::Device {
            self.mem.phys_write(phys, value);
            if self.mem.has_code_writes() {
                self.end_block();
            }
            return;
        }
        let cx = self.context(cpu);
        let mut bytes = [0u8; 16];
        value.to_le(&mut bytes);
        let dword = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        match size_of::<T>() {
            1 => self.sys.mmio_write(self.mem, cx, phys, AccessSize::Byte, u32::from(bytes[0])),
            2 => self.sys.mmio_write(self.mem, cx, phys, AccessSize::Word, dword(0) & 0xFFFF),
            n => {
                for i in (0..n).step_by(4) {
                    self.sys.mmio_write(self.mem, cx, phys + i as u64, AccessSize::Dword, dword(i));
                }
            }
        }
        self.end_block();
        self.touched_device = true;
    }

    // ---- segmented addresses -----------------------------------------------------------------

    /// Linear address of `offset` in segment `s` for reading `size` bytes.
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for the stack segment.
    #[inline(always)]
    pub fn linear_read(&mut self, cpu: &CpuState, s: u8, offset: u32, size: u32) -> Exec<u32> {
        // An access that wraps at 4 GiB violates even a flat segment's limit.
        if cpu.flat_read >> s & 1 != 0 && offset <= 0u32.wrapping_sub(size) {
            Ok(offset)
        } else {
            check_read(cpu, s, offset, size)
        }
    }

    /// Linear address of `offset` in segment `s` for writing `size` bytes.
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for the stack segment.
    #[inline(always)]
    pub fn linear_write(&mut self, cpu: &CpuState, s: u8, offset: u32, size: u32) -> Exec<u32> {
        if cpu.flat_write >> s & 1 != 0 && offset <= 0u32.wrapping_sub(size) {
            Ok(offset)
        } else {
            check_write(cpu, s, offset, size)
        }
    }

    /// Reads the instruction's memory operand if segment and page are unremarkable. An access that
    /// wraps at 4 GiB crosses a page, so it is never fast.
    #[inline(always)]
    pub fn fast_load<T: Scalar>(&self, cpu: &CpuState, i: &Insn) -> Option<T> {
        if cpu.flat_read >> (i.seg & 7) & 1 == 0 {
            return None;
        }
        self.mem.fast_read(i.ea(cpu))
    }

    /// Writes the instruction's memory operand if segment and page are unremarkable.
    #[inline(always)]
    #[must_use]
    pub fn fast_store<T: Scalar>(&mut self, cpu: &CpuState, i: &Insn, value: T) -> bool {
        cpu.flat_write >> (i.seg & 7) & 1 != 0 && self.mem.fast_write(i.ea(cpu), value)
    }

    /// Read-modify-write of the memory operand if segment and page are unremarkable.
    #[inline(always)]
    #[must_use]
    pub fn fast_modify<T: Scalar>(
        &mut self,
        cpu: &mut CpuState,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, T) -> T,
    ) -> bool {
        if cpu.flat_write >> (i.seg & 7) & 1 == 0 {
            return false;
        }
        let lin = i.ea(cpu);
        let Some(old) = self.mem.fast_read_for_write(lin) else { return false };
        let new = f(cpu, old);
        self.mem.fast_write(lin, new)
    }

    /// Pushes if the stack is a flat 32-bit one and its page unremarkable.
    #[inline(always)]
    #[must_use]
    pub fn fast_push<T: Scalar>(&mut self, cpu: &mut CpuState, value: T) -> bool {
        let sp = cpu.gpr[gpr::ESP].wrapping_sub(size_of::<T>() as u32);
        if !cpu.mode.stack32() || cpu.flat_write >> seg::SS & 1 == 0 || !self.mem.fast_write(sp, value) {
            return false;
        }
        cpu.gpr[gpr::ESP] = sp;
        true
    }

    /// Reads the top of a flat 32-bit stack if its page is unremarkable; ESP does not change.
    #[inline(always)]
    pub fn fast_top<T: Scalar>(&self, cpu: &CpuState) -> Option<T> {
        if !cpu.mode.stack32() || cpu.flat_read >> seg::SS & 1 == 0 {
            return None;
        }
        self.mem.fast_read(cpu.gpr[gpr::ESP])
    }

    /// Reads the instruction's memory operand.
    #[inline(always)]
    pub fn load<T: Scalar>(&mut self, cpu: &mut CpuState, i: &Insn) -> Exec<T> {
        let lin = self.linear_read(cpu, i.seg, i.ea(cpu), size_of::<T>() as u32)?;
        self.aligned(cpu, lin, size_of::<T>() as u32)?;
        self.read(cpu, lin)
    }

    /// Writes the instruction's memory operand.
    #[inline(always)]
    pub fn store<T: Scalar>(&mut self, cpu: &mut CpuState, i: &Insn, value: T) -> Exec {
        let lin = self.linear_write(cpu, i.seg, i.ea(cpu), size_of::<T>() as u32)?;
        self.aligned(cpu, lin, size_of::<T>() as u32)?;
        self.write(cpu, lin, value)
    }

    /// Read-modify-write of the instruction's memory operand; see [`Env::modify`].
    #[inline(always)]
    pub fn update<T: Scalar>(
        &mut self,
        cpu: &mut CpuState,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, T) -> T,
    ) -> Exec {
        let lin = self.linear_write(cpu, i.seg, i.ea(cpu), size_of::<T>() as u32)?;
        self.aligned(cpu, lin, size_of::<T>() as u32)?;
        self.modify(cpu, lin, f)
    }

    /// #AC check of CPL 3 code with EFLAGS.AC and CR0.AM.
    #[inline(always)]
    pub fn aligned(&self, cpu: &CpuState, lin: u32, size: u32) -> Exec {
        if cpu.alignment_checked && lin & (size - 1) != 0 { Err(Trap::with_error(17, 0)) } else { Ok(()) }
    }

    // ---- stack -------------------------------------------------------------------------------

    /// Pushes a 16- or 32-bit value; ESP changes only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Scalar>(&mut self, cpu: &mut CpuState, value: T) -> Exec {
        let sp = cpu.sp().wrapping_sub(size_of::<T>() as u32);
        let sp = if cpu.mode.stack32() { sp } else { sp & 0xFFFF };
        let lin = self.linear_write(cpu, seg::SS as u8, sp, size_of::<T>() as u32)?;
        self.aligned(cpu, lin, size_of::<T>() as u32)?;
        self.write(cpu, lin, value)?;
        cpu.set_sp(sp);
        Ok(())
    }

    /// Reads the value at `offset` bytes above the top of the stack; ESP does not change.
    #[inline(always)]
    pub fn peek<T: Scalar>(&mut self, cpu: &mut CpuState, offset: u32) -> Exec<T> {
        let sp = cpu.sp().wrapping_add(offset);
        let sp = if cpu.mode.stack32() { sp } else { sp & 0xFFFF };
        let lin = self.linear_read(cpu, seg::SS as u8, sp, size_of::<T>() as u32)?;
        self.aligned(cpu, lin, size_of::<T>() as u32)?;
        self.read(cpu, lin)
    }

    /// Pops a 16- or 32-bit value.
    #[inline(always)]
    pub fn pop<T: Scalar>(&mut self, cpu: &mut CpuState) -> Exec<T> {
        let v = self.peek(cpu, 0)?;
        cpu.set_sp(cpu.sp().wrapping_add(size_of::<T>() as u32));
        Ok(v)
    }
}

#[cold]
#[inline(never)]
fn violation(s: u8) -> Trap {
    if usize::from(s) == seg::SS { Trap::SS0 } else { Trap::GP0 }
}

#[inline(never)]
fn check_read(cpu: &CpuState, s: u8, offset: u32, size: u32) -> Exec<u32> {
    match cpu.seg.get(usize::from(s)) {
        Some(seg) if seg.is_readable() && seg.contains(offset, size) => Ok(seg.base.wrapping_add(offset)),
        _ => Err(violation(s)),
    }
}

#[inline(never)]
fn check_write(cpu: &CpuState, s: u8, offset: u32, size: u32) -> Exec<u32> {
    match cpu.seg.get(usize::from(s)) {
        // In real mode and VM86 every segment may be written, CS included: its cache says "data".
        Some(seg) if seg.is_writable() && seg.contains(offset, size) => Ok(seg.base.wrapping_add(offset)),
        Some(seg) if cpu.real_or_vm86() && usize::from(s) == seg::CS && seg.contains(offset, size) => {
            Ok(seg.base.wrapping_add(offset))
        }
        _ => Err(violation(s)),
    }
}
