/* Linux on i386 without a C library: system calls, a clock, output. */
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

static inline int call(int number, int a, int b, int c, int d, int e)
{
	int result;
	/* EBP would be the sixth argument; no caller here needs it. */
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return result;
}

enum {
	SYS_EXIT = 1,
	SYS_FORK = 2,
	SYS_READ = 3,
	SYS_WRITE = 4,
	SYS_OPEN = 5,
	SYS_CLOSE = 6,
	SYS_EXECVE = 11,
	SYS_MKNOD = 14,
	SYS_LSEEK = 19,
	SYS_GETPID = 20,
	SYS_KILL = 37,
	SYS_MKDIR = 39,
	SYS_PIPE = 42,
	SYS_GETPPID = 64,
	SYS_REBOOT = 88,
	SYS_MMAP = 90,
	SYS_MUNMAP = 91,
	SYS_WAIT4 = 114,
	SYS_MPROTECT = 125,
	SYS_SCHED_YIELD = 158,
	SYS_RT_SIGACTION = 174,
	SYS_MMAP2 = 192,
	SYS_STAT64 = 195,
	SYS_CLOCK_GETTIME = 265,
};

#define call0(n) call(n, 0, 0, 0, 0, 0)
#define call1(n, a) call(n, (int)(a), 0, 0, 0, 0)
#define call2(n, a, b) call(n, (int)(a), (int)(b), 0, 0, 0)
#define call3(n, a, b, c) call(n, (int)(a), (int)(b), (int)(c), 0, 0)
#define call4(n, a, b, c, d) call(n, (int)(a), (int)(b), (int)(c), (int)(d), 0)

/* Nanoseconds since some time, of the clock nobody sets. */
static u64 now(void)
{
	u32 t[2];
	call2(SYS_CLOCK_GETTIME, 1, t);
	return (u64)t[0] * 1000000000 + t[1];
}

static void text(const char *s)
{
	int n = 0;
	while (s[n])
		n++;
	call3(SYS_WRITE, 1, s, n);
}

static void number(u32 n)
{
	char buffer[12];
	int at = 11;
	buffer[at] = 0;
	do {
		buffer[--at] = '0' + n % 10;
		n /= 10;
	} while (n);
	text(buffer + at);
}

/* 64 by 32 bits; the quotient must fit. */
static u32 divide(u64 a, u32 b)
{
	u32 quotient, rest;
	__asm__("divl %4" : "=a"(quotient), "=d"(rest) : "a"((u32)a), "d"((u32)(a >> 32)), "r"(b));
	return quotient;
}
