/* One word in each of 4096 pages, again and again: more pages than any TLB holds. */
#include "rt.h"

enum { PAGES = 4096, WORDS = 1024 };

u32 bench(u32 size)
{
    u32 *pages = memory(PAGES * WORDS * 4), sum = 0;
    for (u32 pass = 0; pass < size; pass++)
        for (u32 i = 0; i < PAGES; i++) {
            /* Another line of each page, so that the caches hold them while the TLB does not. */
            u32 *word = &pages[i * WORDS + (i * 16 & 1023)];
            *word += i ^ pass;
            sum += *word;
        }
    return sum;
}
