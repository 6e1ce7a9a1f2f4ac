//! Code that enters and leaves the case, assembled for fixed addresses.
//!
//! R15 addresses the exchange block: 32-bit code can neither read nor write it.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{BLOCK, SKIP, at};
use crate::fp::ENVIRONMENT;
use crate::layout::{LEAVE, THUNK};

const GPR: [AsmRegister32; 8] = [eax, ecx, edx, ebx, esp, ebp, esi, edi];

/// Saves the host's registers, loads the case's, far-jumps to its code.
pub(super) fn enter_thunk() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut no_fp = a.create_label();
    for r in [rbx, rbp, r12, r13, r14, r15] {
        a.push(r)?;
    }
    a.mov(r15, BLOCK)?;
    a.mov(qword_ptr(r15 + at::RSP), rsp)?;
    a.rdfsbase(rax)?;
    a.mov(qword_ptr(r15 + at::FS_BASE), rax)?;
    a.cmp(dword_ptr(r15 + at::USE_FP), 0)?;
    a.je(no_fp)?;
    a.fxsave(ptr(r15 + at::HOST_FX))?;
    a.fxrstor(ptr(r15 + at::FX))?;
    a.set_label(&mut no_fp)?;
    for (r, n) in [(es, 0), (ds, 3), (fs, 4), (gs, 5)] {
        a.movzx(eax, word_ptr(r15 + (at::SEG + 2 * n)))?;
        a.mov(r, eax)?;
    }
    a.movzx(ebx, word_ptr(r15 + (at::SEG + 4)))?;
    a.push(qword_ptr(r15 + at::EFLAGS))?;
    a.popfq()?;
    a.mov(ss, ebx)?;
    for (n, r) in GPR.into_iter().enumerate() {
        a.mov(r, dword_ptr(r15 + (at::GPR + 4 * n as u32)))?;
    }
    let mut code = a.assemble(u64::from(THUNK))?;
    // jmp far m16:32 [r15 + disp8]
    code.extend_from_slice(&[0x41, 0xFF, 0x6F, at::FAR as u8]);
    Ok(code)
}

/// Stores the case's registers and returns to the host.
pub(super) fn leave_thunk() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.mov(r15, BLOCK)?;
    for (n, r) in GPR.into_iter().enumerate() {
        a.mov(dword_ptr(r15 + (at::OUT_GPR + 4 * n as u32)), r)?;
    }
    a.mov(word_ptr(r15 + (at::OUT_SEG + 4)), ss)?;
    a.mov(eax, 0x2B)?;
    a.mov(ss, eax)?;
    a.mov(rsp, qword_ptr(r15 + at::RSP))?;
    a.pushfq()?;
    a.pop(rax)?;
    a.mov(dword_ptr(r15 + at::OUT_EFLAGS), eax)?;
    restore_host(&mut a)?;
    a.assemble(u64::from(LEAVE))
}

/// Resumes behind a fault: general registers, flags, CS and SS were noted by the handler.
pub(super) fn skip_thunk() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.mov(r15, BLOCK)?;
    a.mov(rsp, qword_ptr(r15 + at::RSP))?;
    restore_host(&mut a)?;
    a.assemble(u64::from(SKIP))
}

/// Keeps the case's floating-point state and data segments, takes back the host's, returns to the caller
/// of THUNK.
fn restore_host(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut no_fp = a.create_label();
    a.push(2)?;
    a.popfq()?;
    for (r, n) in [(es, 0), (ds, 3), (fs, 4), (gs, 5)] {
        a.mov(word_ptr(r15 + (at::OUT_SEG + 2 * n)), r)?;
    }
    a.xor(eax, eax)?;
    for r in [ds, es, fs, gs] {
        a.mov(r, eax)?;
    }
    a.mov(rax, qword_ptr(r15 + at::FS_BASE))?;
    a.wrfsbase(rax)?;
    a.cmp(dword_ptr(r15 + at::USE_FP), 0)?;
    a.je(no_fp)?;
    a.fxsave(ptr(r15 + at::OUT_FX))?;
    // The pointers of the last x87 instruction, which AMD's processors keep out of the image.
    a.fnstenv(ptr(r15 + (at::OUT_FX + ENVIRONMENT as u32)))?;
    a.fxrstor(ptr(r15 + at::HOST_FX))?;
    a.set_label(&mut no_fp)?;
    for r in [r15, r14, r13, r12, rbp, rbx] {
        a.pop(r)?;
    }
    a.ret()
}
