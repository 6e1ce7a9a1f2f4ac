/*
 * A file on the root file system (9p in the guests): written in pieces of 64 KiB, pushed to the server, dropped
 * from the page cache, read again. Without fsync: the server's disk is not what is measured.
 */
#include "rt.h"

enum { PIECE = 1 << 16, CREATE = 0x241, CREATE_MODE = 0600, WAIT_AND_WRITE = 7, DONT_NEED = 4 };
static u32 buffer[PIECE / 4];
static const char path[] = "/root/bench86.data";

u32 bench(u32 size)
{
    u32 random = 15, sum = 0, again = 0;
    i32 file = syscall3(SYS_open, (u32)path, CREATE, CREATE_MODE);
    if (file < 0)
        fail("open to write");
    for (u32 i = 0; i < size; i++) {
        for (u32 j = 0; j < PIECE / 4; j += 64) {
            buffer[j] = next_random(&random);
            sum = mix(sum, buffer[j]);
        }
        if (syscall3(SYS_write, (u32)file, (u32)buffer, PIECE) != PIECE)
            fail("write");
    }
    u32 push[6] = {(u32)file, 0, 0, 0, 0, WAIT_AND_WRITE}, drop[6] = {(u32)file, 0, 0, 0, 0, DONT_NEED};
    syscall6(SYS_sync_file_range, push);
    syscall6(SYS_fadvise64_64, drop);
    syscall3(SYS_close, (u32)file, 0, 0);
    file = syscall3(SYS_open, (u32)path, 0, 0);
    if (file < 0)
        fail("open to read");
    for (u32 i = 0; i < size; i++) {
        if (syscall3(SYS_read, (u32)file, (u32)buffer, PIECE) != PIECE)
            fail("read");
        for (u32 j = 0; j < PIECE / 4; j += 64)
            again = mix(again, buffer[j]);
    }
    syscall3(SYS_close, (u32)file, 0, 0);
    syscall3(SYS_unlink, (u32)path, 0, 0);
    if (sum != again)
        fail("other bytes than were written");
    return sum;
}
