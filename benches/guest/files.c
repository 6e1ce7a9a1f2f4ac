/* Many small files on the root file system (9p in the guests): created, looked at, renamed, removed. */
#include "rt.h"

static char from[] = "/root/bench86.d/f000", to[] = "/root/bench86.d/g000";

static void name(u32 n)
{
    for (u32 i = 0; i < 3; i++, n /= 10)
        from[sizeof from - 2 - i] = to[sizeof to - 2 - i] = (char)('0' + n % 10);
}

u32 bench(u32 size)
{
    u32 status[24], sum = 0;
    char directory[] = "/root/bench86.d";
    syscall3(SYS_mkdir, (u32)directory, 0700, 0);
    for (u32 i = 0; i < size; i++) {
        name(i);
        i32 file = syscall3(SYS_open, (u32)from, 0x241, 0600);
        if (file < 0 || syscall3(SYS_write, (u32)file, (u32)from, i % sizeof from) < 0)
            fail("create");
        syscall3(SYS_close, (u32)file, 0, 0);
    }
    for (u32 i = 0; i < size; i++) {
        name(i);
        if (syscall3(SYS_stat64, (u32)from, (u32)status, 0))
            fail("stat");
        sum = mix(sum, status[11]); /* the size */
        if (syscall3(SYS_rename, (u32)from, (u32)to, 0))
            fail("rename");
    }
    for (u32 i = 0; i < size; i++) {
        name(i);
        if (syscall3(SYS_unlink, (u32)to, 0, 0))
            fail("unlink");
    }
    if (syscall3(SYS_rmdir, (u32)directory, 0, 0))
        fail("rmdir");
    return sum;
}
