/*
 * `transfer get ADDRESS PORT`: reads a TCP connection to its end. `transfer put ADDRESS PORT MIB`: writes that much
 * into one. In pieces of 64 KiB, so that the network is what takes the time. Prints `BYTES n`.
 */
#define NAME "transfer"
#define OTHER_ROLE
static unsigned other_role(void);
#include "rt.h"

enum { PIECE = 1 << 16, SYS_socketcall = 102, CALL_SOCKET = 1, CALL_CONNECT = 3 };
static u32 buffer[PIECE / 4];

static i32 socket_call(u32 call, u32 a, u32 b, u32 c)
{
    u32 arguments[3] = {a, b, c};
    return syscall3(SYS_socketcall, call, (u32)arguments, 0);
}

/* Four numbers with dots, in network byte order. */
static u32 parse_address(const char *text)
{
    u32 address = 0;
    for (u32 shift = 0; shift < 32; shift += 8) {
        address |= (parse(text) & 255) << shift;
        while (*text >= '0' && *text <= '9')
            text++;
        if (*text == '.')
            text++;
    }
    return address;
}

static unsigned other_role(void)
{
    char **arguments = program_arguments + 1;
    if (!arguments[1] || !arguments[2])
        fail("usage: transfer get|put ADDRESS PORT [MIB]");
    u32 put = arguments[0][0] == 'p', port = parse(arguments[2]), moved = 0;
    u32 total = put && arguments[3] ? parse(arguments[3]) << 20 : 0;
    /* AF_INET, SOCK_STREAM; a sockaddr_in. */
    u32 where[4] = {2 | (port >> 8 | (port & 255) << 8) << 16, parse_address(arguments[1]), 0, 0};
    i32 fd = socket_call(CALL_SOCKET, 2, 1, 0);
    if (fd < 0 || socket_call(CALL_CONNECT, (u32)fd, (u32)where, sizeof where))
        fail("no connection");
    while (!put || moved < total) {
        u32 piece = put && total - moved < PIECE ? total - moved : PIECE;
        i32 n = syscall3(put ? SYS_write : SYS_read, (u32)fd, (u32)buffer, piece);
        if (n < 0)
            fail("the connection broke");
        if (n == 0)
            break;
        moved += (u32)n;
    }
    char line[32] = "BYTES ", *end = number(line + 6, moved, 10, 1);
    *end++ = '\n';
    *end = 0;
    print(line);
    return 0;
}

u32 bench(u32 size)
{
    return size;
}
