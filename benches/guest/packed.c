/* Packed integers in SSE2 registers: what compilers make of loops over bytes and words. */
#include "rt.h"

typedef u32 quad __attribute__((vector_size(16)));
typedef u16 octet __attribute__((vector_size(16)));
enum { N = 1024 };
static quad data[N];

u32 bench(u32 size)
{
    u32 random = 9;
    for (u32 i = 0; i < N; i++)
        data[i] = (quad){next_random(&random), next_random(&random), next_random(&random), next_random(&random)};
    quad sum = {1, 2, 3, 4};
    for (u32 pass = 0; pass < size; pass++)
        for (u32 i = 0; i < N; i++) {
            quad x = data[i];
            sum = (sum << 5 | sum >> 27) + (x ^ (x >> 3));
            data[i] = (quad)((octet)x * (octet)sum) + (x > sum);
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}
