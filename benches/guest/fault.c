/* Page faults: memory is mapped, touched page by page, and given back. */
#include "rt.h"

enum { PAGES = 256 };

u32 bench(u32 size)
{
    u32 sum = 0;
    for (u32 pass = 0; pass < size; pass++) {
        u32 arguments[6] = {0, PAGES * 4096, 3, 0x22, (u32)-1, 0};
        u32 start = (u32)syscall6(SYS_mmap2, arguments);
        if (start > (u32)-4096)
            fail("mmap");
        for (u32 i = 0; i < PAGES; i++) {
            volatile u32 *word = (u32 *)(start + i * 4096);
            sum += *word;
            *word = i;
            sum = mix(sum, *word);
        }
        if (syscall3(SYS_munmap, start, PAGES * 4096, 0))
            fail("munmap");
    }
    return sum;
}
