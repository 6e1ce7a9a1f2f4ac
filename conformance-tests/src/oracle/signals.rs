//! Faults of a case, as signals.

use super::{SKIP, at, read, write};
use crate::CODE;
use crate::layout::{CODE_LEN, ENDLESS, LEAVE, THUNK};

/// The interrupted code is that of a case. It may have gone anywhere below 4 GiB, where the host has
/// nothing but the thunks; a single-step trap behind its last instruction is still its own.
fn in_case(cs: u16, rip: u64, vector: u32) -> bool {
    let in_thunks = cs == 0x33 && (u64::from(THUNK)..u64::from(THUNK) + 0x1000).contains(&rip);
    let behind = vector == 1 && rip == u64::from(LEAVE);
    (cs != 0x33 || rip < 1 << 32) && (!in_thunks || behind)
}

/// Says where the program itself has gone wrong.
fn complain(vector: u32, cs: u16, rip: u64) {
    let mut text = *b"fault ................ cs .... vector ..\n";
    let mut put = |at: usize, digits: usize, value: u64| {
        for n in 0..digits {
            let digit = (value >> (4 * (digits - 1 - n)) & 15) as usize;
            text[at + n] = b"0123456789abcdef"[digit];
        }
    };
    put(6, 16, rip);
    put(26, 4, cs.into());
    put(38, 2, vector.into());
    // SAFETY: `text` is valid for the call, which is async-signal-safe.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // A case may have set EFLAGS.AC, which the kernel leaves to handlers.
    // SAFETY: clears one flag; the red zone is not used by a function that pushes.
    unsafe {
        std::arch::asm!("pushfq", "and dword ptr [rsp], 0xFFFBFFFF", "popfq");
    }
    // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler.
    let g = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let selectors = g[libc::REG_CSGSFS as usize] as u64;
    let (cs, ss) = (selectors as u16, (selectors >> 48) as u16);
    let rip = g[libc::REG_RIP as usize] as u64;
    let mut vector = g[libc::REG_TRAPNO as usize] as u32;
    if signal == libc::SIGALRM {
        if !in_case(cs, rip, 0) || !alarm() {
            return;
        }
        vector = ENDLESS.into();
    } else if !in_case(cs, rip, vector) {
        complain(vector, cs, rip);
        complain(g[libc::REG_ERR as usize] as u32, read(at::FAR + 4) as u16, u64::from(read(at::FAR)));
        complain(signal as u32, ss, u64::from(read(at::EFLAGS)));
        // A fault of the test program itself: die as without handler.
        // SAFETY: plain libc calls, async-signal-safe.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
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
    write(at::OUT_SEG, u32::from(cs) << 16);
    write(at::OUT_SEG + 4, ss.into());
    write(at::OUT_EFLAGS, g[libc::REG_EFL as usize] as u32);
    write(at::FAULT, vector + 1);
    write(at::ERROR, g[libc::REG_ERR as usize] as u32);
    write(at::CR2, g[libc::REG_CR2 as usize] as u32);
    write(at::EIP, rip as u32);
    g[libc::REG_RIP as usize] = i64::from(SKIP);
    g[libc::REG_CSGSFS as usize] = 0x2B << 48 | 0x33;
    g[libc::REG_EFL as usize] = 2;
}

/// True at the second alarm during the same case.
fn alarm() -> bool {
    let case = read(at::CASES);
    let alarms = if read(at::ALARM) == case { read(at::ALARMS) + 1 } else { 1 };
    write(at::ALARM, case);
    write(at::ALARMS, alarms);
    alarms > 1
}

/// Takes over the signals of faults; handlers run on a stack of their own, on the calling thread.
pub(super) fn install() -> bool {
    const STACK: usize = 64 * 1024;
    // SAFETY: standard use of sigaltstack and sigaction; the stack is leaked on purpose. The
    // alternate stack belongs to the calling thread.
    unsafe {
        let mut old: libc::stack_t = std::mem::zeroed();
        if libc::sigaltstack(std::ptr::null(), &raw mut old) != 0 {
            return false;
        }
        if old.ss_flags & libc::SS_DISABLE != 0 || old.ss_size < STACK {
            let stack = libc::mmap(
                std::ptr::null_mut(),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            let ss = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
            if libc::sigaltstack(&raw const ss, std::ptr::null_mut()) != 0 {
                return false;
            }
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGALRM]
            .into_iter()
            .all(|s| libc::sigaction(s, &raw const action, std::ptr::null_mut()) == 0)
    }
}

/// An alarm every second.
pub(super) fn arm_watchdog() {
    let second = libc::timeval { tv_sec: 1, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: second, it_value: second };
    // SAFETY: the handler for SIGALRM is installed; `timer` is valid for the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

const _: () = assert!(CODE + CODE_LEN < THUNK);
