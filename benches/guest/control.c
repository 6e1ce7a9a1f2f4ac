/*
 * A mix in the manner of CoreMark, all code ours: a linked list that is searched, reversed and merge-sorted,
 * small matrices, a state machine that classifies numbers in text, and a CRC over everything.
 */
#include "rt.h"

enum { NODES = 256, N = 12 };
struct node { struct node *next; i32 value; };
static struct node nodes[NODES];
static short a[N][N], b[N][N];
static i32 c[N][N];

static u16 crc16(u16 sum, u16 value)
{
    for (int bit = 0; bit < 16; bit++, value >>= 1)
        sum = (sum ^ value) & 1 ? sum >> 1 ^ 0xA001 : sum >> 1;
    return sum;
}

static struct node *merge(struct node *x, struct node *y)
{
    struct node head, *tail = &head;
    while (x && y) {
        struct node **least = x->value <= y->value ? &x : &y;
        tail = tail->next = *least;
        *least = (*least)->next;
    }
    tail->next = x ? x : y;
    return head.next;
}

static NOINLINE struct node *sorted(struct node *list, u32 count)
{
    if (count < 2) {
        list->next = 0;
        return list;
    }
    struct node *half = list;
    for (u32 i = 0; i < count / 2; i++)
        half = half->next;
    struct node *right = sorted(half, count - count / 2);
    return merge(sorted(list, count / 2), right);
}

static NOINLINE u16 lists(u16 sum, u32 seed)
{
    struct node *list = 0;
    for (u32 i = 0; i < NODES; i++) {
        nodes[i].value = (i32)(next_random(&seed) & 0x7FFF);
        nodes[i].next = list;
        list = &nodes[i];
    }
    for (i32 wanted = 0; wanted < 0x8000; wanted += 0x400) {
        u32 found = 0;
        for (struct node *n = list; n; n = n->next)
            found += n->value < wanted;
        sum = crc16(sum, (u16)found);
    }
    struct node *reversed = 0;
    while (list) {
        struct node *rest = list->next;
        list->next = reversed;
        reversed = list;
        list = rest;
    }
    i32 last = -1;
    for (struct node *n = sorted(reversed, NODES); n; n = n->next) {
        if (n->value < last)
            fail("list not sorted");
        last = n->value;
        sum = crc16(sum, (u16)last);
    }
    return sum;
}

static NOINLINE u16 matrices(u16 sum, u32 seed)
{
    for (u32 i = 0; i < N; i++)
        for (u32 j = 0; j < N; j++) {
            a[i][j] = (short)(next_random(&seed) & 0xFF);
            b[i][j] = (short)(next_random(&seed) & 0xFF);
        }
    for (u32 i = 0; i < N; i++)
        for (u32 j = 0; j < N; j++) {
            i32 value = 0;
            for (u32 m = 0; m < N; m++)
                value += a[i][m] * b[m][j];
            c[i][j] = (value >> 2 & 15) * (value >> 5 & 127);
            sum = crc16(sum, (u16)c[i][j]);
        }
    return sum;
}

static NOINLINE u16 numbers(u16 sum, u32 seed)
{
    enum { START, INTEGER, FRACTION, EXPONENT_SIGN, EXPONENT, INVALID, STATES } state;
    u32 counts[STATES] = {0};
    char text[128];
    for (u32 i = 0; i < sizeof text; i++)
        text[i] = "0123456789.e+-,,"[next_random(&seed) & 15];
    state = START;
    for (u32 i = 0; i < sizeof text; i++) {
        char ch = text[i];
        int digit = ch >= '0' && ch <= '9';
        if (ch == ',') {
            counts[state]++;
            state = START;
            continue;
        }
        switch (state) {
        case START: state = digit || ch == '+' || ch == '-' ? INTEGER : ch == '.' ? FRACTION : INVALID; break;
        case INTEGER: state = digit ? INTEGER : ch == '.' ? FRACTION : ch == 'e' ? EXPONENT_SIGN : INVALID; break;
        case FRACTION: state = digit ? FRACTION : ch == 'e' ? EXPONENT_SIGN : INVALID; break;
        case EXPONENT_SIGN: state = digit || ch == '+' || ch == '-' ? EXPONENT : INVALID; break;
        case EXPONENT: state = digit ? EXPONENT : INVALID; break;
        default: break;
        }
    }
    for (u32 i = 0; i < STATES; i++)
        sum = crc16(sum, (u16)counts[i]);
    return sum;
}

u32 bench(u32 size)
{
    u16 sum = 0;
    for (u32 pass = 1; pass <= size; pass++) {
        sum = lists(sum, pass);
        sum = matrices(sum, pass);
        sum = numbers(sum, pass);
    }
    return sum;
}
