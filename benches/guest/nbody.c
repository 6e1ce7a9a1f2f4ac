/* Five bodies under gravity: additions, multiplications, square roots, divisions in long chains. */
#include "rt.h"

enum { BODIES = 5 };
static double place[BODIES][3] = {{0, 0, 0}, {4.8, -1.2, -0.1}, {8.3, 4.1, -0.4}, {12.9, -15.1, -0.2}, {15.4, -25.9, 0.2}};
static double speed[BODIES][3] = {{0, 0, 0}, {0.6, 2.8, -0.02}, {-1.0, 1.8, 0.01}, {1.1, 0.9, -0.01}, {1.0, 0.6, -0.03}};
static const double mass[BODIES] = {39.5, 0.0377, 0.0113, 0.0017, 0.0020};

static NOINLINE void advance(double step)
{
    for (u32 i = 0; i < BODIES; i++)
        for (u32 j = i + 1; j < BODIES; j++) {
            double d[3], square = 0;
            for (u32 n = 0; n < 3; n++) {
                d[n] = place[i][n] - place[j][n];
                square += d[n] * d[n];
            }
            double pull = step / (square * __builtin_sqrt(square));
            for (u32 n = 0; n < 3; n++) {
                speed[i][n] -= d[n] * mass[j] * pull;
                speed[j][n] += d[n] * mass[i] * pull;
            }
        }
    for (u32 i = 0; i < BODIES; i++)
        for (u32 n = 0; n < 3; n++)
            place[i][n] += step * speed[i][n];
}

u32 bench(u32 size)
{
    for (u32 pass = 0; pass < size * 1000; pass++)
        advance(0.001);
    u32 sum = 0;
    for (u32 i = 0; i < BODIES; i++)
        for (u32 n = 0; n < 3; n++)
            sum = mix_double(sum, place[i][n]);
    return sum;
}
