//! 8254 programmable interval timer with system control port B (61h).
//!
//! Intel 8254 data sheet (231164). Nothing is counted: every value is computed from guest time, and
//! counter 0 interrupts through one deadline. Periods are counted in whole input clocks since
//! power-on, so they do not drift. Ticks that come a few periods late (an idle guest's, a busy host's) are
//! all delivered, one after the other, because guests count them; when more were missed, one is delivered.
//!
//! The input clock is 14.31818 MHz / 12 = 3,579,545 / 3 Hz, a third of the ACPI PM timer's.

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;
use emu_core::time::VmTime;

use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};

mod counter;
mod saved;

use counter::{Clocks, Counter};

const COUNTER_0: u16 = 0x40;
const COUNTER_1: u16 = 0x41;
const COUNTER_2: u16 = 0x42;
const CONTROL: u16 = 0x43;
const PORT_B: u16 = 0x61;

/// Input clock in Hz, as a fraction.
pub const PIT_HZ: (u64, u64) = (3_579_545, 3);

// Read-back command.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

// Port 61h.
const GATE_2: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;
const PORT_B_WRITABLE: u8 = 0x0F;
const REFRESH_TOGGLE: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;

/// Input clocks between two refresh requests (counter 1 as PC firmware programs it).
const REFRESH_CLOCKS: i64 = 18;

/// Shortest time between two interrupts of counter 0: a guest cannot make the host do nothing else.
const MIN_INTERRUPT_NS: u64 = 20_000;

/// Periods of a tick that can be made up for; of more only one interrupt remains.
const CATCH_UP_PERIODS: Clocks = 4;

/// Time between interrupts that make up for late ones, unless the guest waits for them before: enough for
/// its handler, because the 8259 keeps only one request.
const CATCH_UP_NS: u64 = 150_000;

/// Shortest period that is worth making up for, in input clocks (a millisecond).
const SHORTEST_TICK: Clocks = 1193;

/// Ticks of a guest at rest may be this many periods late.
const LAZY_PERIODS: u64 = 3;
/// But not later than this, nanoseconds.
const LAZY_NS: u64 = 12_000_000;

const NS_CLOCKS: (u128, u128) = (PIT_HZ.0 as u128, PIT_HZ.1 as u128 * 1_000_000_000);

fn clocks_at(now: VmTime) -> Clocks {
    (u128::from(now) * NS_CLOCKS.0 / NS_CLOCKS.1) as Clocks
}

/// First nanosecond at which [`clocks_at`] is `clocks`.
fn time_of(clocks: Clocks) -> VmTime {
    let ns = (clocks.max(0) as u128 * NS_CLOCKS.1).div_ceil(NS_CLOCKS.0);
    VmTime::try_from(ns).unwrap_or(VmTime::MAX)
}

/// The chip and port 61h. Counter 0 drives IRQ 0, counter 1 once refreshed the memory, counter 2 the
/// speaker.
#[derive(Clone, Debug)]
pub struct Pit8254 {
    device: DeviceId,
    irq: IrqLine,
    counters: [Counter; 3],
    port_b: u8,
    /// When OUT of counter 0 rises next.
    next_rise: Option<Clocks>,
    /// Time of the last interrupt.
    last_interrupt: VmTime,
}

impl Pit8254 {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(COUNTER_0, 4), (PORT_B, 1)];

    /// Powered up, nothing counts. `irq` is counter 0's OUT.
    pub fn new(irq: IrqLine) -> Self {
        Self {
            device: 0,
            irq,
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            port_b: 0,
            next_rise: None,
            last_interrupt: 0,
        }
    }

    /// Input clocks per period of the tone the PC speaker plays; `None` if it is silent.
    pub fn speaker_period(&self) -> Option<u32> {
        let on = GATE_2 | SPEAKER_DATA;
        let counter = &self.counters[2];
        (self.port_b & on == on && counter.mode == 3 && counter.is_counting())
            .then(|| counter.programmed_count())
    }

    fn settle(&mut self, now: Clocks) {
        for counter in &mut self.counters {
            counter.settle(now);
        }
    }

    fn read_port_b(&self, now: Clocks) -> u8 {
        let mut value = self.port_b;
        if (now / REFRESH_CLOCKS) & 1 != 0 {
            value |= REFRESH_TOGGLE;
        }
        if self.counters[2].out(now) {
            value |= OUT_2;
        }
        value
    }

    fn write_control(&mut self, ctx: &mut Ctx<'_>, value: u8, now: Clocks) {
        let selected = value >> 6;
        let access = (value >> 4) & 3;
        for (i, counter) in self.counters.iter_mut().enumerate() {
            if selected == 3 {
                if value & (2 << i) != 0 {
                    if value & READ_BACK_NO_COUNT == 0 {
                        counter.latch_count(now);
                    }
                    if value & READ_BACK_NO_STATUS == 0 {
                        counter.latch_status(now);
                    }
                }
            } else if usize::from(selected) == i {
                if access == 0 {
                    counter.latch_count(now);
                } else {
                    counter.write_control(value, now);
                }
            }
        }
        if selected == 0 && access != 0 {
            ctx.irq.set(self.irq, false);
        }
    }

    /// Interrupts if OUT of counter 0 has risen since the deadline was set.
    fn interrupt_if_due(&mut self, ctx: &mut Ctx<'_>, now: Clocks) {
        if self.next_rise.is_some_and(|at| at <= now) {
            self.next_rise = None;
            self.last_interrupt = ctx.now;
            ctx.irq.pulse(self.irq);
        }
    }

    /// Count of counter 0 if that is slow enough for a tick. Guests that load it anew for each tick count
    /// the ticks that are late themselves.
    fn tick_count(&self) -> Option<Clocks> {
        let counter = &self.counters[0];
        let count = Clocks::from(counter.programmed_count());
        (counter.is_counting() && count >= SHORTEST_TICK).then_some(count)
    }

    /// The same for a counter that loads itself.
    fn tick_period(&self) -> Option<Clocks> {
        self.tick_count().filter(|_| self.counters[0].is_periodic())
    }

    /// The tick after one that was due at `rise`, if that is late as well.
    fn late_tick(&self, rise: Clocks, now: Clocks) -> Option<Clocks> {
        let next = rise + self.tick_period()?;
        (next <= now && now - rise < (CATCH_UP_PERIODS + 1) * self.tick_period()?).then_some(next)
    }

    fn schedule(&mut self, ctx: &mut Ctx<'_>, now: Clocks) {
        let counter = &self.counters[0];
        self.next_rise = counter.next_rise(now);
        match self.next_rise {
            Some(at) => {
                let earliest = if counter.is_periodic() {
                    self.last_interrupt.saturating_add(MIN_INTERRUPT_NS)
                } else {
                    0
                };
                let at = time_of(at).max(earliest);
                let count = self.tick_count();
                let slack = count.map_or(0, |n| time_of(n).saturating_mul(LAZY_PERIODS).min(LAZY_NS));
                ctx.schedule_lazily(self.device, at, slack);
            }
            None => ctx.cancel(self.device),
        }
    }
}

impl Device for Pit8254 {
    fn name(&self) -> &'static str {
        "pit8254"
    }

    fn attach(&mut self, id: DeviceId) {
        self.device = id;
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if size != AccessSize::Byte {
            return None;
        }
        let now = clocks_at(ctx.now);
        self.settle(now);
        let value = match port {
            COUNTER_0 => self.counters[0].read(now),
            COUNTER_1 => self.counters[1].read(now),
            COUNTER_2 => self.counters[2].read(now),
            PORT_B => self.read_port_b(now),
            _ => return None,
        };
        Some(u32::from(value))
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if size != AccessSize::Byte {
            return;
        }
        let value = value as u8;
        let now = clocks_at(ctx.now);
        self.interrupt_if_due(ctx, now);
        self.settle(now);
        match port {
            COUNTER_0 => {
                self.counters[0].write_count(value, now);
                if self.counters[0].mode == 0 {
                    ctx.irq.set(self.irq, false);
                }
            }
            COUNTER_1 => self.counters[1].write_count(value, now),
            COUNTER_2 => self.counters[2].write_count(value, now),
            CONTROL => self.write_control(ctx, value, now),
            PORT_B => {
                self.port_b = value & PORT_B_WRITABLE;
                self.counters[2].set_gate(value & GATE_2 != 0, now);
            }
            _ => {}
        }
        self.schedule(ctx, now);
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        let now = clocks_at(ctx.now);
        let rise = self.next_rise.filter(|&rise| rise <= now);
        self.interrupt_if_due(ctx, now);
        self.settle(now);
        if let Some(late) = rise.and_then(|rise| self.late_tick(rise, now)) {
            self.next_rise = Some(late);
            ctx.schedule_impatiently(self.device, ctx.now.saturating_add(CATCH_UP_NS));
            return;
        }
        self.schedule(ctx, now);
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        *self = Self { device: self.device, ..Self::new(self.irq) };
        ctx.irq.set(self.irq, false);
        ctx.cancel(self.device);
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        saved::SavedPit::capture(self, ctx).into_state(ctx.now)
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedPit::capture(self, ctx).read(state, ctx)?.apply(self, ctx);
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

    const IRQ0: IrqLine = IrqLine::wired_to(0);

    fn new() -> (TestBoard, Pit8254) {
        let mut board = TestBoard::new();
        let mut pit = Pit8254::new(IRQ0);
        board.power_up(&mut pit, 1);
        (board, pit)
    }

    fn program(board: &mut TestBoard, pit: &mut Pit8254, control: u8, count: u16) {
        board.outb(pit, CONTROL, control);
        let port = COUNTER_0 + u16::from(control >> 6);
        let [low, high] = count.to_le_bytes();
        board.outb(pit, port, low);
        board.outb(pit, port, high);
    }

    /// Moves so that exactly `clocks` input clocks have passed since power-on.
    fn go_to(board: &mut TestBoard, pit: &mut Pit8254, clocks: Clocks) {
        let target = time_of(clocks);
        board.advance(pit, target - board.now);
        assert_eq!(clocks_at(board.now), clocks);
    }

    fn latch(board: &mut TestBoard, pit: &mut Pit8254, counter: u8) -> u16 {
        board.outb(pit, CONTROL, counter << 6);
        let port = COUNTER_0 + u16::from(counter);
        u16::from_le_bytes([board.inb(pit, port), board.inb(pit, port)])
    }

    #[test]
    fn pit_clock_is_exact_over_days() {
        // 3 s are 3,579,545 clocks.
        assert_eq!(clocks_at(3_000_000_000), 3_579_545);
        assert_eq!(clocks_at(3_000_000_000 * 86_400), 3_579_545 * 86_400);
        for clocks in [0, 1, 2, 3, 1193, 65536, 3_579_545, i64::from(u32::MAX)] {
            assert_eq!(clocks_at(time_of(clocks)), clocks);
            if clocks > 0 {
                assert_eq!(clocks_at(time_of(clocks) - 1), clocks - 1);
            }
        }
    }

    #[test]
    fn pit_mode_2_interrupts_every_period_without_drift() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 11_932);
        let mut edges = 0u32;
        for _ in 0..100 {
            let at = board.events.next_deadline().unwrap();
            let step = at - board.now;
            board.advance(&mut pit, step);
            edges += u32::from(board.take_rise(IRQ0));
            // Loaded at clock 1, then one interrupt each 11,932 clocks.
            assert_eq!(clocks_at(board.now), 1 + 11_932 * Clocks::from(edges));
        }
        assert_eq!(edges, 100);
    }

    #[test]
    fn pit_ticks_that_are_a_little_late_are_all_delivered() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 4000);
        let late = time_of(1 + 3 * 4000 + 300);
        board.advance_at_once(&mut pit, late);
        let mut interrupts = u32::from(board.take_rise(IRQ0));
        for _ in 0..10 {
            board.advance(&mut pit, CATCH_UP_NS);
            interrupts += u32::from(board.take_rise(IRQ0));
        }
        assert_eq!(interrupts, 3, "and the fourth is not due yet");
        board.advance(&mut pit, time_of(4000));
        assert!(board.take_rise(IRQ0), "the phase is kept");
        let much_too_late = time_of(7 * 4000);
        board.advance_at_once(&mut pit, much_too_late);
        assert!(board.take_rise(IRQ0));
        board.advance(&mut pit, 5 * CATCH_UP_NS);
        assert!(!board.take_rise(IRQ0), "no burst of lost ticks");
    }

    #[test]
    fn pit_missed_periods_give_one_interrupt_and_keep_the_phase() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        let late = time_of(1 + 5 * 1000 + 300);
        board.advance_at_once(&mut pit, late);
        assert!(board.take_rise(IRQ0));
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 6 * 1000)));
    }

    #[test]
    fn pit_latch_right_after_reload_zero_is_just_below_65536() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 0);
        go_to(&mut board, &mut pit, 9);
        assert_eq!(latch(&mut board, &mut pit, 0), 0xFFF8);
        go_to(&mut board, &mut pit, 1 + 65_535);
        assert_eq!(latch(&mut board, &mut pit, 0), 1);
        go_to(&mut board, &mut pit, 1 + 65_536);
        assert_eq!(latch(&mut board, &mut pit, 0), 0);
    }

    #[test]
    fn pit_mode_0_raises_out_once_and_goes_on_counting() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x30, 100);
        go_to(&mut board, &mut pit, 100);
        assert!(!board.irq.is_high(IRQ0));
        go_to(&mut board, &mut pit, 101);
        assert!(board.take_rise(IRQ0));
        assert_eq!(board.events.next_deadline(), None);
        go_to(&mut board, &mut pit, 103);
        assert_eq!(latch(&mut board, &mut pit, 0), 0xFFFE);
        // A new count starts over without a control word.
        board.outb(&mut pit, COUNTER_0, 50);
        assert!(!board.irq.is_high(IRQ0));
        board.outb(&mut pit, COUNTER_0, 0);
        go_to(&mut board, &mut pit, 103 + 51);
        assert!(board.take_rise(IRQ0));
    }

    #[test]
    fn pit_mode_4_strobes_after_the_count() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x38, 500);
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 500 + 1)));
        go_to(&mut board, &mut pit, 1 + 500);
        assert!(!pit.counters[0].out(1 + 500));
        go_to(&mut board, &mut pit, 1 + 501);
        assert!(board.take_rise(IRQ0));
        // Linux one-shot mode: counts alone restart it.
        board.outb(&mut pit, COUNTER_0, 0x00);
        board.outb(&mut pit, COUNTER_0, 0x10);
        assert_eq!(board.events.next_deadline(), Some(time_of(502 + 1 + 0x1000 + 1)));
    }

    #[test]
    fn pit_mode_2_new_count_waits_for_the_end_of_the_period() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        go_to(&mut board, &mut pit, 1 + 400);
        board.outb(&mut pit, COUNTER_0, 0x20);
        board.outb(&mut pit, COUNTER_0, 0x03); // 800
        assert_eq!(latch(&mut board, &mut pit, 0), 600);
        go_to(&mut board, &mut pit, 1 + 1000);
        assert!(board.take_rise(IRQ0));
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 1800)));
        go_to(&mut board, &mut pit, 1 + 1001);
        assert_eq!(latch(&mut board, &mut pit, 0), 799);
    }

    #[test]
    fn pit_mode_3_is_a_square_wave_counted_by_twos() {
        let (mut board, mut pit) = new();
        board.outb(&mut pit, PORT_B, GATE_2);
        program(&mut board, &mut pit, 0xB6, 10);
        let wave: Vec<(bool, u32)> =
            (1..12).map(|t| (pit.counters[2].out(t), pit.counters[2].value(t))).collect();
        let high = [(true, 10), (true, 8), (true, 6), (true, 4), (true, 2)];
        let low = high.map(|(_, v)| (false, v));
        assert_eq!(wave[..5], high);
        assert_eq!(wave[5..10], low);
        assert_eq!(wave[10], (true, 10));
        program(&mut board, &mut pit, 0xB6, 5);
        let out: Vec<bool> = (1..11).map(|t| pit.counters[2].out(t)).collect();
        assert_eq!(out, [true, true, true, false, false, true, true, true, false, false]);
    }

    #[test]
    fn pit_mode_3_new_count_starts_with_the_next_half() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x36, 1000);
        go_to(&mut board, &mut pit, 1 + 100);
        board.outb(&mut pit, COUNTER_0, 200);
        board.outb(&mut pit, COUNTER_0, 0);
        // High until 500, then low for the new half of 100, then rise.
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 600)));
        go_to(&mut board, &mut pit, 1 + 600);
        assert!(board.take_rise(IRQ0));
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 800)));
    }

    #[test]
    fn pit_counter_2_calibration_as_linux_does_it() {
        let (mut board, mut pit) = new();
        // Gate on, speaker off, mode 0, count for 10 ms.
        let port_b = board.inb(&mut pit, PORT_B);
        board.outb(&mut pit, PORT_B, (port_b & !SPEAKER_DATA) | GATE_2);
        program(&mut board, &mut pit, 0xB0, 11_931);
        assert_eq!(board.inb(&mut pit, PORT_B) & (OUT_2 | GATE_2), GATE_2);
        go_to(&mut board, &mut pit, 11_931);
        assert_eq!(board.inb(&mut pit, PORT_B) & OUT_2, 0);
        go_to(&mut board, &mut pit, 11_932);
        assert_eq!(board.inb(&mut pit, PORT_B) & OUT_2, OUT_2);
        let ms = board.now as f64 / 1e6;
        assert!((ms - 10.0).abs() < 0.01, "{ms} ms");
    }

    #[test]
    fn pit_gate_low_stops_counter_2() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0xB0, 1000);
        go_to(&mut board, &mut pit, 500);
        assert_eq!(latch(&mut board, &mut pit, 2), 1000);
        board.outb(&mut pit, PORT_B, GATE_2);
        go_to(&mut board, &mut pit, 700);
        assert_eq!(latch(&mut board, &mut pit, 2), 800);
        board.outb(&mut pit, PORT_B, 0);
        go_to(&mut board, &mut pit, 900);
        assert_eq!(latch(&mut board, &mut pit, 2), 800);
    }

    #[test]
    fn pit_gate_edge_triggers_the_one_shot_of_mode_1() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0xB2, 100);
        go_to(&mut board, &mut pit, 50);
        assert!(pit.counters[2].out(50));
        board.outb(&mut pit, PORT_B, GATE_2);
        assert!(!pit.counters[2].out(51));
        assert!(!pit.counters[2].out(150));
        assert!(pit.counters[2].out(151));
        // Triggered again before it ended: starts over.
        go_to(&mut board, &mut pit, 100);
        board.outb(&mut pit, PORT_B, 0);
        board.outb(&mut pit, PORT_B, GATE_2);
        assert!(!pit.counters[2].out(151));
        assert!(pit.counters[2].out(201));
    }

    #[test]
    fn pit_read_back_latches_status_before_count() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        board.outb(&mut pit, CONTROL, 0xC2); // status and count of counter 0
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0x80 | 0x40 | 0x34);
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0xE8);
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0x03);
        go_to(&mut board, &mut pit, 10);
        board.outb(&mut pit, CONTROL, 0xE2);
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0x80 | 0x34);
    }

    #[test]
    fn pit_latch_holds_until_read_and_is_not_replaced() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x34, 1000);
        go_to(&mut board, &mut pit, 1 + 10);
        board.outb(&mut pit, CONTROL, 0x00);
        go_to(&mut board, &mut pit, 1 + 20);
        board.outb(&mut pit, CONTROL, 0x00);
        let value = u16::from_le_bytes([board.inb(&mut pit, COUNTER_0), board.inb(&mut pit, COUNTER_0)]);
        assert_eq!(value, 990);
        assert_eq!(latch(&mut board, &mut pit, 0), 980);
    }

    #[test]
    fn pit_bcd_counts_in_decimal() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0x35, 0x1000);
        assert_eq!(board.events.next_deadline(), Some(time_of(1 + 1000)));
        go_to(&mut board, &mut pit, 1 + 1);
        assert_eq!(latch(&mut board, &mut pit, 0), 0x0999);
        program(&mut board, &mut pit, 0x35, 0);
        go_to(&mut board, &mut pit, 2 + 1 + 10);
        assert_eq!(latch(&mut board, &mut pit, 0), 0x9990);
    }

    #[test]
    fn pit_single_byte_access_modes() {
        let (mut board, mut pit) = new();
        board.outb(&mut pit, CONTROL, 0x14); // low byte only, mode 2
        board.outb(&mut pit, COUNTER_0, 200);
        go_to(&mut board, &mut pit, 1 + 50);
        assert_eq!([board.inb(&mut pit, COUNTER_0), board.inb(&mut pit, COUNTER_0)], [150, 150]);
        board.outb(&mut pit, CONTROL, 0x24); // high byte only
        board.outb(&mut pit, COUNTER_0, 0x10);
        assert_eq!(board.inb(&mut pit, COUNTER_0), 0x10);
    }

    #[test]
    fn pit_shortest_period_cannot_starve_the_host() {
        let (mut board, mut pit) = new();
        board.advance(&mut pit, 1_000_000);
        program(&mut board, &mut pit, 0x34, 1);
        let mut interrupts = 0;
        let end = board.now + 1_000_000;
        while let Some(at) = board.events.next_deadline().filter(|at| *at <= end) {
            let step = at - board.now;
            board.advance_at_once(&mut pit, step);
            interrupts += u32::from(board.take_rise(IRQ0));
        }
        assert!((40..=51).contains(&interrupts), "{interrupts} interrupts in 1 ms");
    }

    #[test]
    fn port_b_toggles_refresh_and_reads_back_its_low_bits() {
        let (mut board, mut pit) = new();
        board.outb(&mut pit, PORT_B, 0xFF);
        assert_eq!(board.inb(&mut pit, PORT_B) & 0xCF, 0x0F);
        let mut toggles = 0;
        let mut last = board.inb(&mut pit, PORT_B) & REFRESH_TOGGLE;
        for _ in 0..1000 {
            board.advance(&mut pit, 1_000);
            let bit = board.inb(&mut pit, PORT_B) & REFRESH_TOGGLE;
            toggles += u32::from(bit != last);
            last = bit;
        }
        assert_eq!(toggles, 66); // 1 ms / 15.085 us
    }

    #[test]
    fn speaker_plays_only_with_gate_data_and_mode_3() {
        let (mut board, mut pit) = new();
        program(&mut board, &mut pit, 0xB6, 1193);
        assert_eq!(pit.speaker_period(), None);
        board.outb(&mut pit, PORT_B, 3);
        assert_eq!(pit.speaker_period(), Some(1193));
        board.outb(&mut pit, PORT_B, 1);
        assert_eq!(pit.speaker_period(), None);
    }

    #[test]
    fn pit_wide_access_is_an_empty_port() {
        let (mut board, mut pit) = new();
        assert_eq!(board.port_in(&mut pit, 0x40, AccessSize::Word), 0xFFFF);
        assert_eq!(board.inb(&mut pit, CONTROL), 0xFF);
    }
}
