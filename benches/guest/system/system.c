/* What the kernel does for programs, in nanoseconds each: "name nanoseconds" per line.
 *
 * gcc -m32 -O2 -march=i686 -static -nostdlib -ffreestanding -fno-pie -no-pie -fno-stack-protector system.c
 *
 * Without arguments everything, else what is named. As the first process (an initrd that has nothing but
 * this as /init) it switches the machine off afterwards.
 */
#include "guest.h"

enum { PAGE = 4096 };
static const char *self = "/init";

static void *map(u32 length)
{
	/* readable and writable, private and anonymous */
	u32 arguments[6] = {0, length, 3, 0x22, (u32)-1, 0};
	return (void *)call1(SYS_MMAP, arguments);
}

static void child_exits(int pid)
{
	int status;
	call4(SYS_WAIT4, pid, &status, 0, 0);
}

static void null_call(u32 n)
{
	while (n--)
		call0(SYS_GETPPID);
}

static void null_write(u32 n)
{
	int fd = call3(SYS_OPEN, "/dev/null", 1, 0);
	while (n--)
		call3(SYS_WRITE, fd, "x", 1);
	call1(SYS_CLOSE, fd);
}

/* Pages of a fresh mapping, written once each. */
static void page_fault(u32 n)
{
	enum { PAGES = 256 };
	for (u32 done = 0; done < n; done += PAGES) {
		volatile char *p = map(PAGES * PAGE);
		for (u32 i = 0; i < PAGES; i++)
			p[i * PAGE] = 1;
		call2(SYS_MUNMAP, p, PAGES * PAGE);
	}
}

static void map_unmap(u32 n)
{
	while (n--) {
		volatile char *p = map(16 * PAGE);
		*p = 1;
		call2(SYS_MUNMAP, p, 16 * PAGE);
	}
}

static void fork_exit(u32 n)
{
	while (n--) {
		int pid = call0(SYS_FORK);
		if (pid == 0)
			call1(SYS_EXIT, 0);
		child_exits(pid);
	}
}

static void fork_exec(u32 n)
{
	const char *arguments[] = {self, "nothing", 0};
	const char *environment[] = {0};
	while (n--) {
		int pid = call0(SYS_FORK);
		if (pid == 0) {
			call3(SYS_EXECVE, self, arguments, environment);
			call1(SYS_EXIT, 1);
		}
		child_exits(pid);
	}
}

/* A byte there and back. */
static void pipe_round(u32 n)
{
	int there[2], back[2];
	char byte = 0;
	call1(SYS_PIPE, there);
	call1(SYS_PIPE, back);
	int pid = call0(SYS_FORK);
	if (pid == 0) {
		call1(SYS_CLOSE, there[1]);
		while (call3(SYS_READ, there[0], &byte, 1) == 1)
			call3(SYS_WRITE, back[1], &byte, 1);
		call1(SYS_EXIT, 0);
	}
	while (n--) {
		call3(SYS_WRITE, there[1], &byte, 1);
		call3(SYS_READ, back[0], &byte, 1);
	}
	call1(SYS_CLOSE, there[1]);
	child_exits(pid);
	call1(SYS_CLOSE, there[0]);
	call1(SYS_CLOSE, back[0]);
	call1(SYS_CLOSE, back[1]);
}

/* Two processes take turns. */
static void switch_process(u32 n)
{
	int pid = call0(SYS_FORK);
	for (u32 i = 0; i < n / 2; i++)
		call0(SYS_SCHED_YIELD);
	if (pid == 0)
		call1(SYS_EXIT, 0);
	child_exits(pid);
}

static volatile u32 signals;
static volatile char *guarded;

static void on_signal(int which)
{
	(void)which;
	signals++;
}

static void on_fault(int which)
{
	(void)which;
	signals++;
	call3(SYS_MPROTECT, guarded, PAGE, 3);
}

__attribute__((naked)) static void sigreturn(void)
{
	__asm__ volatile("mov $119, %eax\n\tpop %ecx\n\tint $0x80");
}

__attribute__((naked)) static void rt_sigreturn(void)
{
	__asm__ volatile("mov $173, %eax\n\tint $0x80");
}

static void handle(int which, void (*handler)(int))
{
	/* handler, flags (RESTORER), restorer, mask; the old form of the frame has 4 bytes more to pop */
	u32 action[5] = {(u32)handler, 0x04000000, (u32)sigreturn, 0, 0};
	(void)rt_sigreturn;
	call4(SYS_RT_SIGACTION, which, action, 0, 8);
}

static void signal_self(u32 n)
{
	handle(10, on_signal);
	int pid = call0(SYS_GETPID);
	while (n--)
		call2(SYS_KILL, pid, 10);
}

/* A store to a page that may not be written, and a handler that makes it writable. */
static void fault_handler(u32 n)
{
	handle(11, on_fault);
	guarded = map(PAGE);
	while (n--) {
		call3(SYS_MPROTECT, guarded, PAGE, 1);
		*guarded = 1;
	}
}

static void read_file(u32 n)
{
	static char buffer[PAGE];
	int fd = call3(SYS_OPEN, self, 0, 0);
	while (n--) {
		call3(SYS_LSEEK, fd, 0, 0);
		call3(SYS_READ, fd, buffer, sizeof buffer);
	}
	call1(SYS_CLOSE, fd);
}

static void open_stat(u32 n)
{
	static char status[256];
	while (n--) {
		call1(SYS_CLOSE, call3(SYS_OPEN, self, 0, 0));
		call2(SYS_STAT64, self, status);
	}
}

/* 48 bytes by REP MOVSD and 20 by REP STOSB: what small copies of programs and kernels are. */
static void short_strings(u32 n)
{
	static char from[64], to[64];
	while (n--) {
		u32 count = 12;
		void *s = from, *d = to;
		__asm__ volatile("rep movsl" : "+c"(count), "+S"(s), "+D"(d) : : "memory");
		count = 20;
		d = to;
		__asm__ volatile("rep stosb" : "+c"(count), "+D"(d) : "a"(0) : "memory");
	}
}

static const struct {
	const char *name;
	void (*run)(u32);
	u32 count;
} measures[] = {
	{"null-call", null_call, 1000},
	{"null-write", null_write, 500},
	{"page-fault", page_fault, 256},
	{"map-unmap", map_unmap, 50},
	{"fork-exit", fork_exit, 8},
	{"fork-exec", fork_exec, 3},
	{"pipe-round", pipe_round, 50},
	{"switch", switch_process, 500},
	{"signal", signal_self, 100},
	{"fault-handler", fault_handler, 50},
	{"read-4k", read_file, 250},
	{"open-stat", open_stat, 70},
	{"short-strings", short_strings, 20000},
};

enum { ROUNDS = 200 };

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void measure(const char *only)
{
	for (u32 i = 0; i < sizeof measures / sizeof *measures; i++) {
		if (only && !equal(only, measures[i].name))
			continue;
		u32 n = measures[i].count;
		u64 best = ~0ull;
		/* The best of many short rounds: the host is rarely alone. */
		for (int round = 0; round < ROUNDS; round++) {
			u64 start = now();
			measures[i].run(n);
			u64 time = now() - start;
			if (time < best)
				best = time;
		}
		text(measures[i].name);
		text(" ");
		number(divide(best, n));
		text("\n");
	}
}

static void all(int count, char **arguments)
{
	if (count < 2)
		measure(0);
	for (int i = 1; i < count; i++)
		measure(arguments[i]);
}

__attribute__((used)) static void start(int *stack)
{
	int count = stack[0];
	char **arguments = (char **)(stack + 1);
	int first = call0(SYS_GETPID) == 1;
	if (count > 1 && equal(arguments[1], "nothing"))
		call1(SYS_EXIT, 0);
	self = arguments[0];
	if (first) {
		/* The initial file system has a directory /dev, and here /dev/null is needed. */
		call2(SYS_MKDIR, "/dev", 0755);
		call3(SYS_MKNOD, "/dev/null", 020666, 0x103);
	}
	if (first) {
		/* The kernel complains of every fault of the first process. */
		int pid = call0(SYS_FORK);
		if (pid == 0) {
			all(count, arguments);
			call1(SYS_EXIT, 0);
		}
		child_exits(pid);
	} else
		all(count, arguments);
	if (first)
		call3(SYS_REBOOT, 0xfee1dead, 0x28121969, 0x4321fedc);
	call1(SYS_EXIT, 0);
}

__attribute__((naked)) void _start(void)
{
	__asm__ volatile("mov %esp, %eax\n\tpush %eax\n\tcall start");
}
