/* Matrix multiplication in floating point. */
#include "rt.h"

enum { N = 64 };
static double a[N][N], b[N][N], c[N][N];

static NOINLINE void multiply(void)
{
    for (u32 i = 0; i < N; i++)
        for (u32 j = 0; j < N; j++) {
            double sum = 0;
            for (u32 k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
}

u32 bench(u32 size)
{
    u32 random = 8, sum = 0;
    for (u32 i = 0; i < N * N; i++) {
        (&a[0][0])[i] = (double)(next_random(&random) >> 8) / (1 << 24);
        (&b[0][0])[i] = (double)(next_random(&random) >> 8) / (1 << 24);
    }
    for (u32 pass = 0; pass < size; pass++) {
        multiply();
        a[pass % N][0] = c[0][pass % N] / N;
    }
    for (u32 i = 0; i < N * N; i++)
        sum = mix_double(sum, (&c[0][0])[i]);
    return sum;
}
