/* Mandelbrot set: short chains of floating-point operations with a comparison in each step. */
#include "rt.h"

enum { WIDTH = 96, HEIGHT = 64 };

static NOINLINE u32 steps(double x, double y, u32 limit)
{
    double a = x, b = y;
    for (u32 n = 0; n < limit; n++) {
        double aa = a * a, bb = b * b;
        if (aa + bb > 4)
            return n;
        b = 2 * a * b + y;
        a = aa - bb + x;
    }
    return limit;
}

u32 bench(u32 size)
{
    u32 sum = 0, inside = 0;
    for (u32 row = 0; row < HEIGHT; row++)
        for (u32 column = 0; column < WIDTH; column++) {
            u32 n = steps(column * (3.0 / WIDTH) - 2.25, row * (2.5 / HEIGHT) - 1.25, size);
            inside += n == size;
            sum = mix(sum, n);
        }
    if (inside == 0 || inside == WIDTH * HEIGHT)
        fail("the set has no border");
    return sum;
}
