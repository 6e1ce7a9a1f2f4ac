/* Calls through tables of functions, of objects of five kinds in random order. */
#include "rt.h"

struct shape;
struct methods { u32 (*area)(const struct shape *); void (*grow)(struct shape *, u32); };
struct shape { const struct methods *methods; u32 a, b; };

static u32 square_area(const struct shape *s) { return s->a * s->a; }
static u32 box_area(const struct shape *s) { return s->a * s->b; }
static u32 triangle_area(const struct shape *s) { return s->a * s->b / 2; }
static u32 ring_area(const struct shape *s) { return 3 * (s->a * s->a - s->b * s->b); }
static u32 point_area(const struct shape *s) { return s->a & 1; }
static void grow_a(struct shape *s, u32 by) { s->a += by; }
static void grow_b(struct shape *s, u32 by) { s->b ^= by; }
static void grow_both(struct shape *s, u32 by) { s->a += by, s->b -= by; }

static const struct methods kinds[] = {
    {square_area, grow_a}, {box_area, grow_both}, {triangle_area, grow_b}, {ring_area, grow_a}, {point_area, grow_both},
};
enum { N = 1000 };
static struct shape shapes[N];

u32 bench(u32 size)
{
    u32 random = 10, sum = 0;
    for (u32 i = 0; i < N; i++)
        shapes[i] = (struct shape){&kinds[next_random(&random) % COUNT(kinds)], i, i / 2};
    for (u32 pass = 0; pass < size; pass++)
        for (u32 i = 0; i < N; i++) {
            sum += shapes[i].methods->area(&shapes[i]);
            shapes[i].methods->grow(&shapes[i], sum & 15);
        }
    return sum;
}
