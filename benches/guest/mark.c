/* `mark START name`: the line on standard output, and back when the terminal has sent it. For scripts. */
#define NAME "mark"
#define OTHER_ROLE
static unsigned other_role(void);
#include "rt.h"

static unsigned other_role(void)
{
    print(program_arguments[1]);
    print(" ");
    print(program_arguments[2]);
    print("\n");
    syscall3(SYS_ioctl, 1, 0x5409, 1);
    return 0;
}

u32 bench(u32 size)
{
    return size;
}
