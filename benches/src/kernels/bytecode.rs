//! An interpreter in the guest: a program of three-byte instructions, dispatched by a jump table;
//! `size` iterations of its loop.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::{DATA, labels};

/// The interpreted machine has four registers; an instruction is an operation and two operand bytes.
const REGISTERS: i32 = DATA as i32;
const TABLE: i32 = REGISTERS + 0x100;

const HALT: u8 = 0;
/// Register := operand.
const SET: u8 = 1;
const ADD: u8 = 2;
const XOR: u8 = 3;
const MULTIPLY: u8 = 4;
/// Rotate left by the operand.
const ROTATE: u8 = 5;
const DECREMENT: u8 = 6;
/// Jump by the signed operand, from this instruction, if the register is not 0.
const LOOP: u8 = 7;
const OPERATIONS: u8 = 8;

/// Registers of the program: the count, which the kernel sets, and the result.
const COUNT: u8 = 1;
const RESULT: u8 = 0;

const PROGRAM: [[u8; 3]; 11] = [
    [SET, RESULT, 1],
    [SET, 2, 77],
    [SET, 3, 9],
    // loop:
    [ADD, RESULT, COUNT],
    [XOR, 3, RESULT],
    [ROTATE, 3, 7],
    [MULTIPLY, RESULT, 2],
    [ADD, RESULT, 3],
    [DECREMENT, COUNT, 0],
    [LOOP, COUNT, (-3i8 * 6) as u8],
    [HALT, 0, 0],
];

/// ESI points to the interpreted instruction, ECX and EDX are its operands.
///
/// A CALL over each handler, and over the program, leaves its address on the stack.
pub(super) fn emit(a: &mut CodeAssembler, size: u32) -> Result<(), IcedError> {
    let [mut dispatch, mut after, mut bad, mut start] = labels(a);
    let register = |index: AsmRegister32| dword_ptr(index * 4 + REGISTERS);

    for (n, operation) in (0..).zip(0..OPERATIONS) {
        let [mut behind] = labels(a);
        a.call(behind)?;
        match operation {
            SET => a.mov(register(ecx), edx)?,
            ADD => {
                a.mov(eax, register(edx))?;
                a.add(register(ecx), eax)?;
            }
            XOR => {
                a.mov(eax, register(edx))?;
                a.xor(register(ecx), eax)?;
            }
            MULTIPLY => {
                a.mov(eax, register(ecx))?;
                a.imul_2(eax, register(edx))?;
                a.mov(register(ecx), eax)?;
            }
            ROTATE => {
                a.mov(ebx, ecx)?;
                a.mov(ecx, edx)?;
                a.rol(register(ebx), cl)?;
            }
            DECREMENT => a.dec(register(ecx))?,
            LOOP => {
                a.cmp(register(ecx), 0)?;
                a.je(after)?;
                a.movsx(edx, dl)?;
                a.add(esi, edx)?;
                a.jmp(dispatch)?;
            }
            _ => {
                a.mov(eax, dword_ptr(REGISTERS + 4 * i32::from(RESULT)))?;
                a.ret()?;
            }
        }
        if !matches!(operation, LOOP | HALT) {
            a.jmp(after)?;
        }
        a.set_label(&mut behind)?;
        a.pop(dword_ptr(TABLE + 4 * n))?;
    }
    a.call(start)?;
    a.db(PROGRAM.as_flattened())?;

    a.set_label(&mut start)?;
    a.pop(esi)?;
    a.mov(dword_ptr(REGISTERS + 4 * i32::from(COUNT)), size)?;
    a.jmp(dispatch)?;
    a.set_label(&mut after)?;
    a.add(esi, 3)?;
    a.set_label(&mut dispatch)?;
    a.movzx(eax, byte_ptr(esi))?;
    a.movzx(ecx, byte_ptr(esi + 1))?;
    a.movzx(edx, byte_ptr(esi + 2))?;
    a.cmp(eax, i32::from(OPERATIONS))?;
    a.jae(bad)?;
    a.jmp(dword_ptr(eax * 4 + TABLE))?;
    a.set_label(&mut bad)?;
    a.xor(eax, eax)?;
    a.ret()
}

/// The program's loop written out.
pub(super) fn reference(size: u32) -> u32 {
    let (mut result, mut mixed) = (1u32, 9u32);
    for count in (1..=size).rev() {
        result = result.wrapping_add(count);
        mixed = (mixed ^ result).rotate_left(7);
        result = result.wrapping_mul(77).wrapping_add(mixed);
    }
    result
}
