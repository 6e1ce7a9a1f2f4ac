/* Integer matrix multiplication: multiplications, strided loads. */
#include "rt.h"

enum { N = 96 };
static u32 a[N][N], b[N][N], c[N][N];

static NOINLINE void multiply(void)
{
    for (u32 i = 0; i < N; i++)
        for (u32 j = 0; j < N; j++) {
            u32 sum = 0;
            for (u32 k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
}

u32 bench(u32 size)
{
    u32 random = 3, sum = 0;
    for (u32 i = 0; i < N * N; i++) {
        (&a[0][0])[i] = next_random(&random);
        (&b[0][0])[i] = next_random(&random);
    }
    for (u32 pass = 0; pass < size; pass++) {
        multiply();
        a[pass % N][0] ^= c[0][pass % N];
    }
    for (u32 i = 0; i < N * N; i++)
        sum = mix(sum, (&c[0][0])[i]);
    return sum;
}
