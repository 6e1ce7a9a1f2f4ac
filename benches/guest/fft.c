/* Fast Fourier transform (radix 2, in place) and back: strided floating-point loads and stores. */
#include "rt.h"

enum { BITS = 10, N = 1 << BITS };
static double re[N], im[N], wave_re[N / 2], wave_im[N / 2], before[N];

static NOINLINE void transform(double direction)
{
    for (u32 i = 0, j = 0; i < N; i++) {
        if (i < j) {
            double t = re[i];
            re[i] = re[j], re[j] = t;
            t = im[i];
            im[i] = im[j], im[j] = t;
        }
        u32 bit = N >> 1;
        while (j & bit)
            j ^= bit, bit >>= 1;
        j |= bit;
    }
    for (u32 half = 1; half < N; half *= 2)
        for (u32 start = 0; start < N; start += 2 * half)
            for (u32 i = start, w = 0; i < start + half; i++, w += N / 2 / half) {
                double c = wave_re[w], s = direction * wave_im[w];
                double x = re[i + half] * c - im[i + half] * s;
                double y = re[i + half] * s + im[i + half] * c;
                re[i + half] = re[i] - x, im[i + half] = im[i] - y;
                re[i] += x, im[i] += y;
            }
}

u32 bench(u32 size)
{
    /* Powers of the N-th root of unity, the root by halving angles from i. */
    double c = 0, s = 1;
    for (u32 n = 4; n < N; n *= 2) {
        double half = __builtin_sqrt((1 + c) / 2);
        s = s / (2 * half);
        c = half;
    }
    wave_re[0] = 1;
    for (u32 i = 1; i < N / 2; i++) {
        wave_re[i] = wave_re[i - 1] * c - wave_im[i - 1] * s;
        wave_im[i] = wave_re[i - 1] * s + wave_im[i - 1] * c;
    }
    u32 random = 7, sum = 0;
    for (u32 i = 0; i < N; i++)
        before[i] = re[i] = (double)(next_random(&random) >> 8) / (1 << 24);
    for (u32 pass = 0; pass < size; pass++) {
        transform(1);
        sum = mix_double(sum, re[1 + pass % (N - 1)]);
        transform(-1);
        for (u32 i = 0; i < N; i++)
            re[i] *= 1.0 / N, im[i] *= 1.0 / N;
    }
    for (u32 i = 0; i < N; i++) {
        double off = re[i] - before[i];
        if (off > 1e-6 || off < -1e-6)
            fail("there and back is not the same");
    }
    return sum;
}
