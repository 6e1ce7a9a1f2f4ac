/* Copying and filling memory, short and long: REP MOVS, REP STOS, and loops. */
#include "rt.h"

enum { BIG = 1 << 20 };

static NOINLINE void words(u32 *to, const u32 *from, u32 count)
{
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static NOINLINE void loop(u32 *to, const u32 *from, u32 count)
{
    for (u32 i = 0; i < count; i++) {
        to[i] = from[i];
        __asm__ volatile("" : : : "memory"); /* stays a loop */
    }
}

u32 bench(u32 size)
{
    u8 *from = memory(BIG), *to = memory(BIG);
    u32 random = 12, sum = 0;
    for (u32 i = 0; i < BIG / 4; i++)
        ((u32 *)from)[i] = next_random(&random);
    for (u32 pass = 0; pass < size; pass++) {
        words((u32 *)to, (u32 *)from, BIG / 4);
        loop((u32 *)from, (u32 *)to, BIG / 16);
        for (u32 i = 0; i < BIG / 4; i += 64)
            memcpy(to + i, from + BIG / 2 + i, 48);
        for (u32 i = 0; i < BIG / 8; i += 64)
            memset(to + BIG / 2 + i, (int)pass, 40);
        ((u32 *)from)[pass] = sum = mix(sum, ((u32 *)to)[pass * 67 % (BIG / 4)]);
    }
    for (u32 i = 0; i < BIG / 4; i++)
        sum = mix(sum, ((u32 *)to)[i]);
    return sum;
}
