//! Sound Blaster 16: DSP 4.05, CT1745 mixer, MPU-401 and FM as stubs.
//!
//! Output only. Samples are taken from ISA DMA at the sampling rate, paced by guest time, whether
//! anybody listens or not: a guest that waits for the end of a sound always gets it.

mod saved;

use std::any::Any;
use std::collections::VecDeque;

use emu_core::bus::AccessSize;
use emu_core::irq::IrqLine;
use emu_core::snapshot::FieldError;
use emu_core::time::{NS_PER_SEC, VmTime};

use self::saved::SavedSb16;
use super::ct1745::{Ct1745, DMA_SELECT, IRQ_SELECT, IRQ_STATUS};
use super::{AudioSink, Frame};
use crate::device::{Ctx, Device, DeviceId, DeviceState, ResetKind};
use crate::limits::{SB16_DIRECT_GAP, SB16_MAX_RATE, SB16_MIN_RATE};

const COPYRIGHT: &[u8] = b"COPYRIGHT (C) CREATIVE TECHNOLOGY LTD, 1992.\0";
const VERSION: [u8; 2] = [4, 5];
/// What the DSP answers to a reset.
const RESET_ANSWER: u8 = 0xAA;
/// Rate after reset, hertz.
const DEFAULT_RATE: u32 = 22_050;
/// Samples moved at a time.
const BLOCK_SAMPLES: u32 = 1024;
/// Bytes moved at a time: 16-bit samples.
const BLOCK_BYTES: usize = 2 * BLOCK_SAMPLES as usize;
/// How often a masked DMA channel is looked at, nanoseconds.
const DMA_POLL_NS: u64 = 1_000_000;
/// Deadlines this late are not caught up with.
const MAX_LAG_NS: u64 = 200_000_000;
/// Least time between two blocks, nanoseconds.
const MIN_STEP_NS: u64 = 10_000;

const IRQ_8BIT: u8 = 1;
const IRQ_16BIT: u8 = 2;

/// Arguments of a DSP command.
fn argument_count(command: u8) -> usize {
    match command {
        0x0E | 0x14..=0x17 | 0x24 | 0x41 | 0x42 | 0x48 | 0x74..=0x77 | 0x80 => 2,
        0x0F | 0x10 | 0x40 | 0xE0 | 0xE2 | 0xE4 | 0xF9 => 1,
        0xB0..=0xCF => 3,
        _ => 0,
    }
}

/// Bytes of a transfer that are moved at a time: at least four blocks between interrupts, so that a
/// guest that watches the DMA counter sees it move.
fn block_size(bytes: u32, bytes_per_sample: u32) -> u32 {
    let quarter = ((bytes / 4) & !3).max(32);
    quarter.min(BLOCK_SAMPLES * bytes_per_sample)
}

/// What the DSP does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Idle,
    /// A transfer was started but its DMA channel is still masked.
    Waiting,
    /// Samples are being moved.
    Playing,
    /// Command 80h: silence, then an interrupt.
    Silence,
}

/// The DSP's transfer state. Names follow what a snapshot keeps.
#[derive(Clone, Debug)]
struct Transfer {
    activity: Activity,
    /// Samples between interrupts (left and right count separately).
    sample_count: u32,
    bytes_count: u32,
    bytes_left: u32,
    bytes_block: u32,
    /// Which interrupt the end raises: [`IRQ_8BIT`] or [`IRQ_16BIT`].
    irq_kind: u8,
    channel: u8,
    autoinit: bool,
    paused: bool,
    stereo: bool,
    bits16: bool,
    signed: bool,
    high_speed: bool,
    rate: u32,
    /// When the block being played, or the silence, ends.
    due: VmTime,
}

impl Transfer {
    fn new() -> Self {
        Self {
            activity: Activity::Idle,
            sample_count: 0,
            bytes_count: 0,
            bytes_left: 0,
            bytes_block: 0,
            irq_kind: 0,
            channel: 0,
            autoinit: false,
            paused: false,
            stereo: false,
            bits16: false,
            signed: false,
            high_speed: false,
            rate: DEFAULT_RATE,
            due: 0,
        }
    }

    fn bytes_per_sample(&self) -> u32 {
        if self.bits16 { 2 } else { 1 }
    }

    /// Sampling rate the card really runs at.
    fn pace(&self) -> u32 {
        self.rate.clamp(SB16_MIN_RATE, SB16_MAX_RATE)
    }

    fn next_block(&self) -> u32 {
        self.bytes_left.min(self.bytes_block).min(BLOCK_BYTES as u32)
    }

    /// Time to play `bytes`, nanoseconds.
    fn duration(&self, bytes: u32) -> u64 {
        let per_second = u64::from(self.pace() * self.bytes_per_sample()) * if self.stereo { 2 } else { 1 };
        (u64::from(bytes) * NS_PER_SEC / per_second.max(1)).max(1)
    }
}

/// The card.
pub struct Sb16 {
    command: u8,
    args: Vec<u8>,
    answers: VecDeque<u8>,
    last_answer: u8,
    mixer: Ct1745,
    speaker_on: bool,
    test_register: u8,
    asp: [u8; 256],
    transfer: Transfer,
    dma_8bit: u8,
    dma_16bit: u8,
    /// Pending interrupts: [`IRQ_8BIT`], [`IRQ_16BIT`].
    triggered: u8,
    /// Index into `irqs`.
    irq_select: usize,
    irqs: [IrqLine; 4],
    mpu_answer: Option<u8>,
    mpu_last: u8,
    /// Directly written sample (command 10h) and since when it is at the output.
    direct: (Frame, VmTime),
    sink: Option<Box<dyn AudioSink>>,
    id: DeviceId,
}

/// Board inputs the card can be set to, in the order of [`Sb16::new`]'s lines.
pub const SB16_IRQS: [u8; 4] = [2, 5, 7, 10];

impl Sb16 {
    /// First port.
    pub const BASE: u16 = 0x220;
    /// Home ports: DSP and mixer, MPU-401, FM.
    pub const PORTS: &'static [(u16, u16)] = &[(Self::BASE, 16), (0x330, 2), (0x388, 2)];

    /// A card that can raise the lines of IRQ 2, 5, 7 and 10; 5 is selected at power-up.
    pub fn new(irqs: [IrqLine; 4]) -> Self {
        let mut card = Self {
            command: 0,
            args: Vec::new(),
            answers: VecDeque::new(),
            last_answer: 0,
            mixer: Ct1745::new(),
            speaker_on: false,
            test_register: 0,
            asp: [0; 256],
            transfer: Transfer::new(),
            dma_8bit: 1,
            dma_16bit: 5,
            triggered: 0,
            irq_select: 1,
            irqs,
            mpu_answer: None,
            mpu_last: 0,
            direct: ([0; 2], 0),
            sink: None,
            id: 0,
        };
        card.reset_asp();
        card
    }

    /// Connects or disconnects the output.
    pub fn set_sink(&mut self, sink: Option<Box<dyn AudioSink>>) {
        self.sink = sink;
    }

    fn reset_asp(&mut self) {
        self.asp = [0; 256];
        for (register, value) in [(5, 0x01), (9, 0xF8)] {
            if let Some(cell) = self.asp.get_mut(register) {
                *cell = value;
            }
        }
    }

    fn reset_dsp(&mut self, ctx: &mut Ctx<'_>) {
        ctx.cancel(self.id);
        self.command = 0;
        self.args.clear();
        self.answers.clear();
        self.speaker_on = false;
        self.test_register = 0;
        self.transfer = Transfer::new();
        self.triggered = 0;
        self.direct = ([0; 2], ctx.now);
        self.reset_asp();
        self.sync_irq(ctx);
    }

    fn sync_irq(&self, ctx: &mut Ctx<'_>) {
        if let Some(&line) = self.irqs.get(self.irq_select) {
            ctx.irq.set(line, self.triggered != 0);
        }
    }

    fn trigger(&mut self, ctx: &mut Ctx<'_>, kind: u8) {
        self.triggered |= kind;
        self.sync_irq(ctx);
    }

    fn acknowledge(&mut self, ctx: &mut Ctx<'_>, kind: u8) {
        self.triggered &= !kind;
        self.sync_irq(ctx);
    }

    // ---- DSP commands --------------------------------------------------------------------------

    fn write_dsp(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        if self.command == 0 {
            self.command = value;
            self.args.clear();
        } else {
            self.args.push(value);
        }
        if self.args.len() >= argument_count(self.command) {
            let command = std::mem::take(&mut self.command);
            let mut args = [0; 3];
            args.iter_mut().zip(self.args.drain(..)).for_each(|(to, from)| *to = from);
            self.execute(ctx, command, args);
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.clear();
        self.answers.extend(bytes);
    }

    fn execute(&mut self, ctx: &mut Ctx<'_>, command: u8, [first, second, third]: [u8; 3]) {
        let word = |low: u8, high: u8| u32::from(low) | u32::from(high) << 8;
        match command {
            0x0E => {
                if let Some(cell) = self.asp.get_mut(usize::from(first)) {
                    *cell = second;
                }
            }
            0x0F => {
                let value = self.asp.get(usize::from(first)).copied().unwrap_or(0);
                self.answer(&[value]);
            }
            0x10 => self.direct_output(ctx, first),
            0x14 | 0x15 => {
                self.transfer.sample_count = word(first, second) + 1;
                self.start_8bit(ctx, false, false);
            }
            0x1C => self.start_8bit(ctx, true, false),
            0x90 => self.start_8bit(ctx, true, true),
            0x20 => self.answer(&[0x7F]), // input is silent
            0x40 => {
                let channels = if self.transfer.stereo { 2 } else { 1 };
                self.transfer.rate = 1_000_000 / (256 - u32::from(first)) / channels;
            }
            0x41 | 0x42 => self.transfer.rate = word(second, first),
            0x48 => self.transfer.sample_count = word(first, second) + 1,
            0x80 => {
                let ns = u64::from(word(first, second) + 1) * NS_PER_SEC / u64::from(self.transfer.pace());
                self.transfer.activity = Activity::Silence;
                self.transfer.due = ctx.now.saturating_add(ns);
                ctx.schedule(self.id, self.transfer.due);
            }
            // Bit 3: recording, which is not there.
            0xB0..=0xCF if command & 8 == 0 => {
                let bits16 = command & 0xF0 == 0xB0;
                let t = &mut self.transfer;
                t.bits16 = bits16;
                t.irq_kind = if bits16 { IRQ_16BIT } else { IRQ_8BIT };
                t.channel = if bits16 { self.dma_16bit } else { self.dma_8bit };
                t.autoinit = command & 4 != 0;
                t.signed = first & 0x10 != 0;
                t.stereo = first & 0x20 != 0;
                t.sample_count = word(second, third) + 1;
                self.start_transfer(ctx);
            }
            0xD0 | 0xD5 => self.pause(ctx),
            0xD4 | 0xD6 => self.resume(ctx),
            0xD1 => self.speaker_on = true,
            0xD3 => self.speaker_on = false,
            0xD8 => self.answer(&[if self.speaker_on { 0xFF } else { 0 }]),
            0xD9 | 0xDA => self.transfer.autoinit = false,
            0xE0 => self.answer(&[!first]),
            0xE1 => self.answer(&VERSION),
            0xE3 => self.answer(COPYRIGHT),
            0xE4 => self.test_register = first,
            0xE8 => self.answer(&[self.test_register]),
            0xF2 => self.trigger(ctx, IRQ_8BIT),
            0xF3 => self.trigger(ctx, IRQ_16BIT),
            0xF9 => self.answer(&[match first {
                0x0E => 0xFF,
                0x0F => 0x07,
                0x37 => 0x38,
                _ => 0,
            }]),
            _ => {}
        }
    }

    fn start_8bit(&mut self, ctx: &mut Ctx<'_>, autoinit: bool, high_speed: bool) {
        let t = &mut self.transfer;
        t.irq_kind = IRQ_8BIT;
        t.channel = self.dma_8bit;
        t.autoinit = autoinit;
        t.high_speed = high_speed;
        t.signed = false;
        t.bits16 = false;
        self.start_transfer(ctx);
    }

    // ---- DMA -----------------------------------------------------------------------------------

    fn start_transfer(&mut self, ctx: &mut Ctx<'_>) {
        let t = &mut self.transfer;
        t.bytes_count = t.sample_count * t.bytes_per_sample();
        t.bytes_block = block_size(t.bytes_count, t.bytes_per_sample());
        t.activity = Activity::Waiting;
        self.begin_when_unmasked(ctx);
    }

    fn begin_when_unmasked(&mut self, ctx: &mut Ctx<'_>) {
        let t = &mut self.transfer;
        if ctx.dma.remaining(t.channel) == 0 {
            return ctx.schedule(self.id, ctx.now.saturating_add(DMA_POLL_NS));
        }
        t.activity = Activity::Playing;
        t.bytes_left = t.bytes_count;
        t.paused = false;
        t.due = ctx.now;
        self.schedule_block(ctx);
    }

    /// The next block is over when it has been played.
    fn schedule_block(&mut self, ctx: &mut Ctx<'_>) {
        let t = &mut self.transfer;
        if t.activity != Activity::Playing || t.paused {
            return;
        }
        if t.bytes_left == 0 {
            t.activity = Activity::Idle;
            return;
        }
        if ctx.now.saturating_sub(t.due) > MAX_LAG_NS {
            t.due = ctx.now;
        }
        t.due = t.due.saturating_add(t.duration(t.next_block()));
        // A late card catches up, but never with more than one block per step.
        ctx.schedule(self.id, t.due.max(ctx.now.saturating_add(MIN_STEP_NS)));
    }

    fn pause(&mut self, ctx: &mut Ctx<'_>) {
        self.transfer.paused = true;
        if self.transfer.activity == Activity::Playing {
            ctx.cancel(self.id);
        }
    }

    fn resume(&mut self, ctx: &mut Ctx<'_>) {
        if std::mem::take(&mut self.transfer.paused) && self.transfer.activity == Activity::Playing {
            self.transfer.due = ctx.now;
            self.schedule_block(ctx);
        }
    }

    /// A block has been played: fetch it (the DMA counter moves now) and account for it.
    fn finish_block(&mut self, ctx: &mut Ctx<'_>) {
        let mut bytes = [0u8; BLOCK_BYTES];
        let wanted = self.transfer.next_block() as usize;
        let got = match bytes.get_mut(..wanted) {
            Some(block) => ctx.dma.read_memory(ctx.mem, self.transfer.channel, block).min(wanted),
            None => 0,
        };
        if got == 0 {
            // The guest masked the channel in the middle; go on when it is open again.
            self.transfer.due = ctx.now;
            return ctx.schedule(self.id, ctx.now.saturating_add(DMA_POLL_NS));
        }
        if let Some(block) = bytes.get(..got) {
            self.play(block);
        }
        let t = &mut self.transfer;
        t.bytes_left = t.bytes_left.saturating_sub(got as u32);
        if t.bytes_left == 0 {
            if t.autoinit {
                t.bytes_left = t.bytes_count;
            }
            let kind = t.irq_kind;
            self.trigger(ctx, kind);
        }
        self.schedule_block(ctx);
    }

    // ---- output --------------------------------------------------------------------------------

    fn play(&mut self, bytes: &[u8]) {
        let Some(sink) = self.sink.as_mut() else { return };
        let t = &self.transfer;
        let gain = self.mixer.voice_gain();
        let sample = |raw: &[u8]| -> i16 {
            match (raw, t.signed) {
                (&[low, high], true) => i16::from_le_bytes([low, high]),
                (&[low, high], false) => (u16::from_le_bytes([low, high]) ^ 0x8000) as i16,
                (&[byte], true) => i16::from(byte as i8) << 8,
                (&[byte], false) => i16::from((byte ^ 0x80) as i8) << 8,
                _ => 0,
            }
        };
        let mut samples = bytes.chunks_exact(t.bytes_per_sample() as usize).map(sample);
        let mut frames = Vec::with_capacity(bytes.len());
        while let Some(left) = samples.next() {
            let right = if t.stereo { samples.next().unwrap_or(left) } else { left };
            frames.push(amplify([left, right], gain));
        }
        sink.play(t.pace(), &frames);
    }

    /// Command 10h: the sample stays at the output until the next one comes.
    fn direct_output(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        let (frame, since) = self.direct;
        let level = i16::from((value ^ 0x80) as i8) << 8;
        self.direct = (amplify([level; 2], self.mixer.voice_gain()), ctx.now);
        let Some(sink) = self.sink.as_mut() else { return };
        let due =
            u128::from(ctx.now.saturating_sub(since)) * u128::from(DEFAULT_RATE) / u128::from(NS_PER_SEC);
        let count = u64::try_from(due).unwrap_or(u64::MAX).min(SB16_DIRECT_GAP);
        sink.play(DEFAULT_RATE, &vec![frame; count as usize]);
    }

    // ---- ports ---------------------------------------------------------------------------------

    fn read_mixer(&self) -> u8 {
        match self.mixer.index {
            IRQ_SELECT => 1 << self.irq_select,
            DMA_SELECT => 1 << self.dma_8bit | 1 << self.dma_16bit,
            IRQ_STATUS => 0x20 | self.triggered,
            register => self.mixer.read(register),
        }
    }

    fn write_mixer(&mut self, ctx: &mut Ctx<'_>, value: u8) {
        match self.mixer.index {
            IRQ_SELECT => {
                if let Some(selected) = (0..4).rev().find(|bit| value & 1 << bit != 0) {
                    if let Some(&old) = self.irqs.get(self.irq_select) {
                        ctx.irq.set(old, false);
                    }
                    self.irq_select = selected;
                    self.sync_irq(ctx);
                }
            }
            DMA_SELECT => {
                let chosen = |channels: [u8; 3]| channels.into_iter().rev().find(|c| value & 1 << c != 0);
                self.dma_8bit = chosen([0, 1, 3]).unwrap_or(self.dma_8bit);
                self.dma_16bit = chosen([5, 6, 7]).unwrap_or(self.dma_16bit);
            }
            IRQ_STATUS => {}
            register => self.mixer.write(register, value),
        }
    }

    fn read(&mut self, ctx: &mut Ctx<'_>, port: u16) -> u8 {
        match port {
            0x224 => self.mixer.index,
            0x225 => self.read_mixer(),
            0x22A => {
                self.last_answer = self.answers.pop_front().unwrap_or(self.last_answer);
                self.last_answer
            }
            0x22C => 0x7F, // always ready for a command
            0x22E => {
                self.acknowledge(ctx, IRQ_8BIT);
                let ready = !self.answers.is_empty() && !self.transfer.high_speed;
                u8::from(ready) << 7 | 0x7F
            }
            0x22F => {
                self.acknowledge(ctx, IRQ_16BIT);
                0
            }
            0x330 => {
                self.mpu_last = self.mpu_answer.take().unwrap_or(self.mpu_last);
                self.mpu_last
            }
            0x331 => u8::from(self.mpu_answer.is_none()) << 7,
            _ => 0xFF,
        }
    }

    fn write(&mut self, ctx: &mut Ctx<'_>, port: u16, value: u8) {
        match port {
            0x224 => self.mixer.index = value,
            0x225 => self.write_mixer(ctx, value),
            0x226 => {
                if self.transfer.high_speed {
                    self.transfer.high_speed = false;
                } else if value != 0 {
                    self.reset_dsp(ctx);
                }
                self.answer(&[RESET_ANSWER]);
            }
            0x22C => self.write_dsp(ctx, value),
            0x331 if value == 0xFF => self.mpu_answer = Some(0xFE),
            _ => {}
        }
    }
}

/// Applies gains with saturation.
fn amplify(frame: Frame, gain: [f32; 2]) -> Frame {
    let [left, right] = frame;
    let [left_gain, right_gain] = gain;
    // Casts from float saturate.
    [(f32::from(left) * left_gain) as i16, (f32::from(right) * right_gain) as i16]
}

/// First ports of the pairs that can be read as a word.
const WORD_READ: [u16; 6] = [0x220, 0x222, 0x224, 0x22E, 0x330, 0x388];
/// The same for writes.
const WORD_WRITE: [u16; 6] = [0x220, 0x222, 0x224, 0x228, 0x330, 0x388];

impl Device for Sb16 {
    fn name(&self) -> &'static str {
        "sb16"
    }

    fn attach(&mut self, id: DeviceId) {
        self.id = id;
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let bytes = match size {
            AccessSize::Byte => 1,
            AccessSize::Word if WORD_READ.contains(&port) => 2,
            AccessSize::Dword if port == Self::BASE => 4,
            _ => return None,
        };
        Some((0..bytes).fold(0, |value, i| value | u32::from(self.read(ctx, port + i)) << (8 * i)))
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let bytes = match size {
            AccessSize::Byte => 1,
            AccessSize::Word if WORD_WRITE.contains(&port) => 2,
            AccessSize::Dword if port == Self::BASE => 4,
            _ => return,
        };
        for i in 0..bytes {
            self.write(ctx, port + i, (value >> (8 * i)) as u8);
        }
    }

    fn on_event(&mut self, ctx: &mut Ctx<'_>) {
        match self.transfer.activity {
            Activity::Idle => {}
            Activity::Waiting => self.begin_when_unmasked(ctx),
            Activity::Playing => self.finish_block(ctx),
            Activity::Silence => {
                self.transfer.activity = Activity::Idle;
                self.trigger(ctx, IRQ_8BIT);
            }
        }
    }

    fn reset(&mut self, ctx: &mut Ctx<'_>, _: ResetKind) {
        for line in self.irqs {
            ctx.irq.set(line, false);
        }
        self.reset_dsp(ctx);
        self.mixer = Ct1745::new();
        (self.dma_8bit, self.dma_16bit, self.irq_select) = (1, 5, 1);
        (self.last_answer, self.mpu_answer, self.mpu_last) = (0, None, 0);
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        SavedSb16::capture(self).into_state()
    }

    fn restore(&mut self, ctx: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        let mut saved = SavedSb16::capture(self);
        saved.read(state, ctx.now)?;
        saved.apply(self, ctx);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::TestBoard;

    const LINE: IrqLine = IrqLine::wired_to(5);

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<Frame>>>);

    impl AudioSink for Recorder {
        fn play(&mut self, _: u32, frames: &[Frame]) {
            self.0.lock().unwrap().extend(frames);
        }
    }

    fn card() -> (TestBoard, Sb16, Recorder) {
        let (mut board, mut card) = (TestBoard::new(), Sb16::new(SB16_IRQS.map(IrqLine::wired_to)));
        let recorder = Recorder::default();
        card.set_sink(Some(Box::new(recorder.clone())));
        board.power_up(&mut card, 9);
        (board, card, recorder)
    }

    fn dsp(board: &mut TestBoard, card: &mut Sb16, bytes: &[u8]) {
        for &byte in bytes {
            assert_eq!(board.inb(card, 0x22C) & 0x80, 0);
            board.outb(card, 0x22C, byte);
        }
    }

    fn answers(board: &mut TestBoard, card: &mut Sb16) -> Vec<u8> {
        let mut out = Vec::new();
        while board.inb(card, 0x22E) & 0x80 != 0 {
            out.push(board.inb(card, 0x22A));
        }
        out
    }

    #[test]
    fn sb16_detection_finds_dsp_4_05_and_no_fm() {
        let (mut board, mut card, _) = card();
        board.outb(&mut card, 0x226, 1);
        board.outb(&mut card, 0x226, 0);
        assert_eq!(answers(&mut board, &mut card), [0xAA]);
        dsp(&mut board, &mut card, &[0xE1]);
        assert_eq!(answers(&mut board, &mut card), [4, 5]);
        dsp(&mut board, &mut card, &[0xE0, 0x3C]);
        assert_eq!(answers(&mut board, &mut card), [0xC3]);
        dsp(&mut board, &mut card, &[0xE3]);
        assert_eq!(answers(&mut board, &mut card), COPYRIGHT);
        assert_eq!([0x388, 0x389, 0x220, 0x331].map(|p| board.inb(&mut card, p)), [0xFF, 0xFF, 0xFF, 0x80]);
        board.outb(&mut card, 0x331, 0xFF);
        assert_eq!((board.inb(&mut card, 0x331), board.inb(&mut card, 0x330)), (0, 0xFE));
    }

    #[test]
    fn sb16_mixer_reports_and_changes_resources() {
        let (mut board, mut card, _) = card();
        for (register, value) in [(0x80, 2), (0x81, 0x22), (0x82, 0x20), (0x30, 0xC0)] {
            board.outb(&mut card, 0x224, register);
            assert_eq!(board.inb(&mut card, 0x225), value);
        }
        dsp(&mut board, &mut card, &[0xF2]);
        assert!(board.irq.is_high(LINE));
        board.outb(&mut card, 0x224, 0x80);
        board.outb(&mut card, 0x225, 8);
        assert!(!board.irq.is_high(LINE) && board.irq.is_high(IrqLine::wired_to(10)));
        board.inb(&mut card, 0x22F);
        assert!(board.irq.is_high(IrqLine::wired_to(10)), "the 8-bit interrupt is still pending");
        board.inb(&mut card, 0x22E);
        assert!(!board.irq.is_high(IrqLine::wired_to(10)));
    }

    #[test]
    fn sb16_single_cycle_transfer_takes_its_time_and_interrupts() {
        let (mut board, mut card, recorder) = card();
        let data: Vec<u8> = (0..8000).map(|i| i as u8).collect();
        assert!(board.mem.dma_write(0x1_0000, &data));
        board.dma.channels[1] = (0x1_0000, 8000);
        // 8000 samples at 8 kHz: one second.
        dsp(&mut board, &mut card, &[0x41, 0x1F, 0x40, 0x14, 0x3F, 0x1F]);
        board.advance(&mut card, 999_000_000);
        assert!(!board.irq.is_high(LINE));
        assert!(board.dma.channels[1].1 > 0);
        board.advance(&mut card, 1_100_000);
        assert!(board.irq.is_high(LINE));
        assert_eq!(board.dma.channels[1].1, 0);
        assert_eq!(board.events.next_deadline(), None);
        let frames = recorder.0.lock().unwrap();
        assert_eq!(frames.len(), 8000);
        assert_eq!((frames[0], frames[128], frames[255]), ([-32768; 2], [0; 2], [127 << 8; 2]));
    }

    #[test]
    fn sb16_autoinit_16_bit_stereo_interrupts_every_block_until_told_to_end() {
        let (mut board, mut card, recorder) = card();
        assert!(board.mem.dma_write(0x1_0000, &[0x34, 0x12, 0x78, 0x56].repeat(0x4000)));
        board.dma.channels[5] = (0x1_0000, 0x1_0000);
        // 44100 Hz, 4410 samples per block: two channels, so 50 ms.
        dsp(&mut board, &mut card, &[0x41, 0xAC, 0x44, 0xB6, 0x30, 0x39, 0x11]);
        for _ in 0..3 {
            board.advance(&mut card, 50_100_000);
            assert!(board.take_rise(LINE));
            board.inb(&mut card, 0x22F);
        }
        assert_eq!(recorder.0.lock().unwrap()[0], [0x1234, 0x5678]);
        dsp(&mut board, &mut card, &[0xD9]);
        board.advance(&mut card, 200_000_000);
        assert!(board.take_rise(LINE));
        assert_eq!(board.events.next_deadline(), None);
        assert_eq!(recorder.0.lock().unwrap().len(), 4 * 2205);
    }

    #[test]
    fn sb16_waits_for_an_unmasked_channel_and_can_be_paused() {
        let (mut board, mut card, _) = card();
        dsp(&mut board, &mut card, &[0x14, 0xFF, 0x00]);
        board.advance(&mut card, 1_000_000_000);
        assert!(!board.irq.is_high(LINE));
        board.dma.channels[1] = (0x1_0000, 256);
        board.advance(&mut card, 2_000_000);
        dsp(&mut board, &mut card, &[0xD0]);
        board.advance(&mut card, 1_000_000_000);
        assert!(!board.irq.is_high(LINE));
        dsp(&mut board, &mut card, &[0xD4]);
        board.advance(&mut card, 100_000_000);
        assert!(board.irq.is_high(LINE));
    }

    #[test]
    fn sb16_direct_output_holds_each_sample_and_the_gap_is_bounded() {
        let (mut board, mut card, recorder) = card();
        dsp(&mut board, &mut card, &[0x10, 0xFF]);
        board.advance(&mut card, 10_000_000);
        dsp(&mut board, &mut card, &[0x10, 0x00]);
        assert_eq!(*recorder.0.lock().unwrap(), [[0x7F00; 2]; 220]);
        board.advance(&mut card, 3_600_000_000_000);
        dsp(&mut board, &mut card, &[0x10, 0x00]);
        assert_eq!(recorder.0.lock().unwrap().len(), 220 + SB16_DIRECT_GAP as usize);
    }

    #[test]
    fn sb16_silence_command_interrupts_after_its_time() {
        let (mut board, mut card, _) = card();
        dsp(&mut board, &mut card, &[0x41, 0x1F, 0x40, 0x80, 0x3F, 0x1F]);
        board.advance(&mut card, 999_000_000);
        assert!(!board.irq.is_high(LINE));
        board.advance(&mut card, 1_000_000);
        assert!(board.irq.is_high(LINE));
    }

    #[test]
    fn sb16_served_late_catches_up() {
        let (mut board, mut card, _) = card();
        board.dma.channels[1] = (0x1_0000, 8000);
        dsp(&mut board, &mut card, &[0x41, 0x1F, 0x40, 0x14, 0x3F, 0x1F]);
        for _ in 0..10 {
            board.advance_at_once(&mut card, 50_000_000);
            board.advance_at_once(&mut card, 50_000_000);
        }
        board.advance(&mut card, 40_000_000);
        assert!(board.irq.is_high(LINE));
    }

    #[test]
    fn sb16_absurd_rates_do_not_hurry_or_stop_the_card() {
        for rate in [[0x40, 0xFF, 0xE8].as_slice(), &[0x41, 0xFF, 0xFF], &[0x41, 0, 0]] {
            let (mut board, mut card, _) = card();
            board.dma.channels[1] = (0x1_0000, 256);
            dsp(&mut board, &mut card, rate);
            dsp(&mut board, &mut card, &[0x14, 0xFF, 0x00]);
            board.advance(&mut card, 2_000_000);
            assert!(!board.irq.is_high(LINE), "{rate:?}");
            board.advance(&mut card, 400_000_000);
            assert!(board.irq.is_high(LINE), "{rate:?}");
        }
    }
}
