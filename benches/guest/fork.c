/* fork, exit and wait. */
#include "rt.h"

u32 bench(u32 size)
{
    u32 sum = 0;
    for (u32 i = 0; i < size; i++) {
        i32 child = syscall3(SYS_fork, 0, 0, 0);
        if (child == 0)
            leave(i & 0x7F);
        u32 status = 0;
        if (child < 0 || syscall3(SYS_waitpid, (u32)child, (u32)&status, 0) != child)
            fail("fork");
        sum = mix(sum, status);
    }
    return sum;
}
