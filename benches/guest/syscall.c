/* The shortest system call, by INT 80h. */
#include "rt.h"

u32 bench(u32 size)
{
    u32 parent = (u32)syscall3(SYS_getppid, 0, 0, 0), same = 0;
    for (u32 i = 0; i < size * 1000; i++)
        same += (u32)syscall3(SYS_getppid, 0, 0, 0) == parent;
    if (same != size * 1000)
        fail("the parent changed");
    return same;
}
