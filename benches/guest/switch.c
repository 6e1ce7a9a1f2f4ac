/* A scanner with a switch of many cases: indirect and hardly predictable branches. */
#include "rt.h"

enum { TEXT = 1 << 15 };
static u8 text[TEXT];

static NOINLINE u32 scan(u32 sum)
{
    u32 depth = 0, line = 0;
    for (u32 i = 0; i < TEXT; i++) {
        switch (text[i]) {
        case '(': depth++; break;
        case ')': depth -= depth > 0; break;
        case '\n': line++; depth = 0; break;
        case '+': sum += line; break;
        case '-': sum -= depth; break;
        case '*': sum *= 3; break;
        case '/': sum /= 3; break;
        case '%': sum ^= sum >> 7; break;
        case '<': sum <<= 1; break;
        case '>': sum >>= 1; break;
        case '~': sum = ~sum; break;
        case '0': sum = sum * 10; break;
        case '1': sum = sum * 10 + 1; break;
        case '2': sum = sum * 10 + depth; break;
        case '=': sum = sum << 7 | sum >> 25; break;
        default: sum ^= text[i]; break;
        }
    }
    return sum;
}

u32 bench(u32 size)
{
    u32 random = 11, sum = 1;
    for (u32 i = 0; i < TEXT; i++)
        text[i] = (u8)"()\n+-*/%<>~012=x"[next_random(&random) >> 9 & 15];
    for (u32 pass = 0; pass < size; pass++)
        sum = scan(sum + pass);
    return sum;
}
