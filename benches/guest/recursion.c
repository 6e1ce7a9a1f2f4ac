/* Recursion: Fibonacci, Ackermann, and a binary tree that is built and walked. Calls, returns, the stack. */
#include "rt.h"

struct tree { struct tree *left, *right; };
enum { DEPTH = 12 };
static struct tree nodes[2 << DEPTH], *unused;

static NOINLINE u32 fibonacci(u32 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static NOINLINE u32 ackermann(u32 m, u32 n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static NOINLINE struct tree *grow(u32 depth)
{
    struct tree *tree = unused++;
    tree->left = depth ? grow(depth - 1) : 0;
    tree->right = depth ? grow(depth - 1) : 0;
    return tree;
}

static NOINLINE u32 count(const struct tree *tree) { return tree ? 1 + count(tree->left) + count(tree->right) : 0; }

u32 bench(u32 size)
{
    u32 sum = 0;
    for (u32 pass = 0; pass < size; pass++) {
        unused = nodes;
        sum = mix(sum, fibonacci(22) + ackermann(2, 40));
        u32 found = count(grow(DEPTH));
        if (found != (2 << DEPTH) - 1)
            fail("nodes of the tree");
        sum = mix(sum, found);
    }
    if (fibonacci(20) != 6765)
        fail("Fibonacci");
    return sum;
}
