/* Sieve of Eratosthenes: byte stores with growing strides over 1 MiB. */
#include "rt.h"

enum { N = 1 << 20 };
static u8 composite[N];

u32 bench(u32 size)
{
    u32 sum = 0;
    for (u32 pass = 0; pass < size; pass++) {
        memset(composite, 0, N);
        u32 primes = 0;
        for (u32 i = 2; i < N; i++) {
            if (composite[i])
                continue;
            primes++;
            sum += i;
            if (i < 1024)
                for (u32 j = i * i; j < N; j += i)
                    composite[j] = 1;
        }
        if (primes != 82025)
            fail("number of primes below 2^20");
        sum = mix(sum, pass);
    }
    return sum;
}
