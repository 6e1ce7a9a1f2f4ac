/* A ring of pointers in random order through 8 MiB: each load waits for the one before. */
#include "rt.h"

enum { N = 1 << 17, STEP = 16 }; /* one pointer per 64 bytes */

u32 bench(u32 size)
{
    u32 *ring = memory(N * STEP * 4), *order = memory(N * 4), random = 13, sum = 0;
    for (u32 i = 0; i < N; i++)
        order[i] = i;
    for (u32 i = N - 1; i > 0; i--) {
        u32 j = next_random(&random) % (i + 1), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (u32 i = 0; i < N; i++)
        ring[order[i] * STEP] = order[(i + 1) % N] * STEP;
    u32 at = 0;
    for (u32 pass = 0; pass < size; pass++) {
        for (u32 i = 0; i < N; i++)
            at = ring[at];
        if (at != 0)
            fail("the ring is not closed");
        sum = mix(sum, at + ring[order[pass % N] * STEP]);
    }
    return sum;
}
