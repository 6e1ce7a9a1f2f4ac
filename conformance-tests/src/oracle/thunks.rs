//! Code that enters and leaves the case, assembled for fixed low addresses.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{BLOCK, LEAVE, SKIP, THUNK, at};

/// Saves the host's registers, loads the case's, far-jumps to 32-bit code.
pub(super) fn enter_thunk() -> Result<Vec<u8>, IcedError> {
    let abs = |offset: u32| u64::from(BLOCK + offset);
    let mut a = CodeAssembler::new(64)?;
    for r in [rbx, rbp, r12, r13, r14, r15] {
        a.push(r)?;
    }
    a.mov(qword_ptr(abs(at::RSP)), rsp)?;
    a.fxsave(ptr(abs(at::HOST_FX)))?;
    a.fxrstor(ptr(abs(at::FX)))?;
    a.mov(eax, 0x2B)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(eax, dword_ptr(abs(at::EFLAGS)))?;
    a.push(rax)?;
    a.popfq()?;
    for (n, r) in [eax, ecx, edx, ebx, esp, ebp, esi, edi].into_iter().enumerate() {
        a.mov(r, dword_ptr(abs(at::GPR + 4 * n as u32)))?;
    }
    let mut code = a.assemble(u64::from(THUNK))?;
    // jmp far m16:32 with an absolute address: FF /5, ModRM 2C, SIB 25
    code.extend_from_slice(&[0xFF, 0x2C, 0x25]);
    code.extend_from_slice(&(BLOCK + at::FAR).to_le_bytes());
    Ok(code)
}

/// Stores the case's registers and returns to the host.
pub(super) fn leave_thunk() -> Result<Vec<u8>, IcedError> {
    let abs = |offset: u32| u64::from(BLOCK + offset);
    let mut a = CodeAssembler::new(64)?;
    for (n, r) in [eax, ecx, edx, ebx, esp, ebp, esi, edi].into_iter().enumerate() {
        a.mov(dword_ptr(abs(at::OUT_GPR + 4 * n as u32)), r)?;
    }
    a.mov(rsp, qword_ptr(abs(at::RSP)))?;
    a.pushfq()?;
    a.pop(rax)?;
    a.mov(dword_ptr(abs(at::OUT_EFLAGS)), eax)?;
    swap_fp_and_return(&mut a)?;
    a.assemble(u64::from(LEAVE))
}

/// Resumes behind a fault: everything but the floating-point state was noted by the handler.
pub(super) fn skip_thunk() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.mov(rsp, qword_ptr(u64::from(BLOCK + at::RSP)))?;
    swap_fp_and_return(&mut a)?;
    a.assemble(u64::from(SKIP))
}

/// Keeps the case's floating-point state, takes back the host's, returns to the caller of THUNK.
fn swap_fp_and_return(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(2)?;
    a.popfq()?;
    a.fxsave(ptr(u64::from(BLOCK + at::OUT_FX)))?;
    a.fxrstor(ptr(u64::from(BLOCK + at::HOST_FX)))?;
    for r in [r15, r14, r13, r12, rbp, rbx] {
        a.pop(r)?;
    }
    a.ret()
}
