//! The host's CPU runs a case in 32-bit compatibility mode (user code segment 23h).
//!
//! Everything lies below 4 GiB: the instruction under test, a data arena, the thunks that enter and
//! leave. Faults arrive as signals on an alternate stack; the handler notes vector, error code, CR2
//! and EIP and resumes in a thunk that leaves. That thunk saves the x87 and SSE state too: returning
//! from the signal has restored it.
#![allow(unsafe_code)] // running machine code is the purpose of this module

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

mod thunks;

use thunks::{enter_thunk, leave_thunk, skip_thunk};

use crate::fp::{FpState, IMAGE_LEN};
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// Thunks and the block that exchanges registers with them.
const THUNK: u32 = 0x1F_5000;
const LEAVE: u32 = THUNK + 0x800;
const BLOCK: u32 = 0x1E_5000;
const PAGE: usize = 4096;

/// Offsets in the exchange block.
mod at {
    pub(super) const GPR: u32 = 0;
    pub(super) const EFLAGS: u32 = 32;
    pub(super) const RSP: u32 = 40;
    pub(super) const FAR: u32 = 48;
    pub(super) const OUT_GPR: u32 = 64;
    pub(super) const OUT_EFLAGS: u32 = 96;
    pub(super) const FAULT: u32 = 100;
    pub(super) const ERROR: u32 = 104;
    pub(super) const CR2: u32 = 108;
    pub(super) const EIP: u32 = 112;
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
    (BLOCK + offset) as usize as *mut u32
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

fn map(at: u32, len: usize, executable: bool) -> bool {
    let mut prot = libc::PROT_READ | libc::PROT_WRITE;
    if executable {
        prot |= libc::PROT_EXEC;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE cannot take away another mapping.
    let p = unsafe { libc::mmap(at as usize as *mut libc::c_void, len, prot, flags, -1, 0) };
    p as usize == at as usize
}

fn poke(at: u32, bytes: &[u8]) {
    // SAFETY: callers write to pages they mapped, within their length.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as usize as *mut u8, bytes.len()) }
}

fn peek(at: u32, bytes: &mut [u8]) {
    // SAFETY: callers read from pages they mapped, within their length.
    unsafe { std::ptr::copy_nonoverlapping(at as usize as *const u8, bytes.as_mut_ptr(), bytes.len()) }
}

const SKIP: u32 = THUNK + 0xC00;

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler.
    let g = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let cs = g[libc::REG_CSGSFS as usize] & 0xFFFF;
    if cs != 0x23 {
        // A fault of the test program itself: die as without handler.
        // SAFETY: plain libc calls, async-signal-safe.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::abort();
        }
    }
    let regs = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
    ];
    for (n, r) in regs.into_iter().enumerate() {
        write(at::OUT_GPR + 4 * n as u32, g[r as usize] as u32);
    }
    write(at::OUT_EFLAGS, g[libc::REG_EFL as usize] as u32);
    write(at::FAULT, g[libc::REG_TRAPNO as usize] as u32 + 1);
    write(at::ERROR, g[libc::REG_ERR as usize] as u32);
    write(at::CR2, g[libc::REG_CR2 as usize] as u32);
    write(at::EIP, g[libc::REG_RIP as usize] as u32);
    g[libc::REG_RIP as usize] = i64::from(SKIP);
    g[libc::REG_CSGSFS as usize] = (g[libc::REG_CSGSFS as usize] & !0xFFFF) | 0x33;
    g[libc::REG_RSP as usize] = i64::from(read(at::RSP)) | i64::from(read(at::RSP + 4)) << 32;
    g[libc::REG_EFL as usize] = 2;
}

fn install_handlers() -> bool {
    const STACK: usize = 64 * 1024;
    // SAFETY: standard use of sigaltstack and sigaction; the stack is leaked on purpose. The
    // alternate stack belongs to the calling thread: cases run on the thread that opened the oracle
    // or after `use_on_this_thread`.
    unsafe {
        let stack = libc::mmap(
            std::ptr::null_mut(),
            STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        let ss = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
        if libc::sigaltstack(&ss, std::ptr::null_mut()) != 0 {
            return false;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP]
            .into_iter()
            .all(|s| libc::sigaction(s, &action, std::ptr::null_mut()) == 0)
    }
}

fn open() -> Option<Silicon> {
    let mapped = map(BLOCK, PAGE, false)
        && map(THUNK, PAGE, true)
        && map(CODE, 2 * PAGE, true)
        && map(ARENA, ARENA_LEN as usize, false);
    if !mapped {
        return None;
    }
    poke(THUNK, &enter_thunk().ok()?);
    poke(LEAVE, &leave_thunk().ok()?);
    poke(SKIP, &skip_thunk().ok()?);
    write(at::FAR, CODE);
    write(at::FAR + 4, 0x23);
    Some(Silicon { _private: () })
}

impl Silicon {
    /// The oracle, if this host can be one. Signals are taken over on the calling thread.
    pub fn get() -> Option<MutexGuard<'static, Self>> {
        let silicon = SILICON.get_or_init(|| open().map(Mutex::new)).as_ref()?;
        let guard = silicon.lock().unwrap_or_else(PoisonError::into_inner);
        install_handlers().then_some(guard)
    }

    /// Runs `code` (one or more instructions) from the given state.
    pub fn run(&mut self, code: &[u8], before: &State) -> Outcome {
        let mut bytes = code.to_vec();
        // jmp far 33h:LEAVE
        bytes.push(0xEA);
        bytes.extend_from_slice(&LEAVE.to_le_bytes());
        bytes.extend_from_slice(&[0x33, 0]);
        poke(CODE, &bytes);
        poke(ARENA, &before.arena);
        poke(BLOCK + at::FX, &before.fp.to_image());
        for (n, r) in before.gpr.iter().enumerate() {
            write(at::GPR + 4 * n as u32, *r);
        }
        write(at::EFLAGS, before.eflags | 0x202);
        write(at::FAULT, 0);
        // SAFETY: THUNK holds the entering thunk, a function without arguments that follows the C
        // ABI: it saves callee-saved registers and comes back through LEAVE or SKIP. Only code below
        // 4 GiB runs in between, with ring 3 rights; stray writes by a case are confined by what is
        // mapped below 4 GiB (position-independent hosts keep nothing else there).
        unsafe {
            let enter: extern "C" fn() = std::mem::transmute(THUNK as usize);
            enter();
        }
        let mut gpr = [0; 8];
        for (n, r) in gpr.iter_mut().enumerate() {
            *r = read(at::OUT_GPR + 4 * n as u32);
        }
        let mut arena = vec![0; ARENA_LEN as usize];
        peek(ARENA, &mut arena);
        let mut image = [0; IMAGE_LEN];
        peek(BLOCK + at::OUT_FX, &mut image);
        let fp = FpState::from_image(&image);
        let fault = match read(at::FAULT) {
            0 => None,
            n => {
                let vector = (n - 1) as u8;
                let cr2 = if vector == 14 { read(at::CR2) } else { 0 };
                Some(Fault { vector, error: read(at::ERROR), cr2, eip: read(at::EIP) })
            }
        };
        Outcome { state: State { gpr, eflags: read(at::OUT_EFLAGS), fp, arena }, fault }
    }
}
