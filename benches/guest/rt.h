/*
 * The whole runtime of a benchmark program: Linux system calls by INT 80h, output, memory, the entry point.
 * No C library: the programs are static, small, and the same bytes in every engine.
 *
 * A program includes this file, defines `unsigned bench(unsigned size)`, and is built with
 * -DNAME="\"its name\"". It is called as `program SIZE`, and prints
 *
 *     START name
 *     END name checksum microseconds
 *
 * The host takes the time between the two lines; the microseconds are the guest's own opinion. What bench()
 * returns is the checksum: it has to depend on all the work, and on nothing but the size. A program that
 * finds its own result wrong calls fail().
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define NOINLINE __attribute__((noinline))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Numbers of system calls, from the kernel's table for i386. */
enum {
    SYS_exit = 1, SYS_fork = 2, SYS_read = 3, SYS_write = 4, SYS_open = 5, SYS_close = 6, SYS_waitpid = 7,
    SYS_unlink = 10, SYS_execve = 11, SYS_getpid = 20, SYS_kill = 37, SYS_rename = 38, SYS_mkdir = 39,
    SYS_rmdir = 40, SYS_pipe = 42, SYS_ioctl = 54, SYS_getppid = 64, SYS_munmap = 91,
    SYS_sched_yield = 158, SYS_rt_sigaction = 174, SYS_mmap2 = 192, SYS_stat64 = 195, SYS_exit_group = 252,
    SYS_clock_gettime = 265, SYS_fadvise64_64 = 272, SYS_sync_file_range = 314,
};

static inline i32 syscall3(i32 number, u32 a, u32 b, u32 c)
{
    i32 result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

/* Six arguments: the sixth goes in EBP, which the compiler may be using. */
static NOINLINE i32 syscall6(i32 number, const u32 *arguments)
{
    i32 result;
    __asm__ volatile("push %%ebp\n\t"
                     "mov 20(%%edi), %%ebp\n\t"
                     "mov 0(%%edi), %%ebx\n\t"
                     "mov 4(%%edi), %%ecx\n\t"
                     "mov 8(%%edi), %%edx\n\t"
                     "mov 12(%%edi), %%esi\n\t"
                     "mov 16(%%edi), %%edi\n\t"
                     "int $0x80\n\t"
                     "pop %%ebp"
                     : "=a"(result), "+D"(arguments)
                     : "a"(number)
                     : "ebx", "ecx", "edx", "esi", "memory");
    return result;
}

/* The compiler calls these by name. */
void *memcpy(void *to, const void *from, u32 count)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return result;
}

void *memset(void *to, int value, u32 count)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return result;
}

static u32 length(const char *text)
{
    u32 n = 0;
    while (text[n])
        n++;
    return n;
}

static void print(const char *text)
{
    syscall3(SYS_write, 1, (u32)text, length(text));
}

__attribute__((noreturn)) static void leave(u32 status)
{
    for (;;)
        syscall3(SYS_exit_group, status, 0, 0);
}

__attribute__((noreturn, unused)) static void fail(const char *why)
{
    print("BAD " NAME ": ");
    print(why);
    print("\n");
    leave(1);
}

/* Anonymous memory; every page of it is there already. */
__attribute__((unused)) static void *memory(u32 bytes)
{
    enum { READ_WRITE = 3, PRIVATE_ANONYMOUS_POPULATE = 0x2 | 0x20 | 0x8000 };
    u32 arguments[6] = {0, bytes, READ_WRITE, PRIVATE_ANONYMOUS_POPULATE, (u32)-1, 0};
    u32 result = (u32)syscall6(SYS_mmap2, arguments);
    if (result > (u32)-4096)
        fail("no memory");
    return (void *)result;
}

/* Pseudo-random numbers (xorshift); the state must not be 0. */
__attribute__((unused)) static inline u32 next_random(u32 *state)
{
    u32 x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

__attribute__((unused)) static inline u32 mix(u32 sum, u32 value)
{
    return (sum << 5 | sum >> 27) * 0x9E3779B1u + value;
}

/* Adds all bits of a number to a checksum. */
__attribute__((unused)) static inline u32 mix_double(u32 sum, double value)
{
    union { double value; u32 half[2]; } bits = {value};
    return mix(mix(sum, bits.half[0]), bits.half[1]);
}

static u32 microseconds(void)
{
    enum { MONOTONIC = 1 };
    u32 time[2];
    syscall3(SYS_clock_gettime, MONOTONIC, (u32)time, 0);
    return time[0] * 1000000u + time[1] / 1000u;
}

static char *number(char *to, u32 value, u32 base, u32 digits)
{
    char reversed[12];
    u32 n = 0;
    do {
        reversed[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || n < digits);
    while (n)
        *to++ = reversed[--n];
    return to;
}

static u32 parse(const char *text)
{
    u32 value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (u32)(*text++ - '0');
    return value;
}

u32 bench(u32 size);

/* The words that the kernel put on the stack: count, arguments, null, environment, null. */
static char **program_arguments;

__attribute__((used, noreturn)) static void begin(u32 *stack)
{
    program_arguments = (char **)(stack + 1);
#ifdef OTHER_ROLE
    if (stack[0] > 2)
        leave(other_role());
#endif
    u32 size = stack[0] > 1 ? parse(program_arguments[1]) : 1;
    print("START " NAME "\n");
    /* Let the line go out before the clock starts (TCSBRK 1 waits for the terminal; a pipe has none). */
    syscall3(SYS_ioctl, 1, 0x5409, 1);
    u32 start = microseconds();
    u32 sum = bench(size);
    u32 time = microseconds() - start;
    char line[80] = "END " NAME " ", *end = line + length(line);
    end = number(end, sum, 16, 8);
    *end++ = ' ';
    end = number(end, time, 10, 1);
    *end++ = '\n';
    *end = 0;
    print(line);
    leave(0);
}

__asm__(".globl _start\n_start:\n\tmov %esp, %eax\n\txor %ebp, %ebp\n\tand $-16, %esp\n\tsub $12, %esp\n\t"
        "push %eax\n\tcall begin\n");
