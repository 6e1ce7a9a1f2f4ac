//! Local APIC of the one processor (Intel SDM volume 3, chapter "Advanced Programmable Interrupt
//! Controller"), memory mapped. Only present on machines with ACPI.
//!
//! The timer's input clock is 1 GHz, so that one tick before the divider is one nanosecond. Version
//! and entry count are those v86 shows (14h, six LVT entries). TSC-deadline mode is not offered.
//!
//! After each access the board takes [`LocalApic::take_eoi`] to the I/O APIC and looks at
//! [`LocalApic::output`].

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;
use emu_core::time::VmTime;

use super::{ApicMessage, DeliveryMode, register_bytes, replace_bytes};
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

mod saved;

const ID: u64 = 0x020;
const VERSION: u64 = 0x030;
const TPR: u64 = 0x080;
const PPR: u64 = 0x0A0;
const EOI: u64 = 0x0B0;
const LDR: u64 = 0x0D0;
const DFR: u64 = 0x0E0;
const SVR: u64 = 0x0F0;
const ISR: u64 = 0x100;
const TMR: u64 = 0x180;
const IRR: u64 = 0x200;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_THERMAL: u64 = 0x330;
const LVT_PERF: u64 = 0x340;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

/// Integrated APIC, six LVT entries.
const VERSION_VALUE: u32 = 0x0005_0014;

const SVR_ENABLE: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x3FF;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TIMER_PERIODIC: u32 = 1 << 17;
const LVT_REMOTE_IRR: u32 = 1 << 14;
const ICR_LEVEL: u32 = 1 << 15;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_LOGICAL: u32 = 1 << 11;
const ICR_DELIVERY_STATUS: u32 = 1 << 12;
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;

/// Vectors below this one are reserved for exceptions.
const FIRST_VECTOR: u8 = 16;

/// Shortest time between two timer interrupts: a guest cannot make the host do nothing else.
const MIN_TIMER_NS: u64 = 20_000;

/// 256 bits, one per vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    fn highest(&self) -> Option<u8> {
        let (i, word) = self.0.iter().enumerate().rev().find(|(_, w)| **w != 0)?;
        Some((i as u8) * 32 + (31 - word.leading_zeros() as u8))
    }

    /// The 32 bits at register offset `offset` (16 bytes apart).
    fn word(&self, offset: u64) -> u32 {
        self.0[(offset >> 4) as usize & 7]
    }
}

/// Count-down timer, computed from guest time.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    /// Divide configuration register.
    divide: u32,
    /// Initial count register, reloaded in periodic mode.
    initial: u32,
    /// Count at time `since`.
    count: u32,
    since: VmTime,
}

impl Timer {
    /// Nanoseconds per count as a power of two.
    fn shift(&self) -> u32 {
        match (self.divide & 3) | ((self.divide >> 1) & 4) {
            7 => 0,
            v => v + 1,
        }
    }

    /// Counts that passed since `since`.
    fn elapsed(&self, now: VmTime) -> u64 {
        now.saturating_sub(self.since) >> self.shift()
    }

    fn is_running(&self) -> bool {
        self.initial != 0 && self.count != 0
    }

    fn current(&self, now: VmTime, periodic: bool) -> u32 {
        let elapsed = self.elapsed(now);
        match u64::from(self.count).checked_sub(elapsed) {
            Some(left) if left > 0 => left as u32,
            _ if periodic && self.is_running() => {
                let late = elapsed - u64::from(self.count);
                self.initial - (late % u64::from(self.initial)) as u32
            }
            _ => 0,
        }
    }

    /// Moves to `now`; true if zero was reached on the way. The phase is kept.
    fn advance(&mut self, now: VmTime, periodic: bool) -> bool {
        let elapsed = self.elapsed(now);
        let fired = self.is_running() && elapsed >= u64::from(self.count);
        self.count = self.current(now, periodic);
        self.since = self.since.saturating_add(elapsed << self.shift());
        fired
    }

    fn deadline(&self) -> Option<VmTime> {
        self.is_running().then(|| self.since.saturating_add(u64::from(self.count) << self.shift()))
    }
}

/// The chip.
#[derive(Clone, Debug)]
pub struct LocalApic {
    device: DeviceId,
    id: u8,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// Errors since the last write of ESR, and what that write made readable.
    errors: u32,
    esr: u32,
    icr_low: u32,
    icr_high: u32,
    lvt_timer: u32,
    lvt_thermal: u32,
    lvt_perf: u32,
    lvt_lint0: u32,
    lvt_lint1: u32,
    lvt_error: u32,
    timer: Timer,
    eoi: Option<u8>,
    nmi: bool,
}

impl Default for LocalApic {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalApic {
    /// Where it is mapped at power-up: `(first byte, length)`.
    pub const MMIO: &[(u64, u64)] = &[(0xFEE0_0000, 0x1000)];

    /// Powered up: software-disabled, everything masked.
    pub fn new() -> Self {
        Self {
            device: 0,
            id: 0,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xFE,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            errors: 0,
            esr: 0,
            icr_low: 0,
            icr_high: 0,
            lvt_timer: LVT_MASKED,
            lvt_thermal: LVT_MASKED,
            lvt_perf: LVT_MASKED,
            lvt_lint0: LVT_MASKED,
            lvt_lint1: LVT_MASKED,
            lvt_error: LVT_MASKED,
            timer: Timer::default(),
            eoi: None,
            nmi: false,
        }
    }

    /// True while an interrupt waits that may interrupt what is in service.
    pub fn output(&self) -> bool {
        self.request().is_some()
    }

    /// Interrupt acknowledge: the vector, which is now in service; `None` if there is no request.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.request()?;
        self.irr.clear(vector);
        self.isr.set(vector);
        Some(vector)
    }

    /// True if the 8259's INTR reaches the processor: through LINT0 programmed as ExtINT, or
    /// because this APIC is disabled by software.
    pub fn passes_ext_int(&self) -> bool {
        self.svr & SVR_ENABLE == 0
            || (self.lvt_lint0 & LVT_MASKED == 0
                && DeliveryMode::from_register(self.lvt_lint0) == DeliveryMode::ExtInt)
    }

    /// Takes the vector of a level interrupt that ended: tell the I/O APIC.
    pub fn take_eoi(&mut self) -> Option<u8> {
        self.eoi.take()
    }

    /// A non-maskable interrupt was sent to this processor.
    pub fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// Takes a non-maskable interrupt sent to this processor.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// A message on the APIC bus. Ignored unless this APIC is addressed.
    pub fn deliver(&mut self, message: ApicMessage) {
        if self.is_addressed(message.destination, message.logical) {
            self.accept(message);
        }
    }

    fn is_addressed(&self, destination: u8, logical: bool) -> bool {
        if !logical {
            return destination == self.id || destination == 0xFF;
        }
        let own = (self.ldr >> 24) as u8;
        match self.dfr >> 28 {
            0xF => destination & own != 0,
            // Cluster model: high nibble selects the cluster, low nibble its members.
            _ => {
                let cluster = destination >> 4;
                (cluster == own >> 4 || cluster == 0xF) && destination & own & 0xF != 0
            }
        }
    }

    fn accept(&mut self, message: ApicMessage) {
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if message.vector < FIRST_VECTOR {
                    self.error(ESR_RECEIVE_ILLEGAL);
                } else if self.svr & SVR_ENABLE != 0 {
                    self.post(message.vector, message.level);
                }
            }
            DeliveryMode::Nmi => self.nmi = true,
            // ExtINT: the processor asks the 8259 anyway. The others have no meaning for the only
            // processor.
            _ => {}
        }
    }

    fn post(&mut self, vector: u8, level: bool) {
        self.irr.set(vector);
        if level {
            self.tmr.set(vector);
        } else {
            self.tmr.clear(vector);
        }
    }

    fn error(&mut self, bit: u32) {
        let news = self.errors & bit == 0;
        self.errors |= bit;
        let vector = self.lvt_error as u8;
        if news && self.lvt_error & LVT_MASKED == 0 && vector >= FIRST_VECTOR {
            self.post(vector, false);
        }
    }

    /// Processor priority register.
    fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xF0 }
    }

    fn request(&self) -> Option<u8> {
        self.irr.highest().filter(|v| v >> 4 > self.ppr() >> 4)
    }

    fn is_periodic(&self) -> bool {
        self.lvt_timer & LVT_TIMER_PERIODIC != 0
    }

    /// Brings the timer to `now` and posts its interrupt if it reached zero.
    fn run_timer(&mut self, now: VmTime) {
        let fired = self.timer.advance(now, self.is_periodic());
        if fired && self.lvt_timer & LVT_MASKED == 0 {
            match self.lvt_timer as u8 {
                v if v < FIRST_VECTOR => self.error(ESR_RECEIVE_ILLEGAL),
                v => self.post(v, false),
            }
        }
    }

    fn schedule(&self, ctx: &mut Ctx<'_>) {
        match self.timer.deadline() {
            Some(at) if self.lvt_timer & LVT_MASKED == 0 => {
                let period = u64::from(self.timer.initial) << self.timer.shift();
                let too_often = self.is_periodic() && period < MIN_TIMER_NS;
                let earliest = if too_often { ctx.now.saturating_add(MIN_TIMER_NS) } else { 0 };
                ctx.schedule(self.device, at.max(earliest));
            }
            _ => ctx.cancel(self.device),
        }
    }

    fn read(&self, register: u64, now: VmTime) -> u32 {
        match register {
            ID => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            PPR => u32::from(self.ppr()),
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.word(register - ISR),
            TMR..IRR => self.tmr.word(register - TMR),
            IRR..ESR => self.irr.word(register - IRR),
            ESR => self.esr,
            ICR_LOW => self.icr_low,
            ICR_HIGH => self.icr_high,
            LVT_TIMER => self.lvt_timer,
            LVT_THERMAL => self.lvt_thermal,
            LVT_PERF => self.lvt_perf,
            LVT_LINT0 => self.lvt_lint0,
            LVT_LINT1 => self.lvt_lint1,
            LVT_ERROR => self.lvt_error,
            INITIAL_COUNT => self.timer.initial,
            CURRENT_COUNT => self.timer.current(now, self.is_periodic()),
            DIVIDE => self.timer.divide,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32, now: VmTime) {
        let forced = if self.svr & SVR_ENABLE == 0 { LVT_MASKED } else { 0 };
        match register {
            ID => self.id = (value >> 24) as u8 & 0x0F,
            TPR => self.tpr = value as u8,
            EOI => {
                if let Some(vector) = self.isr.highest() {
                    self.isr.clear(vector);
                    if self.tmr.has(vector) {
                        self.eoi = Some(vector);
                    }
                }
            }
            LDR => self.ldr = value & 0xFF00_0000,
            DFR => self.dfr = value | 0x0FFF_FFFF,
            SVR => {
                self.svr = value & SVR_WRITABLE;
                if self.svr & SVR_ENABLE == 0 {
                    for lvt in self.lvts() {
                        *lvt |= LVT_MASKED;
                    }
                }
            }
            ESR => self.esr = std::mem::take(&mut self.errors),
            ICR_LOW => {
                self.icr_low = value & 0x000C_DFFF & !ICR_DELIVERY_STATUS;
                self.send();
            }
            ICR_HIGH => self.icr_high = value & 0xFF00_0000,
            LVT_TIMER => self.lvt_timer = (value & 0x0003_00FF) | forced,
            LVT_THERMAL => self.lvt_thermal = (value & 0x0001_07FF) | forced,
            LVT_PERF => self.lvt_perf = (value & 0x0001_07FF) | forced,
            LVT_LINT0 => self.lvt_lint0 = (value & 0x0001_A7FF & !LVT_REMOTE_IRR) | forced,
            LVT_LINT1 => self.lvt_lint1 = (value & 0x0001_A7FF & !LVT_REMOTE_IRR) | forced,
            LVT_ERROR => self.lvt_error = (value & 0x0001_00FF) | forced,
            INITIAL_COUNT => {
                self.timer.initial = value;
                self.timer.count = value;
                self.timer.since = now;
            }
            DIVIDE => self.timer.divide = value & 0xB,
            _ => {}
        }
    }

    fn lvts(&mut self) -> [&mut u32; 6] {
        [
            &mut self.lvt_timer,
            &mut self.lvt_thermal,
            &mut self.lvt_perf,
            &mut self.lvt_lint0,
            &mut self.lvt_lint1,
            &mut self.lvt_error,
        ]
    }

    /// The interrupt command register was written. Only messages that reach this processor matter.
    fn send(&mut self) {
        let low = self.icr_low;
        let delivery = DeliveryMode::from_register(low);
        let vector = low as u8;
        let fixed = matches!(delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if fixed && vector < FIRST_VECTOR {
            self.error(ESR_SEND_ILLEGAL);
            return;
        }
        if low & ICR_LEVEL != 0 && low & ICR_ASSERT == 0 {
            return; // de-assert: meaningless since the Pentium
        }
        let message = ApicMessage {
            vector,
            delivery,
            level: false,
            destination: (self.icr_high >> 24) as u8,
            logical: low & ICR_LOGICAL != 0,
        };
        match (low >> 18) & 3 {
            0 => self.deliver(message),
            1 | 2 => self.accept(message),
            _ => {} // all but self: nobody
        }
    }
}

impl Device for LocalApic {
    fn name(&self) -> &'static str {
        "lapic"
    }

    fn attach(&mut self, id: DeviceId) {
        self.device = id;
    }

    fn mmio_read(&mut self, ctx: &mut Ctx<'_>, addr: u64, size: AccessSize) -> Option<u32> {
        Some(register_bytes(self.read(addr & 0xFF0, ctx.now), addr, size))
    }

    fn mmio_write(&mut self, ctx: &mut Ctx<'_>, addr: u64, size: AccessSize, value: u32) {
        let register = addr & 0xFF0;
        if addr & 0xF > 3 {
            return; // registers are 4 bytes wide, 16 bytes apart
        }
        self.run_timer(ctx.now);
        let value = replace_bytes(self.read(register, ctx.now), addr, size, value);
        self.write(register, value, ctx.now);
        if matches!(register, SVR | LVT_TIMER | INITIAL_COUNT | DIVIDE) {
            self.schedule(ctx);
        }
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        self.run_timer(ctx.now);
        self.schedule(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        *self = Self { device: self.device, ..Self::new() };
        ctx.cancel(self.device);
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        saved::SavedLapic::capture(self).into_state(ctx.now)
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedLapic::capture(self).read(state, ctx.now)?.apply(self, ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    const BASE: u64 = 0xFEE0_0000;

    fn write(board: &mut TestBoard, apic: &mut LocalApic, register: u64, value: u32) {
        apic.mmio_write(&mut board.ctx(), BASE + register, AccessSize::Dword, value);
    }

    fn read(board: &mut TestBoard, apic: &mut LocalApic, register: u64) -> u32 {
        apic.mmio_read(&mut board.ctx(), BASE + register, AccessSize::Dword).unwrap()
    }

    fn enabled() -> (TestBoard, LocalApic) {
        let mut board = TestBoard::new();
        let mut apic = LocalApic::new();
        board.power_up(&mut apic, 3);
        write(&mut board, &mut apic, SVR, 0x1FF);
        (board, apic)
    }

    fn fixed(vector: u8, level: bool) -> ApicMessage {
        ApicMessage { vector, delivery: DeliveryMode::Fixed, level, destination: 0, logical: false }
    }

    #[test]
    fn lapic_powered_up_shows_the_reference_registers_and_accepts_nothing() {
        let mut board = TestBoard::new();
        let mut apic = LocalApic::new();
        board.power_up(&mut apic, 3);
        let values = [ID, VERSION, SVR, DFR, LVT_TIMER, LVT_LINT0].map(|r| read(&mut board, &mut apic, r));
        assert_eq!(values, [0, 0x0005_0014, 0xFE, 0xFFFF_FFFF, 0x1_0000, 0x1_0000]);
        apic.deliver(fixed(0x40, false));
        assert!(!apic.output());
        assert!(apic.passes_ext_int());
        write(&mut board, &mut apic, LVT_TIMER, 0x40);
        assert_eq!(read(&mut board, &mut apic, LVT_TIMER), 0x1_0040);
    }

    #[test]
    fn lapic_delivers_by_priority_class_and_reports_level_eoi() {
        let (mut board, mut apic) = enabled();
        apic.deliver(fixed(0x41, false));
        apic.deliver(fixed(0x52, true));
        assert_eq!(apic.acknowledge(), Some(0x52));
        assert_eq!(apic.acknowledge(), None);
        assert_eq!(read(&mut board, &mut apic, PPR), 0x50);
        apic.deliver(fixed(0x5F, false));
        assert!(!apic.output());
        write(&mut board, &mut apic, EOI, 0);
        assert_eq!(apic.take_eoi(), Some(0x52));
        assert_eq!(apic.acknowledge(), Some(0x5F));
        write(&mut board, &mut apic, EOI, 0);
        assert_eq!(apic.take_eoi(), None);
        write(&mut board, &mut apic, TPR, 0x40);
        assert!(!apic.output());
        write(&mut board, &mut apic, TPR, 0x3F);
        assert_eq!(apic.acknowledge(), Some(0x41));
        assert_eq!(read(&mut board, &mut apic, ISR + 0x20), 2);
    }

    #[test]
    fn lapic_messages_for_others_are_ignored() {
        let (mut board, mut apic) = enabled();
        apic.deliver(ApicMessage { destination: 1, ..fixed(0x40, false) });
        apic.deliver(ApicMessage { destination: 1, logical: true, ..fixed(0x40, false) });
        assert!(!apic.output());
        write(&mut board, &mut apic, LDR, 0x0100_0000);
        apic.deliver(ApicMessage { destination: 3, logical: true, ..fixed(0x40, false) });
        assert_eq!(apic.acknowledge(), Some(0x40));
        write(&mut board, &mut apic, DFR, 0);
        write(&mut board, &mut apic, LDR, 0x2200_0000);
        apic.deliver(ApicMessage { destination: 0x12, logical: true, ..fixed(0x60, false) });
        assert!(!apic.output());
        apic.deliver(ApicMessage { destination: 0xF2, logical: true, ..fixed(0x60, false) });
        assert!(apic.output());
    }

    #[test]
    fn lapic_command_register_reaches_self_only() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, ICR_LOW, 0x000C_4030);
        assert!(!apic.output());
        write(&mut board, &mut apic, ICR_LOW, 0x0004_4030);
        assert_eq!(apic.acknowledge(), Some(0x30));
        assert_eq!(read(&mut board, &mut apic, ICR_LOW), 0x0004_4030);
        write(&mut board, &mut apic, ICR_LOW, 0x0004_4400);
        assert!(apic.take_nmi());
        assert!(!apic.take_nmi());
    }

    #[test]
    fn lapic_illegal_vector_sets_the_error_register_on_write() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, LVT_ERROR, 0xE0);
        write(&mut board, &mut apic, ICR_LOW, 0x0004_4003);
        assert_eq!(apic.acknowledge(), Some(0xE0));
        assert_eq!(read(&mut board, &mut apic, ESR), 0);
        write(&mut board, &mut apic, ESR, 0);
        assert_eq!(read(&mut board, &mut apic, ESR), 0x20);
        write(&mut board, &mut apic, ESR, 0);
        assert_eq!(read(&mut board, &mut apic, ESR), 0);
    }

    #[test]
    fn lapic_one_shot_timer_fires_once_at_its_deadline() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, DIVIDE, 0x3); // by 16
        write(&mut board, &mut apic, LVT_TIMER, 0x50);
        write(&mut board, &mut apic, INITIAL_COUNT, 1000);
        board.advance(&mut apic, 8000);
        assert_eq!(read(&mut board, &mut apic, CURRENT_COUNT), 500);
        board.advance(&mut apic, 7999);
        assert!(!apic.output());
        board.advance(&mut apic, 1);
        assert_eq!(apic.acknowledge(), Some(0x50));
        assert_eq!(read(&mut board, &mut apic, CURRENT_COUNT), 0);
        write(&mut board, &mut apic, EOI, 0);
        board.advance(&mut apic, 1_000_000);
        assert!(!apic.output());
        assert_eq!(board.events.next_deadline(), None);
    }

    #[test]
    fn lapic_periodic_timer_keeps_its_phase_when_late() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, DIVIDE, 0xB); // by 1
        write(&mut board, &mut apic, LVT_TIMER, 0x2_0050);
        write(&mut board, &mut apic, INITIAL_COUNT, 1_000_000);
        board.advance_at_once(&mut apic, 3_300_000);
        assert_eq!(apic.acknowledge(), Some(0x50));
        write(&mut board, &mut apic, EOI, 0);
        assert!(!apic.output());
        assert_eq!(board.events.next_deadline(), Some(4_000_000));
        assert_eq!(read(&mut board, &mut apic, CURRENT_COUNT), 700_000);
        board.advance(&mut apic, 700_000);
        assert!(apic.output());
    }

    #[test]
    fn lapic_short_periods_cannot_starve_the_host() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, DIVIDE, 0xB);
        write(&mut board, &mut apic, LVT_TIMER, 0x2_0050);
        write(&mut board, &mut apic, INITIAL_COUNT, 1);
        assert_eq!(board.events.next_deadline(), Some(MIN_TIMER_NS));
    }

    #[test]
    fn lapic_divider_change_keeps_the_count() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, DIVIDE, 0xB);
        write(&mut board, &mut apic, INITIAL_COUNT, 1000);
        board.advance(&mut apic, 400);
        write(&mut board, &mut apic, DIVIDE, 0x0); // by 2
        board.advance(&mut apic, 400);
        assert_eq!(read(&mut board, &mut apic, CURRENT_COUNT), 400);
    }

    #[test]
    fn lapic_byte_accesses_see_parts_of_the_register() {
        let (mut board, mut apic) = enabled();
        write(&mut board, &mut apic, LDR, 0xAB00_0000);
        let byte = apic.mmio_read(&mut board.ctx(), BASE + LDR + 3, AccessSize::Byte);
        assert_eq!(byte, Some(0xAB));
    }
}
