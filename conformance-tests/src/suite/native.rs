//! A static 32-bit program on the host's CPU, stopped at its first signal: `HLT` gives one.
#![allow(unsafe_code)] // ptrace and the time between fork and exec

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::corpus::{End, MEMORY, MEMORY_LEN, Outcome, Raised};
use crate::fp::{FpState, IMAGE_LEN};

/// CPU seconds a program may take.
const CPU_SECONDS: u64 = 5;

/// Ends the program, whatever it does.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn request(number: libc::c_uint, pid: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: every caller passes 0 or, for a request that fills a buffer, the address of one that is
    // large enough and lives until this returns.
    let result = unsafe { libc::ptrace(number, pid, 0, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until the program stops and returns the signal; an error if it ended.
fn stopped(pid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    if !libc::WIFSTOPPED(status) {
        return Err(io::Error::other(format!("the program ended on the host (wait status {status:#x})")));
    }
    Ok(libc::WSTOPSIG(status))
}

/// Runs the program and returns the state at its end.
///
/// # Errors
/// The host does not run it, or it ends without a fault.
pub fn run(image: &Path) -> io::Result<Outcome> {
    let mut command = Command::new(image);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
    // SAFETY: only async-signal-safe system calls.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: CPU_SECONDS, rlim_max: CPU_SECONDS };
            let traced = libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0;
            if traced && libc::setrlimit(libc::RLIMIT_CPU, &limit) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    let child = Guard(command.spawn()?);
    let pid = libc::pid_t::try_from(child.0.id()).map_err(io::Error::other)?;
    // exec stops the program once.
    let _ = stopped(pid)?;
    request(libc::PTRACE_CONT, pid, 0)?;
    let signal = stopped(pid)?;

    let mut regs = MaybeUninit::<libc::user_regs_struct>::zeroed();
    request(libc::PTRACE_GETREGS, pid, regs.as_mut_ptr() as usize)?;
    // SAFETY: all fields are integers; the kernel has filled them.
    let regs = unsafe { regs.assume_init() };
    let mut image = [0u8; IMAGE_LEN];
    request(libc::PTRACE_GETFPREGS, pid, image.as_mut_ptr() as usize)?;
    let program = File::open(format!("/proc/{pid}/mem"))?;
    let mut memory = vec![0; MEMORY_LEN];
    program.read_exact_at(&mut memory, u64::from(MEMORY))?;
    let eip = regs.rip as u32;
    let mut byte = [0];
    // A jump to where nothing is leaves nothing to read.
    let halted = program.read_exact_at(&mut byte, u64::from(eip)).is_ok() && byte == [0xF4];
    let end = match signal {
        libc::SIGSEGV if halted => End::Halt,
        libc::SIGSEGV => End::Fault(Raised::Protection),
        libc::SIGILL => End::Fault(Raised::Opcode),
        libc::SIGFPE => End::Fault(Raised::Arithmetic),
        libc::SIGBUS => End::Fault(Raised::Alignment),
        libc::SIGTRAP => End::Fault(Raised::Debug),
        _ => End::Lost,
    };
    let gpr = [regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi];
    Ok(Outcome {
        gpr: gpr.map(|r| r as u32),
        eip,
        eflags: regs.eflags as u32,
        fp: FpState::from_image(&image),
        memory,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::corpus::{Rig, differences};
    use emu_core::interp::Interpreter;
    use std::os::unix::fs::PermissionsExt;

    /// An ELF program at 80000h with 8 KiB of zeros at 1 MiB.
    fn program(code: &[u8]) -> Vec<u8> {
        let mut image = b"\x7FELF\x01\x01\x01".to_vec();
        image.resize(52, 0);
        for (at, v) in [(16, 0x0003_0002u32), (20, 1), (24, 0x8_0074), (28, 52), (40, 0x20_0034), (44, 2)] {
            image[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        let len = 116 + code.len() as u32;
        for v in [1, 0, 0x8_0000, 0x8_0000, len, len, 5, 4096, 1, 0, MEMORY, MEMORY, 0, 0x2000, 6, 4096] {
            image.extend_from_slice(&u32::to_le_bytes(v));
        }
        image.extend_from_slice(code);
        image
    }

    fn both(name: &str, code: &[u8]) -> Option<(Outcome, Outcome)> {
        let image = program(code);
        let ours = Rig::new(Interpreter::new()).unwrap().run(&image).unwrap();
        let file = std::env::temp_dir().join(format!("env86-native-{}-{name}", std::process::id()));
        std::fs::write(&file, image).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        let silicon = run(&file);
        std::fs::remove_file(&file).unwrap();
        match silicon {
            Ok(silicon) => Some((ours, silicon)),
            // Some containers forbid ptrace.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn host_ends_with_the_state_of_ours() {
        // mov esp, 102000h; xor eax, eax and the other registers; mov al, 7; fld1; push eax; hlt
        let code = [
            0xBC, 0x00, 0x20, 0x10, 0x00, 0x31, 0xC0, 0x31, 0xC9, 0x31, 0xD2, 0x31, 0xDB, 0x31, 0xED, 0x31,
            0xF6, 0x31, 0xFF, 0xB0, 0x07, 0xD9, 0xE8, 0x50, 0xF4,
        ];
        let Some((ours, silicon)) = both("halt", &code) else { return };
        assert_eq!(differences(&ours, &silicon), "");
        assert_eq!((silicon.end, silicon.gpr[0], silicon.memory[0x1FFC]), (End::Halt, 7, 7));
    }

    #[test]
    fn host_tells_faults_apart() {
        let undefined = [0xBC, 0x00, 0x20, 0x10, 0x00, 0x0F, 0x0B];
        // mov esp, 102000h; xor eax, eax; div al
        let division = [0xBC, 0x00, 0x20, 0x10, 0x00, 0x31, 0xC0, 0xF6, 0xF0];
        for (name, code, raised) in
            [("ud", &undefined[..], Raised::Opcode), ("de", &division[..], Raised::Arithmetic)]
        {
            let Some((ours, silicon)) = both(name, code) else { return };
            assert_eq!(silicon.end, End::Fault(raised));
            assert_eq!(differences(&ours, &silicon), "");
        }
    }
}
