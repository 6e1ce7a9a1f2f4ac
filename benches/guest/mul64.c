/* 64-bit and multi-word arithmetic on a 32-bit machine: ADC, MUL, SHLD. */
#include "rt.h"

enum { WORDS = 32 };

static NOINLINE void multiply(u32 *product, const u32 *a, const u32 *b)
{
    memset(product, 0, 2 * WORDS * sizeof *product);
    for (u32 i = 0; i < WORDS; i++) {
        u32 carry = 0;
        for (u32 j = 0; j < WORDS; j++) {
            u64 value = (u64)a[i] * b[j] + product[i + j] + carry;
            product[i + j] = (u32)value;
            carry = (u32)(value >> 32);
        }
        product[i + WORDS] = carry;
    }
}

u32 bench(u32 size)
{
    u32 a[WORDS], b[WORDS], product[2 * WORDS], random = 6, sum = 0;
    u64 state = 0x853C49E6748FEA9Bull;
    for (u32 i = 0; i < WORDS; i++) {
        a[i] = next_random(&random);
        b[i] = next_random(&random);
    }
    for (u32 pass = 0; pass < size * 100; pass++) {
        multiply(product, a, b);
        for (u32 i = 0; i < WORDS; i++) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            u32 shift = (u32)(state >> 59);
            a[i] = product[i + WORDS] + (u32)((state >> 18 ^ state) >> (27 - (shift & 7)));
        }
        sum = mix(sum, a[WORDS - 1]);
    }
    return sum;
}
