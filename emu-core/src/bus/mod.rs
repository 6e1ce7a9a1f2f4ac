//! Access sizes and the bus seen from the CPU.

use crate::mem::Memory;

/// Width of a port or memory-mapped access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AccessSize {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
}

impl AccessSize {
    /// Number of bytes.
    #[inline]
    pub const fn bytes(self) -> u32 {
        self as u32
    }

    /// All ones in this width: what a floating bus reads as.
    #[inline]
    pub const fn ones(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Dword => 0xFFFF_FFFF,
        }
    }
}

/// Everything outside CPU and memory, seen from the CPU. Implemented by the machine.
///
/// All methods get the memory so that devices can do DMA; writes they make there are seen by the
/// CPU's code caches because they go through [`Memory`].
pub trait SystemBus {
    /// IN. The value's high bits beyond `size` are ignored.
    fn port_in(&mut self, mem: &mut Memory, cx: CpuContext, port: u16, size: AccessSize) -> u32;
    /// OUT.
    fn port_out(&mut self, mem: &mut Memory, cx: CpuContext, port: u16, size: AccessSize, value: u32);
    /// Repeated IN of one port into consecutive elements; returns how many elements were read
    /// (0 = no block transfer here, use [`SystemBus::port_in`]).
    fn port_in_block(
        &mut self,
        _: &mut Memory,
        _: CpuContext,
        _port: u16,
        _: AccessSize,
        _out: &mut [u8],
    ) -> usize {
        0
    }
    /// Repeated OUT of consecutive elements to one port; returns how many elements were written.
    fn port_out_block(
        &mut self,
        _: &mut Memory,
        _: CpuContext,
        _port: u16,
        _: AccessSize,
        _data: &[u8],
    ) -> usize {
        0
    }
    /// Read of device memory.
    fn mmio_read(&mut self, mem: &mut Memory, cx: CpuContext, phys: u64, size: AccessSize) -> u32;
    /// Write to device memory.
    fn mmio_write(&mut self, mem: &mut Memory, cx: CpuContext, phys: u64, size: AccessSize, value: u32);
    /// True while the interrupt controllers hold the CPU's INTR pin high.
    fn interrupt_pending(&self) -> bool;
    /// Interrupt acknowledge cycle: the vector to deliver, `None` if the request went away.
    fn ack_interrupt(&mut self, mem: &mut Memory, cx: CpuContext) -> Option<u8>;
    /// A non-maskable interrupt is pending. Whoever implements this implements [`SystemBus::take_nmi`].
    fn nmi_pending(&self) -> bool {
        false
    }
    /// Takes a pending non-maskable interrupt.
    fn take_nmi(&mut self) -> bool {
        false
    }
    /// True if a device asked the machine to act (reset, power-off, stop): the engine must return.
    fn must_exit(&self) -> bool;
    /// True if a look between two instructions would find nothing here: the engine need not return, no
    /// NMI is pending and, if `interrupts` are enabled, no interrupt either.
    fn is_quiet(&self, interrupts: bool) -> bool {
        !(self.must_exit() || self.nmi_pending() || interrupts && self.interrupt_pending())
    }
    /// Time stamp counter before the offset the CPU adds, at `cx.retired` instructions.
    fn tsc(&mut self, cx: CpuContext) -> u64;
    /// Physical address base from IA32_APIC_BASE (MSR 1Bh); `None` = the machine has no local APIC.
    fn apic_base(&self) -> Option<u64> {
        None
    }
    /// Write of IA32_APIC_BASE. The default ignores it.
    fn set_apic_base(&mut self, _value: u64) {}
    /// A hardware random number for RDRAND.
    fn random(&mut self) -> u32;
    /// Value of the general registers EAX, EBX, ECX, EDX, ESI, EDI for back doors that look at them
    /// (VMware port); called before a 32-bit IN of port 5658h. Returns new values if it changed them.
    fn backdoor(&mut self, _regs: [u32; 6]) -> Option<[u32; 6]> {
        None
    }
    /// Level of the FERR# pin, for CR0.NE = 0: asserted by an x87 instruction that finds an exception
    /// pending (each time it is tried), released when the exception is cleared or masked. On a PC it
    /// latches IRQ 13, whose handler writes port F0h; that clears the request and asserts IGNNE# until
    /// FERR# is released.
    ///
    /// Returns IGNNE#: true lets the instruction pass in spite of the exception, false makes it wait
    /// for the interrupt. A machine without this logic lets it pass.
    fn ferr(&mut self, _asserted: bool) -> bool {
        true
    }
}

/// Where the CPU is when it accesses the bus.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuContext {
    /// Instructions completed since power-on, exact.
    pub retired: u64,
    /// True while the CPU is in virtual-8086 mode (the VBE extension looks at it).
    pub vm86: bool,
}

/// A bus with nothing on it: ports and windows read as all ones, nothing interrupts, the time stamp counter is the
/// number of instructions. For programs that run on a processor without a machine.
#[derive(Clone, Copy, Debug, Default)]
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
