/* fork, exec of a static program (this one in another role), exit and wait. */
#define OTHER_ROLE
static unsigned other_role(void)
{
    return 7;
}
#include "rt.h"

u32 bench(u32 size)
{
    char *arguments[] = {program_arguments[0], "0", "child", 0}, *environment[] = {0};
    u32 sum = 0;
    for (u32 i = 0; i < size; i++) {
        i32 child = syscall3(SYS_fork, 0, 0, 0);
        if (child == 0) {
            syscall3(SYS_execve, (u32)program_arguments[0], (u32)arguments, (u32)environment);
            leave(1);
        }
        u32 status = 0;
        if (child < 0 || syscall3(SYS_waitpid, (u32)child, (u32)&status, 0) != child || status != 7 << 8)
            fail("exec");
        sum = mix(sum, status);
    }
    return sum;
}
