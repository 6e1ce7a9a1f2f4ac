/* Two processes that send a byte to and fro through pipes: two context switches each time. */
#include "rt.h"

u32 bench(u32 size)
{
    u32 there[2], back[2], sum = 0, status = 0;
    u8 byte = 1;
    if (syscall3(SYS_pipe, (u32)there, 0, 0) || syscall3(SYS_pipe, (u32)back, 0, 0))
        fail("pipe");
    i32 child = syscall3(SYS_fork, 0, 0, 0);
    if (child == 0) {
        syscall3(SYS_close, there[1], 0, 0);
        while (syscall3(SYS_read, there[0], (u32)&byte, 1) == 1) {
            byte = (u8)(byte * 5 + 1);
            syscall3(SYS_write, back[1], (u32)&byte, 1);
        }
        leave(0);
    }
    for (u32 i = 0; i < size * 10; i++) {
        syscall3(SYS_write, there[1], (u32)&byte, 1);
        if (syscall3(SYS_read, back[0], (u32)&byte, 1) != 1)
            fail("no answer");
        sum = mix(sum, byte);
    }
    syscall3(SYS_close, there[1], 0, 0);
    syscall3(SYS_waitpid, (u32)child, (u32)&status, 0);
    return sum;
}
