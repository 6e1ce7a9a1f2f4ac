//! The way into translated code and back, and what translated code calls.
//!
//! Translated code runs on the host's stack below one trampoline frame. It leaves through one of the
//! shared exits, all of which put every guest register into the [`CpuState`] and return from the
//! trampoline. Nothing unwinds through it: what it calls returns a status.
#![allow(unsafe_code)] // enters emitted code, which calls back with raw pointers

mod called;

use std::mem::offset_of;

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use emu_core::cpu::{CpuState, Exec, Trap};
use emu_core::decode::{BlockId, Insn};
use emu_core::interp::Env;

use crate::assembler::Assembler as Ops;
use crate::assume::{assumptions, pack, page_base, slot, unpack};
use crate::calls::{self, Calls};
use crate::code::CodeCache;
use crate::counts::Counts;
use crate::descriptors::Descriptors;
use crate::fpu;
use crate::layout::{
    BIAS, CONTEXT, EIP, HOST_MXCSR, MXCSR, PAGE_BASE, SLOT, SSE_USABLE, XMM_RESIDENT, gpr, xmm,
};
use crate::lazy::{self, Lazy};
use crate::segments::{self, Worlds};
use crate::targets::{Target, emit_target};
use called::{exec, load_fpu, load_segment, refuse};

/// What translated code knows of one of its instructions when it calls the interpreter's function.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    /// The instruction.
    pub(crate) insn: Insn,
    /// Offset of the byte behind it from the start of the page.
    pub(crate) end_in_page: u16,
    /// Instructions of the block from this one on.
    pub(crate) left: u16,
    /// Its number in the block.
    pub(crate) index: u16,
    /// The block.
    pub(crate) block: BlockId,
    /// It reads or writes arithmetic flags.
    pub(crate) uses_flags: bool,
    /// It may load a segment register or change the mode.
    pub(crate) loads_segment: bool,
    /// Its function needs the x87 unit in the state.
    pub(crate) uses_fpu: bool,
    /// Its number in iced's list of mnemonics, for counters.
    pub(crate) mnemonic: u16,
    /// It was lowered natively: it is left to the interpreter only when something is not fast.
    pub(crate) native: bool,
}

/// Why translated code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Left {
    /// An instruction was called and wants the run loop: it raised a trap, or something needs a look.
    Attention = 0,
    /// A direct branch that is not linked; the argument is the number of its edge.
    Edge = 1,
    /// An indirect branch whose target is not in the table.
    Target = 2,
    /// The budget does not cover the next block, or that block is gone.
    Entry = 3,
    /// The rest of the block needs other code; the argument is the number of the next instruction.
    Rest = 4,
}

/// Most instructions of one stay: each may be a call, which takes 16 bytes of the host's stack.
const MAX_STAY: u64 = 1 << 15;

/// What emitted code and the functions it calls share during one stay.
#[repr(C)]
pub(crate) struct Context {
    exec: unsafe extern "sysv64" fn(*mut Context, u32) -> u32,
    load_fpu: unsafe extern "sysv64" fn(*mut Context, u32) -> u32,
    refuse: unsafe extern "sysv64" fn(*mut Context, u32) -> u32,
    segment: unsafe extern "sysv64" fn(*mut Context, u32, u32) -> u32,
    /// Instructions left; negative if the block that was entered is not covered.
    pub(crate) budget: i64,
    tables: u64,
    kind: u32,
    /// Argument of [`Left`].
    pub(crate) argument: u32,
    /// The host's stack pointer in the trampoline.
    stack: u64,
    block: BlockId,
    cpu: *mut CpuState,
    env: *mut Env<'static>,
    sites: *const Site,
    site_count: usize,
    lazies: *const [Lazy],
    /// `retired` at which the budget is used up.
    end: u64,
    /// The trap that an instruction raised; EIP is at it.
    pub(crate) trap: Option<Trap>,
    /// Times nothing was found by a look around that did not leave translated code.
    passed: u64,
    counts: *mut Counts,
    descriptors: *mut Descriptors,
    worlds: *mut Worlds,
    /// The world the code is for ([`crate::segments`]).
    world: u32,
    calls: *mut Calls,
    /// The host's x87 unit was used.
    fpu_used: bool,
    /// Returns, if they are counted.
    returns: u64,
    /// Those that did not go behind the call they belong to.
    missed: u64,
    /// Those without a call that is remembered.
    unpaired: u64,
    /// Those behind a call that was made before others which have not returned.
    resumed: u64,
}

/// Size of the context, for checks.
pub(crate) const CONTEXT_LEN: usize = size_of::<Context>();

/// Where returns are counted.
pub(crate) const C_RETURNS: i32 = offset_of!(Context, returns) as i32;
const C_MISSED: i32 = offset_of!(Context, missed) as i32;
const C_UNPAIRED: i32 = offset_of!(Context, unpaired) as i32;
const C_RESUMED: i32 = offset_of!(Context, resumed) as i32;
const C_CALLS: i32 = offset_of!(Context, calls) as i32;
const C_EXEC: i32 = offset_of!(Context, exec) as i32;
const C_REFUSE: i32 = offset_of!(Context, refuse) as i32;
const C_LOAD_FPU: i32 = offset_of!(Context, load_fpu) as i32;
const C_SEGMENT: i32 = offset_of!(Context, segment) as i32;
const C_BUDGET: i32 = offset_of!(Context, budget) as i32;
const C_TABLES: i32 = offset_of!(Context, tables) as i32;
const C_STACK: i32 = offset_of!(Context, stack) as i32;
const C_KIND: i32 = offset_of!(Context, kind) as i32;
const C_ARGUMENT: i32 = offset_of!(Context, argument) as i32;

/// Addresses of the shared routines.
#[derive(Clone, Copy)]
pub(crate) struct Routines {
    enter: usize,
    /// Call: executes site r8d; does not return if the code has to be left.
    pub(crate) exec: usize,
    /// The same, and the XMM registers stay resident if they were.
    pub(crate) exec_keep: usize,
    /// Call: loads the XMM registers and MXCSR for `r8d` (see [`refuse`]); does not return if they cannot
    /// be used. Changes r10.
    pub(crate) load_xmm: usize,
    /// Call: loads the x87 unit for `r8d` (see [`load_fpu`]); does not return if it cannot be used.
    /// Changes no guest register, and of the others not r11.
    pub(crate) load_fpu: usize,
    /// Call: loads segment register r9d with selector r8d; r8d is 0 if the interpreter has to do it.
    pub(crate) segment: usize,
    /// Jump: unlinked edge r9d to EIP r8d.
    pub(crate) edge: usize,
    /// Jump: unlinked edge r9d to offset r8d of the current page.
    pub(crate) edge_in_page: usize,
    /// Jump: the block at offset r8d of the current page cannot be entered.
    pub(crate) entry: usize,
    /// Jump: looks for the code of the EIP in the state.
    pub(crate) target_eip: usize,
    /// Jump: looks for the code of EIP r8d, where the guest has returned to unexpectedly.
    pub(crate) return_missed: usize,
    /// Jump: looks for the code of EIP r8d.
    pub(crate) target: usize,
    /// Jump: EIP r8d has no code in the table.
    pub(crate) target_missed: usize,
}

impl Routines {
    /// Emits the shared routines at the start of an empty cache.
    pub(crate) fn emit(cache: &mut CodeCache) -> Option<Self> {
        let base = cache.next_address();
        let mut ops = Ops::new();
        let leave = ops.new_dynamic_label();
        let leave_stored = ops.new_dynamic_label();
        let missed = ops.new_dynamic_label();
        let spill = ops.new_dynamic_label();
        let fill = ops.new_dynamic_label();
        let target = ops.new_dynamic_label();
        let target_r8 = ops.new_dynamic_label();
        let bottom = ops.new_dynamic_label();
        let out = ops.new_dynamic_label();
        let refused = ops.new_dynamic_label();
        let (restore, restored) = (ops.new_dynamic_label(), ops.new_dynamic_label());
        let (keep, kept) = (ops.new_dynamic_label(), ops.new_dynamic_label());

        let enter = ops.offset().0;
        // enter(state: rdi, code: rsi, budget: rdx, tables: rcx)
        dynasm!(ops
            ; .arch x64
            ; push rbx
            ; push rbp
            ; push r12
            ; push r13
            ; push r14
            ; push r15
            ; sub rsp, 8
            ; lea r13, [rdi + BIAS]
            ; mov r12, rdx
            ; mov r15, rcx
            ; mov r11, rsi
            ; mov eax, [r13 + gpr(0)]
            ; mov ecx, [r13 + gpr(1)]
            ; mov edx, [r13 + gpr(2)]
            ; mov ebx, [r13 + gpr(3)]
            ; mov r14d, [r13 + gpr(4)]
            ; mov ebp, [r13 + gpr(5)]
            ; mov esi, [r13 + gpr(6)]
            ; mov edi, [r13 + gpr(7)]
            ; mov r8, [r13 + CONTEXT]
            ; mov [r8 + C_STACK], rsp
            // The bottom of the host's stack of returns: nothing is known of where the guest returns to.
            ; sub rsp, 8
            ; lea r9, [=>bottom]
            ; push r9
            // Above it the calls that were under way at the end of the last stay.
            ; mov r10, [r8 + C_CALLS]
            ; mov r9, [r10 + calls::BYTES]
            ; sub rsp, r9
            ; jmp =>restored
            ; =>restore
            ; movaps xmm0, [r10 + r9 + calls::PAIRS - calls::PAIR]
            ; movaps [rsp + r9 - calls::PAIR], xmm0
            ; sub r9, calls::PAIR
            ; =>restored
            ; test r9, r9
            ; jnz =>restore
            ; jmp r11
            ; =>bottom
            ; mov r9, [r13 + CONTEXT]
            ; inc QWORD [r9 + C_UNPAIRED]
            ; call =>target_r8
            ; jmp =>bottom
            ; =>leave
            ; mov [r13 + gpr(0)], eax
            ; mov [r13 + gpr(1)], ecx
            ; mov [r13 + gpr(2)], edx
            ; mov [r13 + gpr(3)], ebx
            ; mov [r13 + gpr(4)], r14d
            ; mov [r13 + gpr(5)], ebp
            ; mov [r13 + gpr(6)], esi
            ; mov [r13 + gpr(7)], edi
            ; mov r8, [r13 + CONTEXT]
            ; mov [r8 + C_BUDGET], r12
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; je =>leave_stored
            ; call =>spill
            ; =>leave_stored
            // The innermost of the calls under way are kept for the next stay.
            ; mov r8, [r13 + CONTEXT]
            ; mov r9, [r8 + C_STACK]
            ; mov r10, [r8 + C_CALLS]
            ; lea rcx, [r9 - calls::PAIR]
            ; sub rcx, rsp
            ; mov edx, calls::KEPT * calls::PAIR
            ; cmp rcx, rdx
            ; cmova rcx, rdx
            ; mov [r10 + calls::BYTES], rcx
            ; jmp =>kept
            ; =>keep
            ; movaps xmm0, [rsp + rcx - calls::PAIR]
            ; movaps [r10 + rcx + calls::PAIRS - calls::PAIR], xmm0
            ; sub rcx, calls::PAIR
            ; =>kept
            ; test rcx, rcx
            ; jnz =>keep
            ; mov rsp, r9
            ; add rsp, 8
            ; pop r15
            ; pop r14
            ; pop r13
            ; pop r12
            ; pop rbp
            ; pop rbx
            ; ret
            // Stores the XMM registers and MXCSR in the state.
            ; =>spill
            ; movaps [r13 + xmm(0)], xmm0
            ; movaps [r13 + xmm(1)], xmm1
            ; movaps [r13 + xmm(2)], xmm2
            ; movaps [r13 + xmm(3)], xmm3
            ; movaps [r13 + xmm(4)], xmm4
            ; movaps [r13 + xmm(5)], xmm5
            ; movaps [r13 + xmm(6)], xmm6
            ; movaps [r13 + xmm(7)], xmm7
            ; stmxcsr [r13 + MXCSR]
            ; ldmxcsr [r13 + HOST_MXCSR]
            ; ret
            // Loads them.
            ; =>fill
            ; movaps xmm0, [r13 + xmm(0)]
            ; movaps xmm1, [r13 + xmm(1)]
            ; movaps xmm2, [r13 + xmm(2)]
            ; movaps xmm3, [r13 + xmm(3)]
            ; movaps xmm4, [r13 + xmm(4)]
            ; movaps xmm5, [r13 + xmm(5)]
            ; movaps xmm6, [r13 + xmm(6)]
            ; movaps xmm7, [r13 + xmm(7)]
            ; ldmxcsr [r13 + MXCSR]
            ; ret
        );
        let exec_keep = ops.offset().0;
        let same_world = ops.new_dynamic_label();
        let plain = ops.new_dynamic_label();
        dynasm!(ops
            ; .arch x64
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; je =>plain
            ; call =>spill
            ; jmp =>plain
        );
        let exec = ops.offset().0;
        dynasm!(ops
            ; .arch x64
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; je =>plain
            ; mov BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; call =>spill
            ; =>plain
            ; mov [r13 + gpr(0)], eax
            ; mov [r13 + gpr(1)], ecx
            ; mov [r13 + gpr(2)], edx
            ; mov [r13 + gpr(3)], ebx
            ; mov [r13 + gpr(4)], r14d
            ; mov [r13 + gpr(5)], ebp
            ; mov [r13 + gpr(6)], esi
            ; mov [r13 + gpr(7)], edi
            ; mov rdi, [r13 + CONTEXT]
            ; mov [rdi + C_BUDGET], r12
            ; mov esi, r8d
            ; sub rsp, 8
            ; call QWORD [rdi + C_EXEC]
            ; add rsp, 8
            ; test eax, eax
            ; jnz =>out
            ; mov r8, [r13 + CONTEXT]
            ; mov r15, [r8 + C_TABLES]
            ; mov eax, [r13 + gpr(0)]
            ; mov ecx, [r13 + gpr(1)]
            ; mov edx, [r13 + gpr(2)]
            ; mov ebx, [r13 + gpr(3)]
            ; mov r14d, [r13 + gpr(4)]
            ; mov ebp, [r13 + gpr(5)]
            ; mov esi, [r13 + gpr(6)]
            ; mov edi, [r13 + gpr(7)]
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; jne =>fill
            ; ret
            ; =>out
            ; add rsp, 8
            ; cmp eax, 1
            ; je =>leave_stored
            ; mov r8, [r13 + CONTEXT]
            ; cmp eax, 2
            ; je =>same_world
            ; mov rsp, [r8 + C_STACK]
            ; sub rsp, 8
            ; lea r9, [=>bottom]
            ; push r9
            ; =>same_world
            ; mov r12, [r8 + C_BUDGET]
            ; mov r15, [r8 + C_TABLES]
            ; mov eax, [r13 + gpr(0)]
            ; mov ecx, [r13 + gpr(1)]
            ; mov edx, [r13 + gpr(2)]
            ; mov ebx, [r13 + gpr(3)]
            ; mov r14d, [r13 + gpr(4)]
            ; mov ebp, [r13 + gpr(5)]
            ; mov esi, [r13 + gpr(6)]
            ; mov edi, [r13 + gpr(7)]
            ; mov BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; jmp =>target
        );
        let segment = ops.offset().0;
        let away = ops.new_dynamic_label();
        // Only registers that the host's functions may change are saved.
        dynasm!(ops
            ; .arch x64
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; je =>away
            ; mov BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; call =>spill
            ; =>away
            ; mov [r13 + gpr(0)], eax
            ; mov [r13 + gpr(1)], ecx
            ; mov [r13 + gpr(2)], edx
            ; mov [r13 + gpr(6)], esi
            ; mov [r13 + gpr(7)], edi
            ; mov rdi, [r13 + CONTEXT]
            ; mov esi, r9d
            ; mov edx, r8d
            ; sub rsp, 8
            ; call QWORD [rdi + C_SEGMENT]
            ; add rsp, 8
            ; mov r8d, eax
            ; mov eax, [r13 + gpr(0)]
            ; mov ecx, [r13 + gpr(1)]
            ; mov edx, [r13 + gpr(2)]
            ; mov esi, [r13 + gpr(6)]
            ; mov edi, [r13 + gpr(7)]
            ; ret
        );
        let load_xmm = ops.offset().0;
        let unusable = ops.new_dynamic_label();
        dynasm!(ops
            ; .arch x64
            ; cmp BYTE [BYTE r13 + SSE_USABLE as i8], 0
            ; je =>unusable
            // Unmasked exceptions are the interpreter's affair.
            ; mov r10d, [r13 + MXCSR]
            ; not r10d
            ; test r10d, 0x1F80
            ; jnz =>unusable
            ; mov BYTE [BYTE r13 + XMM_RESIDENT as i8], 1
            ; jmp =>fill
            ; =>unusable
            ; push rax
            ; push rcx
            ; push rdx
            ; push rsi
            ; push rdi
            ; sub rsp, 16
            ; mov rdi, [r13 + CONTEXT]
            ; mov [rdi + C_BUDGET], r12
            ; mov esi, r8d
            ; call QWORD [rdi + C_REFUSE]
            ; add rsp, 16
            ; pop rdi
            ; pop rsi
            ; pop rdx
            ; pop rcx
            ; pop rax
            ; add rsp, 8
            ; jmp =>leave
        );
        let load_fpu = ops.offset().0;
        let away = ops.new_dynamic_label();
        dynasm!(ops
            ; .arch x64
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; je =>away
            ; call =>spill
            ; =>away
            ; push rax
            ; push rcx
            ; push rdx
            ; push rsi
            ; push rdi
            ; push r11
            ; mov rdi, [r13 + CONTEXT]
            ; mov [rdi + C_BUDGET], r12
            ; mov esi, r8d
            ; sub rsp, 8
            ; call QWORD [rdi + C_LOAD_FPU]
            ; add rsp, 8
            ; mov r8d, eax
            ; pop r11
            ; pop rdi
            ; pop rsi
            ; pop rdx
            ; pop rcx
            ; pop rax
            ; test r8d, r8d
            ; jnz =>refused
            ; cmp BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; jne =>fill
            ; ret
            ; =>refused
            ; mov BYTE [BYTE r13 + XMM_RESIDENT as i8], 0
            ; add rsp, 8
            ; jmp =>leave
        );
        let edge_in_page = ops.offset().0;
        dynasm!(ops ; .arch x64 ; add r8d, [r13 + PAGE_BASE]);
        let edge = ops.offset().0;
        dynasm!(ops
            ; .arch x64
            ; mov [r13 + EIP], r8d
            ; mov r8, [r13 + CONTEXT]
            ; mov DWORD [r8 + C_KIND], Left::Edge as i32
            ; mov [r8 + C_ARGUMENT], r9d
            ; jmp =>leave
        );
        let entry = ops.offset().0;
        dynasm!(ops
            ; .arch x64
            ; add r8d, [r13 + PAGE_BASE]
            ; mov [r13 + EIP], r8d
            ; mov r8, [r13 + CONTEXT]
            ; mov DWORD [r8 + C_KIND], Left::Entry as i32
            ; jmp =>leave
        );
        let return_missed = ops.offset().0;
        let (search, none) = (ops.new_dynamic_label(), ops.new_dynamic_label());
        // A call further down may be the one, if those above were left without a return or belong to another
        // thread. If there is none, the return is of a call that was not made here, and changes nothing.
        dynasm!(ops
            ; .arch x64
            ; mov r9, [r13 + CONTEXT]
            ; mov r10, [r9 + C_STACK]
            ; sub r10, calls::PAIR
            ; lea r11, [rsp + calls::KEPT * calls::PAIR]
            ; cmp r10, r11
            ; cmova r10, r11
            ; mov r11, rsp
            ; =>search
            ; cmp r11, r10
            ; jae =>none
            ; add r11, calls::PAIR
            ; cmp r8d, [r11 - calls::PAIR + 8]
            ; jne =>search
            ; inc QWORD [r9 + C_RESUMED]
            ; lea rsp, [r11 - calls::PAIR]
            ; ret
            ; =>none
            ; inc QWORD [r9 + C_MISSED]
            // What was popped just now is still there.
            ; sub rsp, calls::PAIR
            ; jmp =>target_r8
        );
        let target_eip = ops.offset().0;
        dynasm!(ops ; .arch x64 ; =>target ; mov r8d, [r13 + EIP]);
        let target_routine = ops.offset().0;
        dynasm!(ops ; .arch x64 ; =>target_r8);
        emit_target(&mut ops, None, false, |ops| dynasm!(ops ; .arch x64 ; =>missed));
        let target_missed = ops.offset().0;
        dynasm!(ops
            ; .arch x64
            ; mov [r13 + EIP], r8d
            ; mov r8, [r13 + CONTEXT]
            ; mov DWORD [r8 + C_KIND], Left::Target as i32
            ; jmp =>leave
        );
        let code = ops.finish_at(base)?;
        let start = cache.append(&code)?;
        cache.keep();
        let at = |offset: usize| cache.address(start) + offset;
        Some(Self {
            enter: at(enter),
            exec: at(exec),
            exec_keep: at(exec_keep),
            load_xmm: at(load_xmm),
            load_fpu: at(load_fpu),
            segment: at(segment),
            edge: at(edge),
            edge_in_page: at(edge_in_page),
            entry: at(entry),
            target_eip: at(target_eip),
            return_missed: at(return_missed),
            target: at(target_routine),
            target_missed: at(target_missed),
        })
    }

    /// Runs translated code from `address`, the code of the block at EIP, whose first byte lies
    /// `in_page` bytes into its page. All state is in `cpu` before and after; `cpu.retired` is exact.
    ///
    /// `address` must be an address in the cache at which code for the current mode begins, and `sites`
    /// the sites this cache's code refers to.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn run(
        &self,
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        sites: &[Site],
        lazies: &[Lazy],
        targets: &[Target],
        counts: &mut Counts,
        descriptors: &mut Descriptors,
        worlds: &mut Worlds,
        world: u32,
        calls: &mut Calls,
        address: usize,
        in_page: u32,
        end: u64,
    ) -> (Left, Stay) {
        let budget = end.saturating_sub(cpu.retired).min(MAX_STAY) as i64;
        let end = cpu.retired.wrapping_add(budget as u64);
        calls.enter(world);
        let mut context = Context {
            exec,
            load_fpu,
            refuse,
            segment: load_segment,
            budget,
            tables: 0,
            kind: Left::Attention as u32,
            argument: 0,
            stack: 0,
            block: 0,
            cpu: std::ptr::null_mut(),
            env: std::ptr::null_mut(),
            sites: sites.as_ptr(),
            site_count: sites.len().max(1),
            lazies: std::ptr::from_ref(lazies),
            end,
            trap: None,
            fpu_used: false,
            returns: 0,
            missed: 0,
            unpaired: 0,
            resumed: 0,
            passed: 0,
            counts,
            descriptors,
            worlds,
            world,
            calls,
        };
        segments::publish(cpu, world);
        let tables = env.mem.view_address();
        let base = cpu.eip.wrapping_sub(in_page);
        cpu.bindings = [
            u64::from(base) << 32 | u64::from(pack(cpu.flags)),
            0,
            targets.as_ptr() as u64,
            assumptions(cpu, env.sys.is_quiet(true)) | fpu::BINDING,
        ];
        let state = std::ptr::from_mut(cpu);
        context.cpu = state;
        context.env = std::ptr::from_mut(env).cast();
        let shared = std::ptr::from_mut(&mut context);
        // SAFETY: `state` was just derived from the exclusive reference.
        unsafe { (*state).bindings[1] = shared as u64 };
        // SAFETY: `enter` is the trampoline emitted above, of this signature.
        let enter: extern "sysv64" fn(*mut CpuState, usize, i64, usize) =
            unsafe { std::mem::transmute::<usize, _>(self.enter) };
        // From here until the trampoline returns only emitted code and `exec` touch state, environment
        // and context, through the pointers handed over; guest RAM is reached through the view tables,
        // whose fast entries are addresses of RAM pages.
        enter(state, address, budget, tables);
        if context.fpu_used {
            fpu::store(cpu);
            fpu::reset();
        }
        calls.leave(context.world);
        // The pointers must not outlive this call.
        cpu.bindings[1] = 0;
        cpu.bindings[2] = 0;
        lazy::resolve(cpu, lazies);
        cpu.flags = unpack(slot(cpu));
        let left = match context.kind {
            0 => Left::Attention,
            1 => Left::Edge,
            2 => Left::Target,
            3 => Left::Entry,
            _ => Left::Rest,
        };
        if matches!(left, Left::Edge | Left::Target | Left::Entry) {
            cpu.retired = end.wrapping_sub(context.budget as u64);
        }
        let stay = Stay {
            argument: context.argument,
            block: context.block,
            trap: context.trap,
            passed: context.passed,
            returns: [context.returns, context.missed, context.unpaired, context.resumed],
            page_base: page_base(cpu),
        };
        (left, stay)
    }
}

/// What is to be known after a stay in translated code.
pub(crate) struct Stay {
    /// Argument of [`Left`].
    pub(crate) argument: u32,
    /// The block of [`Left::Rest`].
    pub(crate) block: BlockId,
    /// The trap that an instruction raised; EIP is at it.
    pub(crate) trap: Option<Trap>,
    /// Looks around that found nothing and did not leave translated code.
    pub(crate) passed: u64,
    /// Returns (if counted), those that missed, those without a call, those past other calls.
    pub(crate) returns: [u64; 4],
    /// EIP of the first byte of the page that was left.
    pub(crate) page_base: u32,
}

/// Kept so that the result type of instruction functions stays in a register pair.
const _: () = assert!(size_of::<Exec>() == 8);
const _: () = assert!(SLOT % 2 == 0);
