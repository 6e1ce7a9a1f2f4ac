//! State of the card in snapshots: slot 61.
//!
//! | v86's array | here |
//! | --- | --- |
//! | 2, 3, 5-12, 31 | last answer, command, mixer, speaker, test register, ASP registers |
//! | 9-12, 15-23, 25-27 | transfer |
//! | 34, 35 | interrupt number, pending interrupts |
//!
//! Written for v86, but not read: 4 (arguments of the command, derived), 24 (v86's DMA buffer, which is
//! never a state: blocks are moved at once), 28 (bytes per sample, derived from 11), 29 and 30 (DMA
//! identification, constants).
//!
//! v86's file has no times: what plays goes on with the block it was at, from the beginning of that.
//! Answers that wait, arguments of a command, the end of a silence (command 80h), the MPU-401 and the
//! sample at the output are in our own part.

use std::collections::VecDeque;

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::time::{NS_PER_SEC, VmTime};
use emu_core::values;

use super::{
    Activity, BLOCK_BYTES, DMA_POLL_NS, Frame, IRQ_8BIT, IRQ_16BIT, MIN_STEP_NS, SB16_IRQS, SB16_MIN_RATE,
    Sb16, Transfer, argument_count, block_size,
};
use crate::audio::ct1745::Ct1745;
use crate::device::{Ctx, DeviceState};

/// Layout of our own part.
const VERSION: i64 = 1;

/// Length of v86's DMA buffer, bytes.
const V86_DMA_BUFFER: usize = 0x1_0000;
/// What v86 answers to DMA identification: it never changes.
const V86_E2_VALUE: u8 = 0xAA;

/// Answers that can wait, bytes.
const ANSWERS: usize = 64;
/// Arguments of a command.
const ARGUMENTS: usize = 3;
/// Samples of a transfer: a 16-bit count plus 1.
const MAX_SAMPLES: u32 = 0x1_0000;
/// Highest rate a time constant can mean, hertz.
const MAX_RATE: f64 = 1e6;

/// By their numbers in our own part.
const ACTIVITIES: [Activity; 4] = [Activity::Idle, Activity::Waiting, Activity::Playing, Activity::Silence];

/// The card's state as plain data.
#[derive(Debug)]
pub(super) struct SavedSb16 {
    command: u8,
    args: Vec<u8>,
    answers: Vec<u8>,
    last_answer: u8,
    mixer_index: u8,
    mixer_registers: [u8; 256],
    speaker_on: bool,
    test_register: u8,
    asp: [u8; 256],
    transfer: Transfer,
    dma_8bit: u8,
    dma_16bit: u8,
    triggered: u8,
    irq_select: usize,
    mpu_answer: Option<u8>,
    mpu_last: u8,
    direct: (Frame, VmTime),
}

/// Bytes, or nothing if there are none: v86 does not load a compressed file with many empty buffers.
fn queue(bytes: Vec<u8>) -> Value {
    if bytes.is_empty() { Value::Null } else { Value::bytes(bytes) }
}

/// A time as JSON can hold it.
fn time(at: VmTime) -> Value {
    Value::Int(i64::try_from(at).unwrap_or(i64::MAX))
}

fn read_time(f: &Fields<'_>, index: usize) -> Result<Option<VmTime>, FieldError> {
    Ok(f.i64(index)?.map(|at| u64::try_from(at).unwrap_or(0)))
}

impl SavedSb16 {
    /// The state of a card.
    pub(super) fn capture(card: &Sb16) -> Self {
        let Sb16 {
            command,
            args,
            answers,
            last_answer,
            mixer: Ct1745 { index, registers },
            speaker_on,
            test_register,
            asp,
            transfer,
            dma_8bit,
            dma_16bit,
            triggered,
            irq_select,
            irqs: _,
            mpu_answer,
            mpu_last,
            direct,
            sink: _,
            id: _,
        } = card;
        Self {
            command: *command,
            args: args.clone(),
            answers: answers.iter().copied().collect(),
            last_answer: *last_answer,
            mixer_index: *index,
            mixer_registers: *registers,
            speaker_on: *speaker_on,
            test_register: *test_register,
            asp: *asp,
            transfer: transfer.clone(),
            dma_8bit: *dma_8bit,
            dma_16bit: *dma_16bit,
            triggered: *triggered,
            irq_select: *irq_select,
            mpu_answer: *mpu_answer,
            mpu_last: *mpu_last,
            direct: *direct,
        }
    }

    /// Puts the state into a card and drives its interrupt and deadline.
    pub(super) fn apply(mut self, card: &mut Sb16, ctx: &mut Ctx<'_>) {
        self.args.truncate(ARGUMENTS);
        card.command = self.command;
        card.args = self.args;
        card.answers = VecDeque::from(self.answers);
        card.last_answer = self.last_answer;
        card.mixer.index = self.mixer_index;
        card.mixer.registers = self.mixer_registers;
        card.speaker_on = self.speaker_on;
        card.test_register = self.test_register;
        card.asp = self.asp;
        card.dma_8bit = if matches!(self.dma_8bit, 0 | 1 | 3) { self.dma_8bit } else { 1 };
        card.dma_16bit = if matches!(self.dma_16bit, 5..=7) { self.dma_16bit } else { 5 };
        card.triggered = self.triggered & (IRQ_8BIT | IRQ_16BIT);
        card.irq_select = self.irq_select % SB16_IRQS.len();
        card.mpu_answer = self.mpu_answer;
        card.mpu_last = self.mpu_last;
        card.direct = (self.direct.0, self.direct.1.min(ctx.now));
        card.transfer = sound(self.transfer, ctx.now);
        for line in card.irqs {
            ctx.irq.set(line, false);
        }
        card.sync_irq(ctx);
        let t = &card.transfer;
        let soon = ctx.now.saturating_add(MIN_STEP_NS);
        match t.activity {
            Activity::Waiting => ctx.schedule(card.id, ctx.now.saturating_add(DMA_POLL_NS)),
            Activity::Playing if !t.paused => ctx.schedule(card.id, t.due.max(soon)),
            Activity::Silence => ctx.schedule(card.id, t.due.max(soon)),
            Activity::Idle | Activity::Playing => ctx.cancel(card.id),
        }
    }

    pub(super) fn into_state(self) -> DeviceState {
        let bytes_per_sample = self.transfer.bytes_per_sample();
        let Transfer {
            activity,
            sample_count,
            bytes_count,
            bytes_left,
            bytes_block,
            irq_kind,
            channel,
            autoinit,
            paused,
            stereo,
            bits16,
            signed,
            high_speed,
            rate,
            due,
        } = self.transfer;
        let mut triggered = [0; 16];
        for kind in [IRQ_8BIT, IRQ_16BIT] {
            if let Some(flag) = triggered.get_mut(usize::from(kind)) {
                *flag = u8::from(self.triggered & kind != 0);
            }
        }
        let v86 = values![
            Value::Null,
            Value::Null,
            self.last_answer,
            self.command,
            argument_count(self.command) as u32,
            self.mixer_index,
            Value::bytes(self.mixer_registers),
            self.speaker_on,
            self.test_register,
            high_speed,
            stereo,
            bits16,
            signed,
            Value::Null,
            Value::Null,
            sample_count,
            bytes_count,
            // v86 knows no silence: it would play instead.
            if activity == Activity::Silence { 0 } else { bytes_left },
            bytes_block,
            irq_kind,
            channel,
            self.dma_8bit,
            self.dma_16bit,
            autoinit,
            Value::bytes(vec![0; V86_DMA_BUFFER]),
            activity == Activity::Waiting,
            paused,
            rate,
            bytes_per_sample,
            V86_E2_VALUE,
            0,
            Value::bytes(self.asp),
            Value::Null,
            Value::Null,
            SB16_IRQS.get(self.irq_select).copied(),
            Value::bytes(triggered),
        ];
        let ([left, right], since) = self.direct;
        let extra = values![
            VERSION,
            queue(self.args),
            queue(self.answers),
            ACTIVITIES.iter().position(|one| *one == activity).map(|n| n as u32),
            bytes_left,
            time(due),
            self.mpu_answer,
            self.mpu_last,
            i32::from(left),
            i32::from(right),
            time(since),
        ];
        DeviceState { v86, extra }
    }

    /// Takes over what a snapshot says, which is loaded at guest time `now`.
    ///
    /// # Errors
    /// A field is of a wrong type.
    pub(super) fn read(&mut self, mut state: DeviceState, now: VmTime) -> Result<(), FieldError> {
        if let Some(mut f) = Fields::of(&mut state.v86)? {
            self.read_v86(&mut f)?;
            // A block from the beginning, whatever the time was.
            let t = &mut self.transfer;
            t.due = now.saturating_add(t.duration(t.next_block()));
        }
        match Fields::of(&mut state.extra) {
            Ok(Some(mut f)) => self.read_extra(&mut f),
            other => other.map(|_| ()),
        }
        .map_err(FieldError::in_extra)
    }

    fn read_v86(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        self.last_answer = f.u8(2)?.unwrap_or(self.last_answer);
        self.command = f.u8(3)?.unwrap_or(self.command);
        self.mixer_index = f.u8(5)?.unwrap_or(self.mixer_index);
        self.mixer_registers = f.u8s(6)?.unwrap_or(self.mixer_registers);
        self.speaker_on = f.bool(7)?.unwrap_or(self.speaker_on);
        self.test_register = f.u8(8)?.unwrap_or(self.test_register);
        let t = &mut self.transfer;
        t.high_speed = f.bool(9)?.unwrap_or(t.high_speed);
        t.stereo = f.bool(10)?.unwrap_or(t.stereo);
        t.bits16 = f.bool(11)?.unwrap_or(t.bits16);
        t.signed = f.bool(12)?.unwrap_or(t.signed);
        t.sample_count = f.u32(15)?.unwrap_or(t.sample_count);
        t.bytes_count = f.u32(16)?.unwrap_or(t.bytes_count);
        t.bytes_left = f.u32(17)?.unwrap_or(t.bytes_left);
        t.bytes_block = f.u32(18)?.unwrap_or(t.bytes_block);
        t.irq_kind = f.u8(19)?.unwrap_or(t.irq_kind);
        t.channel = f.u8(20)?.unwrap_or(t.channel);
        self.dma_8bit = f.u8(21)?.unwrap_or(self.dma_8bit);
        self.dma_16bit = f.u8(22)?.unwrap_or(self.dma_16bit);
        t.autoinit = f.bool(23)?.unwrap_or(t.autoinit);
        t.activity = if f.bool(25)?.unwrap_or(false) {
            Activity::Waiting
        } else if t.bytes_left != 0 {
            Activity::Playing
        } else {
            Activity::Idle
        };
        t.paused = f.bool(26)?.unwrap_or(t.paused);
        // v86 does not round what a time constant gives. Casts from float saturate.
        t.rate = f.f64(27)?.map_or(t.rate, |rate| rate.min(MAX_RATE) as u32);
        self.asp = f.u8s(31)?.unwrap_or(self.asp);
        if let Some(number) = f.u32(34)? {
            let known = SB16_IRQS.iter().position(|irq| u32::from(*irq) == number);
            self.irq_select = known.unwrap_or(self.irq_select);
        }
        if let Some(flags) = f.u8s::<16>(35)? {
            let set =
                |kind: u8| if flags.get(usize::from(kind)).is_some_and(|flag| *flag != 0) { kind } else { 0 };
            self.triggered = set(IRQ_8BIT) | set(IRQ_16BIT);
        }
        Ok(())
    }

    fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        if f.i64(0)? != Some(VERSION) {
            return Err(FieldError::at(0, "unknown layout"));
        }
        self.args = f.bytes_up_to(1, ARGUMENTS)?.unwrap_or_default();
        self.answers = f.bytes_up_to(2, ANSWERS)?.unwrap_or_default();
        if let Some(n) = f.u32(3)? {
            let known = ACTIVITIES.get(n as usize).copied();
            self.transfer.activity = known.ok_or_else(|| FieldError::at(3, format!("{n} is unknown")))?;
        }
        self.transfer.bytes_left = f.u32(4)?.unwrap_or(self.transfer.bytes_left);
        self.transfer.due = read_time(f, 5)?.unwrap_or(self.transfer.due);
        self.mpu_answer = f.u8(6)?;
        self.mpu_last = f.u8(7)?.unwrap_or(0);
        self.direct.0 = [f.u16(8)?.unwrap_or(0) as i16, f.u16(9)?.unwrap_or(0) as i16];
        self.direct.1 = read_time(f, 10)?.unwrap_or(0);
        Ok(())
    }
}

/// A transfer as it can be at guest time `now`.
fn sound(mut t: Transfer, now: VmTime) -> Transfer {
    t.sample_count = t.sample_count.min(MAX_SAMPLES);
    t.bytes_count = t.bytes_count.min(2 * MAX_SAMPLES);
    t.bytes_left = t.bytes_left.min(2 * MAX_SAMPLES);
    t.bytes_block = t.bytes_block.min(BLOCK_BYTES as u32);
    if t.activity == Activity::Playing && t.bytes_block < 2 {
        t.bytes_block = block_size(t.bytes_count, t.bytes_per_sample());
    }
    t.irq_kind &= IRQ_8BIT | IRQ_16BIT;
    t.channel &= 7;
    t.rate = t.rate.min(MAX_RATE as u32);
    // The guest may have changed the rate since the block began: what lasts is bounded by the slowest one.
    let longest = u64::from(MAX_SAMPLES) * NS_PER_SEC / u64::from(SB16_MIN_RATE);
    t.due = t.due.min(now.saturating_add(longest));
    t
}

#[cfg(test)]
mod tests {
    use emu_core::irq::IrqLine;

    use super::*;
    use crate::device::Device;
    use crate::testing::TestBoard;

    const LINE: IrqLine = IrqLine::wired_to(5);

    fn make() -> Sb16 {
        Sb16::new(SB16_IRQS.map(IrqLine::wired_to))
    }

    fn powered() -> (TestBoard, Sb16) {
        let (mut board, mut card) = (TestBoard::new(), make());
        board.power_up(&mut card, 9);
        (board, card)
    }

    /// A new card on the same board.
    fn restored(board: &mut TestBoard, state: DeviceState) -> Sb16 {
        board.irq = emu_core::irq::IrqLines::new();
        board.events = emu_core::time::EventQueue::new();
        let mut card = make();
        board.power_up(&mut card, 9);
        card.restore(&mut board.ctx(), state).unwrap();
        card
    }

    fn dsp(board: &mut TestBoard, card: &mut Sb16, bytes: &[u8]) {
        bytes.iter().for_each(|byte| board.outb(card, 0x22C, *byte));
    }

    fn exercise(card: &mut Sb16, board: &mut TestBoard) {
        for (register, value) in [(0x80, 4), (0x81, 0x48), (0x22, 0x9C), (0x3D, 0x7F)] {
            board.outb(card, 0x224, register);
            board.outb(card, 0x225, value);
        }
        board.dma.channels[6] = (0x1_0000, 0x8000);
        dsp(board, card, &[0xD1, 0xE4, 0x33, 0x0E, 7, 0x77, 0x10, 0x90, 0xF2]);
        board.outb(card, 0x331, 0xFF);
        board.inb(card, 0x330);
        board.outb(card, 0x331, 0xFF);
        // 16 bits, signed, stereo, auto-init, 44100 Hz; some of it is played.
        dsp(board, card, &[0x41, 0xAC, 0x44, 0xB6, 0x30, 0x39, 0x11, 0xE3]);
        board.inb(card, 0x22A);
        board.advance(card, 21_000_000);
        // A command without its last argument.
        dsp(board, card, &[0x41, 0x1F]);
    }

    crate::snapshot_conformance!(
        sb16_snapshot_conformance,
        make: make,
        exercise: exercise,
        // Derived from other elements, v86's buffer, constants.
        ignored: &[&[4], &[24], &[28], &[29], &[30]],
    );

    fn elements(state: DeviceState) -> Vec<Value> {
        let Value::Array(items) = state.v86 else { panic!("no array") };
        items
    }

    #[test]
    fn sb16_saved_array_is_the_one_v86_expects() {
        let (mut board, mut card) = powered();
        let mut asp = [0; 256];
        (asp[5], asp[9]) = (1, 0xF8);
        let expected = values![
            Value::Null,
            Value::Null,
            0,
            0,
            0,
            0,
            Value::bytes(card.mixer.registers),
            false,
            0,
            false,
            false,
            false,
            false,
            Value::Null,
            Value::Null,
            0,
            0,
            0,
            0,
            0,
            0,
            1,
            5,
            false,
            Value::bytes(vec![0; 65_536]),
            false,
            false,
            22_050,
            1,
            170,
            0,
            Value::bytes(asp),
            Value::Null,
            Value::Null,
            5,
            Value::bytes([0; 16]),
        ];
        assert_eq!(card.save(&mut board.ctx()).v86, expected);

        exercise(&mut card, &mut board);
        let items = elements(card.save(&mut board.ctx()));
        assert_eq!(items[2..6], [0x43, 0x41, 2, 0x3D].map(Value::Int));
        assert_eq!(items[8], Value::Int(0x33));
        let flags = [7, 9, 10, 11, 12].map(|index: usize| items[index].clone());
        assert_eq!(flags, [true, false, true, true, true].map(Value::Bool));
        // 4410 samples are 8820 bytes; one block of 2048 bytes has been played.
        let numbers = [4410, 8820, 8820 - 2048, 2048, 2, 6, 3, 6].map(Value::Int);
        assert_eq!(items[15..23], numbers);
        assert_eq!(items[25..27], [false, false].map(Value::Bool));
        assert_eq!(items[27..29], [44_100, 2].map(Value::Int));
        assert_eq!(items[34], Value::Int(7));
        assert_eq!(items[35], Value::bytes([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }

    /// A v86 that plays 8000 samples of 8 bits at 8 kHz and has 4000 left.
    fn playing() -> Vec<Value> {
        let (mut board, mut card) = powered();
        let mut items = elements(card.save(&mut board.ctx()));
        for (index, value) in [(15, 8000), (16, 8000), (17, 4000), (18, 1024), (19, 1), (20, 1), (27, 8000)] {
            items[index] = Value::Int(value);
        }
        items
    }

    #[test]
    fn sb16_of_a_v86_guest_plays_the_rest_and_interrupts() {
        let (mut board, _) = powered();
        let mut items = playing();
        items[35] = Value::bytes([0; 16]);
        let mut card = restored(&mut board, DeviceState::v86(Value::Array(items)));
        let saved = elements(card.save(&mut board.ctx()));
        assert_eq!(saved, playing(), "unchanged");
        board.dma.channels[1] = (0x1_0000, 4000);
        board.advance(&mut card, 499_000_000);
        assert!(!board.irq.is_high(LINE));
        board.advance(&mut card, 1_100_000);
        assert!(board.irq.is_high(LINE));
        assert_eq!((board.dma.channels[1].1, board.events.next_deadline()), (0, None));
    }

    #[test]
    fn sb16_of_a_v86_guest_that_is_paused_or_waits_does_nothing_yet() {
        let (mut board, _) = powered();
        let mut items = playing();
        items[26] = true.into();
        let mut card = restored(&mut board, DeviceState::v86(Value::Array(items)));
        board.dma.channels[1] = (0x1_0000, 4000);
        board.advance(&mut card, 1_000_000_000);
        assert!(!board.irq.is_high(LINE));
        dsp(&mut board, &mut card, &[0xD4]);
        board.advance(&mut card, 501_000_000);
        assert!(board.irq.is_high(LINE));

        let mut items = playing();
        (items[17], items[25]) = (0.into(), true.into());
        let mut card = restored(&mut board, DeviceState::v86(Value::Array(items)));
        board.advance(&mut card, 100_000_000);
        board.dma.channels[1] = (0x1_0000, 8000);
        board.advance(&mut card, 999_000_000);
        assert!(!board.irq.is_high(LINE));
        board.advance(&mut card, 3_000_000);
        assert!(board.irq.is_high(LINE));
    }

    #[test]
    fn sb16_of_a_v86_guest_keeps_its_resources_and_rounds_its_rate() {
        let (mut board, _) = powered();
        let mut items = playing();
        let mut flags = [0; 16];
        flags[2] = 1;
        (items[17], items[21], items[22]) = (0.into(), 3.into(), 7.into());
        (items[27], items[34], items[35]) = (10_989.010_989.into(), 10.into(), Value::bytes(flags));
        let mut card = restored(&mut board, DeviceState::v86(Value::Array(items)));
        assert!(board.irq.is_high(IrqLine::wired_to(10)) && !board.irq.is_high(LINE));
        for (register, value) in [(0x80, 8), (0x81, 0x88), (0x82, 0x22)] {
            board.outb(&mut card, 0x224, register);
            assert_eq!(board.inb(&mut card, 0x225), value);
        }
        assert_eq!(elements(card.save(&mut board.ctx()))[27], Value::Int(10_989));
    }

    #[test]
    fn sb16_saved_while_it_plays_goes_on_without_a_gap() {
        let (mut board, mut card) = powered();
        exercise(&mut card, &mut board);
        let (left, deadline) = (board.dma.channels[6], board.events.next_deadline());
        assert!(deadline.is_some());
        let state = card.save(&mut board.ctx());
        let mut card = restored(&mut board, state);
        assert!(board.irq.is_high(IrqLine::wired_to(7)));
        assert_eq!(board.events.next_deadline(), deadline);
        board.inb(&mut card, 0x22E);
        assert!(!board.irq.is_high(IrqLine::wired_to(7)));
        // The rest of the answer, the MPU-401's and the command's last argument.
        assert_eq!([0x22A, 0x22A, 0x330].map(|port| board.inb(&mut card, port)), [b'O', b'P', 0xFE]);
        dsp(&mut board, &mut card, &[0x40]);
        assert_eq!(card.transfer.rate, 8000);
        // 4410 samples at 44100 Hz are 50 ms, of which 21 have passed; the new rate is slower.
        board.advance(&mut card, 200_000_000);
        assert!(board.irq.is_high(IrqLine::wired_to(7)));
        assert!(left.1 - board.dma.channels[6].1 >= 8820 - 2048);
    }

    #[test]
    fn sb16_saved_after_its_rate_rose_ends_the_block_when_it_would_have() {
        let (mut board, mut card) = powered();
        board.dma.channels[1] = (0x1000, 0x1000);
        // 8-bit mono at 5 kHz, then 44.1 kHz while the first block plays.
        dsp(&mut board, &mut card, &[0x41, 0x13, 0x88, 0xC6, 0x00, 0xFF, 0x01, 0x41, 0xAC, 0x44]);
        board.advance(&mut card, 1_000_000);
        let due = board.events.next_deadline();
        assert!(due.is_some_and(|at| at > board.now + 20_000_000), "a block of 5 kHz");
        let saved = card.save(&mut board.ctx());
        let _ = restored(&mut board, saved);
        assert_eq!(board.events.next_deadline(), due);
    }

    #[test]
    fn sb16_saved_within_a_silence_ends_it_in_time() {
        let (mut board, mut card) = powered();
        dsp(&mut board, &mut card, &[0x41, 0x1F, 0x40, 0x80, 0x3F, 0x1F]);
        board.advance(&mut card, 400_000_000);
        let mut state = card.save(&mut board.ctx());
        let mut card =
            restored(&mut board, DeviceState { v86: state.v86.clone(), extra: state.extra.clone() });
        board.advance(&mut card, 599_000_000);
        assert!(!board.irq.is_high(LINE));
        board.advance(&mut card, 1_000_000);
        assert!(board.irq.is_high(LINE));
        // A silence that never ends is none.
        let Value::Array(items) = &mut state.extra else { panic!("no array") };
        items[5] = Value::Int(i64::MAX);
        let mut card = restored(&mut board, state);
        board.advance(&mut card, 66 * NS_PER_SEC);
        assert!(board.irq.is_high(LINE));
    }
}
