/* `text KIB x`: that much of something like prose on standard output, the same each time. For scripts. */
#define NAME "text"
#define OTHER_ROLE
static unsigned other_role(void);
#include "rt.h"

static char line[4096];

static unsigned other_role(void)
{
    static const char *const syllables[] = {"ta", "ke", "li", "no", "ru", "sha", "men", "dor", "vi", "pa",
                                            "est", "on", "ra", "qui", "be", "zum"};
    u32 random = 16, at = 0, left = parse(program_arguments[1]);
    while (left) {
        u32 word = next_random(&random);
        /* Few words are frequent and many are rare. */
        word = word & 0x30 ? word & 0xF3F : word & 0xFFFFF;
        for (u32 n = 0; n < 1 + (word & 3); n++, word >>= 4) {
            const char *s = syllables[word & 15];
            while (*s && at < sizeof line)
                line[at++] = *s++;
        }
        if (at < sizeof line)
            line[at++] = word & 1 ? ' ' : word & 30 ? ' ' : '\n';
        if (at == sizeof line) {
            for (u32 sent = 0; sent < at;) {
                i32 n = syscall3(SYS_write, 1, (u32)line + sent, at - sent);
                if (n <= 0)
                    return 1;
                sent += (u32)n;
            }
            at = 0;
            left -= left < 4 ? left : 4;
        }
    }
    return 0;
}

u32 bench(u32 size)
{
    return size;
}
