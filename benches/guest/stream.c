/* 64 KiB pieces through a pipe from one process to another. */
#include "rt.h"

enum { PIECE = 1 << 16 };
static u32 buffer[PIECE / 4];

u32 bench(u32 size)
{
    u32 ends[2], sum = 0, status = 0, total = 0;
    if (syscall3(SYS_pipe, (u32)ends, 0, 0))
        fail("pipe");
    i32 child = syscall3(SYS_fork, 0, 0, 0);
    if (child == 0) {
        for (u32 i = 0; i < size; i++) {
            buffer[0] = i;
            for (u32 sent = 0; sent < PIECE;) {
                i32 n = syscall3(SYS_write, ends[1], (u32)buffer + sent, PIECE - sent);
                if (n <= 0)
                    leave(1);
                sent += (u32)n;
            }
        }
        leave(0);
    }
    syscall3(SYS_close, ends[1], 0, 0);
    for (u32 filled = 0;;) {
        i32 n = syscall3(SYS_read, ends[0], (u32)buffer + filled, PIECE - filled);
        if (n <= 0)
            break;
        total += (u32)n;
        filled += (u32)n;
        if (filled == PIECE) {
            sum = mix(sum, buffer[0]);
            filled = 0;
        }
    }
    if (total != size * PIECE)
        fail("bytes were lost");
    syscall3(SYS_waitpid, (u32)child, (u32)&status, 0);
    return sum;
}
