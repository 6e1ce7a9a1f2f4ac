/* CRC-32 byte by byte with a table: a chain of dependent loads. */
#include "rt.h"

static u32 table[256];
static u8 text[1 << 16];

static NOINLINE u32 crc(const u8 *at, u32 count, u32 sum)
{
    sum = ~sum;
    while (count--)
        sum = sum >> 8 ^ table[(u8)(sum ^ *at++)];
    return ~sum;
}

u32 bench(u32 size)
{
    for (u32 i = 0; i < 256; i++) {
        u32 value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
        table[i] = value;
    }
    if (crc((const u8 *)"123456789", 9, 0) != 0xCBF43926)
        fail("check value");
    u32 random = 2, sum = 0;
    for (u32 i = 0; i < sizeof text; i++)
        text[i] = (u8)next_random(&random);
    for (u32 pass = 0; pass < size; pass++)
        sum = crc(text, sizeof text, sum);
    return sum;
}
