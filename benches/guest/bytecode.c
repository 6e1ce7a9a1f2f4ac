/* An interpreter's loop: one indirect jump per instruction of the program it runs. */
#include "rt.h"

enum op { PUSH, ADD, SUB, MUL, XOR, DUP, SWAP, OVER, STORE, LOAD, JUMP_NOT_ZERO, HALT };

/* Counts the variable 0 down from the size; the variable 1 gathers a hash. */
static const u8 program[] = {
    LOAD, 1, PUSH, 31, MUL, LOAD, 0, ADD, DUP, PUSH, 7, XOR, OVER, SWAP, SUB, LOAD, 1, ADD, ADD, STORE, 1,
    LOAD, 0, PUSH, 1, SUB, DUP, STORE, 0, JUMP_NOT_ZERO, 0, HALT,
};

u32 bench(u32 size)
{
    static const void *const handlers[] = {
        &&push, &&add, &&sub, &&mul, &&xor, &&dup, &&swap, &&over, &&store, &&load, &&jump_not_zero, &&halt,
    };
    u32 stack[16], variables[2] = {size * 1000, 1}, *top = stack, t;
    const u8 *at = program;
#define NEXT goto *handlers[*at++]
    NEXT;
push: *++top = *at++; NEXT;
add: top--, top[0] += top[1]; NEXT;
sub: top--, top[0] -= top[1]; NEXT;
mul: top--, top[0] *= top[1]; NEXT;
xor: top--, top[0] ^= top[1]; NEXT;
dup: top++, top[0] = top[-1]; NEXT;
swap: t = top[0], top[0] = top[-1], top[-1] = t; NEXT;
over: top++, top[0] = top[-2]; NEXT;
store: variables[*at++] = *top--; NEXT;
load: *++top = variables[*at++]; NEXT;
jump_not_zero: t = *at++; if (*top--) at = program + t; NEXT;
halt: return variables[1];
}
