/* Words of a text: scanning, comparing, copying, a hash table with chains. */
#include "rt.h"

enum { TEXT = 1 << 16, BUCKETS = 1 << 10, WORDS = 1 << 13 };
static char text[TEXT];
static struct word { struct word *next; u32 count; char name[16]; } words[WORDS], *buckets[BUCKETS];

static NOINLINE int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static NOINLINE void copy(char *to, const char *from)
{
    while ((*to++ = *from++))
        ;
}

u32 bench(u32 size)
{
    u32 random = 5, sum = 0;
    for (u32 i = 0; i < TEXT - 1; i++) {
        u32 value = next_random(&random);
        text[i] = (value & 7) == 0 ? ' ' : (char)((value >> 3 & 1 ? 'a' : 'A') + (value >> 8) % 6);
    }
    for (u32 pass = 0; pass < size; pass++) {
        u32 used = 0, total = 0;
        memset(buckets, 0, sizeof buckets);
        for (const char *at = text; *at;) {
            char word[16];
            u32 n = 0, hash = 5381;
            while (*at == ' ')
                at++;
            while (*at && *at != ' ' && n < 15) {
                char c = *at++;
                if (c >= 'A' && c <= 'Z')
                    c = (char)(c + 'a' - 'A');
                hash = hash * 33 + (u8)c;
                word[n++] = c;
            }
            if (!n)
                continue;
            word[n] = 0;
            struct word **bucket = &buckets[hash % BUCKETS], *w = *bucket;
            while (w && !same(w->name, word))
                w = w->next;
            if (!w) {
                if (used == WORDS)
                    fail("too many words");
                w = &words[used++];
                copy(w->name, word);
                w->count = 0;
                w->next = *bucket;
                *bucket = w;
            }
            w->count++;
            total++;
        }
        u32 counted = 0;
        for (u32 i = 0; i < used; i++) {
            counted += words[i].count;
            sum = mix(sum, words[i].count + (u8)words[i].name[0]);
        }
        if (counted != total)
            fail("words were lost");
        text[pass % (TEXT - 1)] = 'z';
    }
    return sum;
}
