/* Quicksort with insertion sort for short runs: branches that depend on data. */
#include "rt.h"

enum { N = 1 << 16 };
static i32 data[N];

static void insertion(i32 *a, i32 n)
{
    for (i32 i = 1; i < n; i++) {
        i32 value = a[i], j = i;
        for (; j > 0 && a[j - 1] > value; j--)
            a[j] = a[j - 1];
        a[j] = value;
    }
}

static NOINLINE void quicksort(i32 *a, i32 n)
{
    while (n > 12) {
        i32 first = a[0], middle = a[n / 2], last = a[n - 1];
        i32 pivot = first < middle ? (middle < last ? middle : first < last ? last : first)
                                   : (first < last ? first : middle < last ? last : middle);
        i32 i = -1, j = n;
        for (;;) {
            do
                i++;
            while (a[i] < pivot);
            do
                j--;
            while (a[j] > pivot);
            if (i >= j)
                break;
            i32 t = a[i];
            a[i] = a[j];
            a[j] = t;
        }
        quicksort(a, j + 1);
        a += j + 1;
        n -= j + 1;
    }
    insertion(a, n);
}

u32 bench(u32 size)
{
    u32 random = 1, sum = 0;
    for (u32 pass = 0; pass < size; pass++) {
        for (u32 i = 0; i < N; i++)
            data[i] = (i32)next_random(&random);
        quicksort(data, N);
        for (u32 i = 1; i < N; i++)
            if (data[i - 1] > data[i])
                fail("not sorted");
        for (u32 i = 0; i < N; i += 97)
            sum = mix(sum, (u32)data[i]);
    }
    return sum;
}
