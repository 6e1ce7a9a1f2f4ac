/* Spectral norm of an infinite matrix by the power method: divisions and conversions from integers. */
#include "rt.h"

enum { N = 100 };
static double u[N], v[N], t[N];

static double element(u32 i, u32 j)
{
    return 1.0 / (double)(i32)((i + j) * (i + j + 1) / 2 + i + 1);
}

static NOINLINE void times(const double *from, double *to, int transposed)
{
    for (u32 i = 0; i < N; i++) {
        double sum = 0;
        for (u32 j = 0; j < N; j++)
            sum += (transposed ? element(j, i) : element(i, j)) * from[j];
        to[i] = sum;
    }
}

u32 bench(u32 size)
{
    u32 sum = 0;
    for (u32 pass = 0; pass < size; pass++) {
        for (u32 i = 0; i < N; i++)
            u[i] = 1;
        for (u32 step = 0; step < 10; step++) {
            times(u, t, 0);
            times(t, v, 1);
            times(v, t, 0);
            times(t, u, 1);
        }
        double uv = 0, vv = 0;
        for (u32 i = 0; i < N; i++)
            uv += u[i] * v[i], vv += v[i] * v[i];
        double norm = __builtin_sqrt(uv / vv);
        if (norm < 1.27421 || norm > 1.27423)
            fail("spectral norm of the first 100 rows");
        sum = mix_double(sum, norm);
    }
    return sum;
}
