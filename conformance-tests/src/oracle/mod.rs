//! The host's CPU runs a case in 32-bit compatibility mode: user code segment 23h or one of the LDT.
//!
//! Code, arena and thunks lie below 4 GiB, what belongs to the host above. Faults arrive as signals on an
//! alternate stack; the handler notes registers, vector, error code and CR2 and resumes in a thunk that
//! leaves. That thunk saves the x87 and SSE state too: returning from the signal has restored it.
#![allow(unsafe_code)] // running machine code is the purpose of this module

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

mod host;
mod signals;
mod thunks;

pub use host::processor_time;
use thunks::{enter_thunk, leave_thunk, skip_thunk};

use crate::fp::{FpState, IMAGE_LEN};
use crate::layout::{
    CODE_LEN, CS, ENDLESS, EXIT_CS, End, LEAVE, Processor, Registers, THUNK, run, with_exit,
};
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// The block that exchanges registers with the thunks; 32-bit code cannot reach it.
const BLOCK: u64 = 0x1_0000_5000;
const SKIP: u32 = THUNK + 0xC00;
const PAGE: usize = 4096;

/// Offsets in the exchange block.
mod at {
    pub(super) const GPR: u32 = 0;
    pub(super) const EFLAGS: u32 = 32;
    pub(super) const RSP: u32 = 40;
    pub(super) const FAR: u32 = 48;
    pub(super) const FS_BASE: u32 = 56;
    pub(super) const OUT_GPR: u32 = 64;
    pub(super) const OUT_EFLAGS: u32 = 96;
    pub(super) const FAULT: u32 = 100;
    pub(super) const ERROR: u32 = 104;
    pub(super) const CR2: u32 = 108;
    pub(super) const EIP: u32 = 112;
    pub(super) const USE_FP: u32 = 116;
    pub(super) const SEG: u32 = 128;
    pub(super) const OUT_SEG: u32 = 144;
    /// Cases begun; alarms seen during the present one.
    pub(super) const CASES: u32 = 160;
    pub(super) const ALARM: u32 = 164;
    pub(super) const ALARMS: u32 = 168;
    /// FXSAVE images: the case's before and after, the host's.
    pub(super) const FX: u32 = 0x200;
    pub(super) const OUT_FX: u32 = 0x400;
    pub(super) const HOST_FX: u32 = 0x600;
}

/// The silicon. One case at a time.
pub struct Silicon {
    _private: (),
}

static SILICON: OnceLock<Option<Mutex<Silicon>>> = OnceLock::new();

fn block(offset: u32) -> *mut u32 {
    (BLOCK + u64::from(offset)) as usize as *mut u32
}

fn read(offset: u32) -> u32 {
    // SAFETY: the block is a mapped, aligned page for the life of the process once `map` succeeded,
    // and only the holder of the mutex (or the signal handler on its thread) uses it.
    unsafe { block(offset).read_volatile() }
}

fn write(offset: u32, v: u32) {
    // SAFETY: as in `read`.
    unsafe { block(offset).write_volatile(v) }
}

fn poke(at: u64, bytes: &[u8]) {
    // SAFETY: callers write to pages they mapped, within their length.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as usize as *mut u8, bytes.len()) }
}

fn peek(at: u64, bytes: &mut [u8]) {
    // SAFETY: callers read from pages they mapped, within their length.
    unsafe { std::ptr::copy_nonoverlapping(at as usize as *const u8, bytes.as_mut_ptr(), bytes.len()) }
}

/// Code or arena contain `at..at+len`.
fn is_memory_of_case(at: u32, len: u32) -> bool {
    let inside =
        |start: u32, size: u32| at >= start && u64::from(at) + u64::from(len) <= u64::from(start + size);
    inside(CODE, CODE_LEN) || inside(ARENA, ARENA_LEN)
}

fn open() -> Option<Silicon> {
    if !host::can_write_fs_base() {
        return None;
    }
    let mapped = host::map(BLOCK, PAGE, false)
        && host::map(THUNK.into(), PAGE, true)
        && host::map(CODE.into(), CODE_LEN as usize, true)
        && host::map(ARENA.into(), ARENA_LEN as usize, false);
    if !mapped {
        return None;
    }
    poke(THUNK.into(), &enter_thunk().ok()?);
    poke(LEAVE.into(), &leave_thunk().ok()?);
    poke(SKIP.into(), &skip_thunk().ok()?);
    // Whatever strays into unused code faults: HLT is privileged.
    poke(CODE.into(), &[0xF4; CODE_LEN as usize]);
    let sealed = host::seal_code(THUNK.into(), PAGE) && host::install_ldt();
    sealed.then_some(Silicon { _private: () })
}

impl Silicon {
    /// The oracle, if this host can be one: 64-bit Linux whose 32-bit code runs at the speed of hardware
    /// (some hypervisors interpret). Signals are taken over on the calling thread.
    pub fn get() -> Option<MutexGuard<'static, Self>> {
        let silicon = SILICON.get_or_init(|| {
            let mut silicon = open()?;
            (signals::install() && silicon.is_hardware()).then(|| Mutex::new(silicon))
        });
        let guard = silicon.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        signals::install().then_some(guard)
    }

    /// At least 100 million instructions per second in a loop of DEC and JNZ.
    fn is_hardware(&mut self) -> bool {
        const ROUNDS: u32 = 4_000_000;
        let mut code = vec![0xB9];
        code.extend_from_slice(&ROUNDS.to_le_bytes());
        code.extend_from_slice(&[0x49, 0x75, 0xFD]);
        self.store(CODE, &with_exit(&code, true));
        let mut regs = Registers::default();
        regs.gpr[4] = ARENA + 0x1000;
        // The best of a few.
        (0..8).any(|_| {
            let start = processor_time();
            let end = self.exec(&regs, false);
            let time = (processor_time() - start).as_nanos();
            end.fault.is_none() && end.regs.gpr[1] == 0 && u128::from(2 * ROUNDS) * 10 >= time
        })
    }

    /// Stops cases that do not end, after one to two seconds of processor time. The main thread must be
    /// the one that runs cases.
    pub fn watch(&mut self) {
        signals::arm_watchdog();
    }

    /// Runs `code` (one or more instructions) from the given state in flat 32-bit segments.
    pub fn run(&mut self, code: &[u8], before: &State) -> Outcome {
        run(self, code, before)
    }
}

impl Processor for Silicon {
    fn store(&mut self, at: u32, bytes: &[u8]) {
        assert!(is_memory_of_case(at, bytes.len() as u32));
        poke(at.into(), bytes);
    }

    fn memory(&self, at: u32, len: u32) -> &[u8] {
        assert!(is_memory_of_case(at, len));
        // SAFETY: mapped for the life of the process; no case runs while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(at as usize as *const u8, len as usize) }
    }

    fn exec(&mut self, before: &Registers, fp: bool) -> End {
        for (n, r) in before.gpr.iter().enumerate() {
            write(at::GPR + 4 * n as u32, *r);
        }
        for n in 0..3 {
            let pair = u32::from(before.seg[2 * n]) | u32::from(before.seg[2 * n + 1]) << 16;
            write(at::SEG + 4 * n as u32, pair);
        }
        write(at::EFLAGS, before.eflags | 0x202);
        write(at::FAR, before.eip);
        write(at::FAR + 4, before.seg[CS].into());
        write(at::FAULT, 0);
        write(at::USE_FP, fp.into());
        if fp {
            poke(BLOCK + u64::from(at::FX), &before.fp.to_image());
        }
        write(at::CASES, read(at::CASES).wrapping_add(1));
        // SAFETY: THUNK holds the entering thunk, a function without arguments that follows the C
        // ABI: it saves callee-saved registers and comes back through LEAVE or SKIP. Only code below
        // 4 GiB runs in between, with ring 3 rights, and reaches nothing above.
        unsafe {
            let enter: extern "C" fn() = std::mem::transmute(THUNK as usize);
            enter();
        }
        let mut regs = Registers { eflags: read(at::OUT_EFLAGS), ..Registers::default() };
        for (n, r) in regs.gpr.iter_mut().enumerate() {
            *r = read(at::OUT_GPR + 4 * n as u32);
        }
        for n in 0..3 {
            let pair = read(at::OUT_SEG + 4 * n as u32);
            regs.seg[2 * n] = pair as u16;
            regs.seg[2 * n + 1] = (pair >> 16) as u16;
        }
        if fp {
            let mut image = [0; IMAGE_LEN];
            peek(BLOCK + u64::from(at::OUT_FX), &mut image);
            regs.fp = FpState::from_image(&image);
        } else {
            regs.fp = before.fp.clone();
        }
        let fault = match read(at::FAULT) {
            0 => {
                regs.eip = LEAVE;
                regs.seg[CS] = EXIT_CS;
                None
            }
            n => {
                let vector = (n - 1) as u8;
                let cr2 = if vector == 14 { read(at::CR2) } else { 0 };
                regs.eip = read(at::EIP);
                let error = if vector == ENDLESS { 0 } else { read(at::ERROR) };
                Some(Fault { vector, error, cr2, eip: regs.eip })
            }
        };
        End { regs, fault }
    }
}
