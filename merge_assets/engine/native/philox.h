/* Philox4x32-10, a counter-based random number generator (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as
   1, 2, 3; SC 2011): four words for the counter (block, 0, 0) of 64, 32 and 32 bits. */
#ifndef MERGE_ASSETS_PHILOX_H
#define MERGE_ASSETS_PHILOX_H

#include "common.h"

#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u
enum { ROUNDS = 10, AT_ONCE = 8 };
/* More words than were asked for may be written, up to this many. */
#define PHILOX_SLACK (4 * AT_ONCE)

static void philox_plain(uint32_t *words, const uint32_t *key, int64_t first, int64_t blocks) {
    for (int64_t block = 0; block < blocks; block++) {
        uint32_t c0 = (uint32_t)(first + block), c1 = (uint32_t)((first + block) >> 32), c2 = 0, c3 = 0;
        uint32_t k0 = key[0], k1 = key[1];
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t p0 = (uint64_t)c0 * MULTIPLIER_0, p1 = (uint64_t)c2 * MULTIPLIER_1;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)p1;
            c3 = (uint32_t)p0;
            k0 += WEYL_0;
            k1 += WEYL_1;
        }
        uint32_t *to = words + 4 * block;
        to[0] = c0, to[1] = c1, to[2] = c2, to[3] = c3;
    }
}

#ifdef __x86_64__
#include <immintrin.h>

/* Two groups of four counters side by side, each 32-bit word in a 64-bit lane; what is above it does not matter. */
__attribute__((target("avx2"))) static void philox_avx2(
    uint32_t *words, const uint32_t *key, int64_t first, int64_t blocks
) {
    const __m256i m0 = _mm256_set1_epi64x(MULTIPLIER_0), m1 = _mm256_set1_epi64x(MULTIPLIER_1);
    const __m256i low = _mm256_set1_epi64x(0xFFFFFFFF);
    for (int64_t block = 0; block < blocks; block += AT_ONCE) {
        __m256i c0[2], c1[2], c2[2], c3[2];
        for (int g = 0; g < 2; g++) {
            int64_t n = first + block + 4 * g;
            c0[g] = _mm256_set_epi64x(n + 3, n + 2, n + 1, n);
            c1[g] = _mm256_srli_epi64(c0[g], 32);
            c2[g] = c3[g] = _mm256_setzero_si256();
        }
        uint32_t k0 = key[0], k1 = key[1];
        for (int round = 0; round < ROUNDS; round++) {
            const __m256i a = _mm256_set1_epi64x(k0), b = _mm256_set1_epi64x(k1);
            for (int g = 0; g < 2; g++) {
                __m256i p0 = _mm256_mul_epu32(c0[g], m0), p1 = _mm256_mul_epu32(c2[g], m1);
                c0[g] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(c1[g], a));
                c2[g] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(c3[g], b));
                c1[g] = p1;
                c3[g] = p0;
            }
            k0 += WEYL_0;
            k1 += WEYL_1;
        }
        for (int g = 0; g < 2; g++) {
            __m256i front = _mm256_or_si256(_mm256_and_si256(c0[g], low), _mm256_slli_epi64(c1[g], 32));
            __m256i back = _mm256_or_si256(_mm256_and_si256(c2[g], low), _mm256_slli_epi64(c3[g], 32));
            __m256i even = _mm256_unpacklo_epi64(front, back), odd = _mm256_unpackhi_epi64(front, back);
            __m256i *to = (__m256i *)(words + 4 * (block + 4 * g));
            _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
            _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
        }
    }
}
#endif

/* Words of `blocks` blocks from block number `first` on; words has room for PHILOX_SLACK more. */
static inline void philox(uint32_t *words, const uint32_t *key, int64_t first, int64_t blocks) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        philox_avx2(words, key, first, blocks);
        return;
    }
#endif
    philox_plain(words, key, first, blocks);
}

#endif
