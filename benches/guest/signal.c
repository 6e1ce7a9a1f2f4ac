/* A signal to the own process and back from its handler. */
#include "rt.h"

static volatile u32 caught;

static void handler(int signal)
{
    caught += (u32)signal;
}

__asm__("restorer:\n\tmov $173, %eax\n\tint $0x80\n"); /* rt_sigreturn */
extern void restorer(void);

static void information(int signal, void *info, void *context)
{
    (void)info, (void)context;
    handler(signal);
}

u32 bench(u32 size)
{
    enum { USR1 = 10, SIGINFO = 4, RESTORER = 0x04000000 };
    struct { void (*handler)(int, void *, void *); u32 flags; void (*restorer)(void); u32 mask[2]; } action =
        {information, SIGINFO | RESTORER, restorer, {0, 0}};
    u32 arguments[6] = {USR1, (u32)&action, 0, 8, 0, 0};
    if (syscall6(SYS_rt_sigaction, arguments))
        fail("sigaction");
    u32 self = (u32)syscall3(SYS_getpid, 0, 0, 0);
    for (u32 i = 0; i < size * 100; i++)
        syscall3(SYS_kill, self, USR1, 0);
    if (caught != size * 100 * USR1)
        fail("signals were lost");
    return caught;
}
