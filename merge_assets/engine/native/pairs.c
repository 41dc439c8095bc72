/* Inner products of two bfloat16 vectors: the same operations in the same order as in gram(), but a value stays in a
   register from its two bytes to the sums, which takes half the time. Compilers do not find these vectors by themselves, so
   they are written out, for x86 processors with AVX2; others take the general loop. */

#include "pairs.h"

#if defined(__x86_64__) && defined(__GNUC__)

#pragma GCC target("avx2")

#include <immintrin.h>

typedef struct {
    half_lanes one, two;
} lanes_t;

INLINE lanes_t widened(const uint16_t *from) {
    __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
    __m256 single = _mm256_castsi256_ps(bits);
    return (lanes_t){
        _mm256_cvtps_pd(_mm256_castps256_ps128(single)), _mm256_cvtps_pd(_mm256_extractf128_ps(single, 1))
    };
}

/* Of CHUNK elements of x and y or, if there is a base, of their differences to it. */
INLINE void add_products(const uint16_t *x, const uint16_t *y, const uint16_t *base, double *products) {
    lanes_t xx = {0}, xy = {0}, yy = {0};
    for (int64_t i = 0; i < CHUNK; i += LANES) {
        lanes_t u = widened(x + i), v = widened(y + i);
        if (base) {
            lanes_t b = widened(base + i);
            u.one -= b.one, u.two -= b.two;
            v.one -= b.one, v.two -= b.two;
        }
        xx.one += u.one * u.one, xx.two += u.two * u.two;
        xy.one += u.one * v.one, xy.two += u.two * v.two;
        yy.one += v.one * v.one, yy.two += v.two * v.two;
    }
    products[0] += sum_of(xx.one, xx.two);
    products[1] += sum_of(xy.one, xy.two);
    products[3] += sum_of(yy.one, yy.two);
}

INLINE int only_bfloats(const inputs_t *inputs) {
    for (int32_t m = 0; m < inputs->count; m++)
        if (inputs->dtypes[m] != BF16) return 0;
    return 1;
}

int64_t gram_of_pair(const inputs_t *inputs, int64_t count, double *products) {
    int32_t all = inputs->count, b = inputs->base;
    if (all != 2 + (b >= 0) || !only_bfloats(inputs) || !__builtin_cpu_supports("avx2")) return 0;
    const uint16_t *x = inputs->data[b == 0], *y = inputs->data[all - 1 - (b == all - 1)];
    int64_t first = 0;
    for (; first + CHUNK <= count; first += CHUNK)
        if (b >= 0)
            add_products(x + first, y + first, (const uint16_t *)inputs->data[b] + first, products);
        else
            add_products(x + first, y + first, 0, products);
    return first;
}

#else

int64_t gram_of_pair(const inputs_t *inputs, int64_t count, double *products) { return 0; }

#endif
