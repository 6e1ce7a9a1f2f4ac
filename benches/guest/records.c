/*
 * A mix in the manner of Dhrystone, all code ours: assignments of records, calls with parameters of several
 * kinds, comparisons of strings, small arrays. What such a mix says about code of its time it says here too.
 */
#include "rt.h"

enum kind { CIRCLE, SQUARE, LABEL };
struct record { struct record *link; enum kind kind; i32 number; char text[32]; };

static struct record first, second;
static i32 one[50], two[50][50], global;
static char letter;

static NOINLINE int compare(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

static NOINLINE void copy(char *to, const char *from)
{
    while ((*to++ = *from++))
        ;
}

static NOINLINE enum kind other(enum kind kind)
{
    switch (kind) {
    case CIRCLE: return global > 100 ? CIRCLE : LABEL;
    case SQUARE: return CIRCLE;
    default: return SQUARE;
    }
}

static NOINLINE void increase(i32 *value)
{
    i32 local = *value + 10;
    do
        local -= letter == 'A' ? 1 : 2;
    while (local > *value + 8);
    *value = local;
}

static NOINLINE void visit(struct record *record)
{
    struct record *next = record->link;
    *next = first;
    record->number = 5;
    next->number = record->number;
    next->link = record->link;
    if (next->kind == CIRCLE) {
        next->number = 6;
        next->kind = other(record->kind);
        increase(&next->number);
    } else {
        *record = *next;
    }
}

static NOINLINE void arrays(i32 a, i32 b)
{
    i32 at = a + 5;
    one[at] = b;
    one[at + 1] = one[at];
    one[at + 30] = at;
    for (i32 i = at; i <= at + 1; i++)
        two[at][i] = at;
    two[at][at - 1]++;
    two[at + 20][at] = one[at];
    global += 5;
}

u32 bench(u32 size)
{
    u32 sum = 0;
    first.link = &second;
    first.kind = CIRCLE;
    copy(first.text, "a record with some text in it");
    for (u32 pass = 0; pass < size * 1000; pass++) {
        char text[32], text2[32];
        letter = (char)('A' + pass % 3);
        copy(text, "the first string of the program");
        copy(text2, pass & 1 ? "the first string of the prograM" : "the other string of the program");
        global = compare(text, text2) > 0 ? 1 : 101;
        i32 x = 2, y = 3, z = 0;
        while (x < y) {
            z = 5 * x - y;
            increase(&z);
            x++;
        }
        arrays((i32)(pass % 15), z);
        first.kind = pass & 2 ? SQUARE : CIRCLE;
        visit(&first);
        first.link = &second;
        y = x * z / (i32)(1 + pass % 7);
        sum = mix(sum, (u32)(y + second.number + one[8] + two[8][7]));
    }
    return sum;
}
