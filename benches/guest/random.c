/* Random updates of a table of 4 MiB. */
#include "rt.h"

enum { N = 1 << 20 };

u32 bench(u32 size)
{
    u32 *table = memory(N * 4), random = 14, sum = 0;
    for (u32 i = 0; i < N; i++)
        table[i] = i;
    for (u32 i = 0; i < size * 1000; i++) {
        u32 value = next_random(&random);
        table[value >> 12] ^= value;
    }
    for (u32 i = 0; i < N; i += 7)
        sum = mix(sum, table[i]);
    return sum;
}
