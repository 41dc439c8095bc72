/* Task vectors and which of their elements are kept. */
#ifndef MERGE_ASSETS_SPARSIFY_H
#define MERGE_ASSETS_SPARSIFY_H

#include <math.h>

#include "common.h"
#include "philox.h"

/* Elements of rank 1 to k by magnitude: those above `bits`, and of those with exactly these bits the ones up to flat
   index `last_tie`. */
typedef struct {
    int64_t last_tie;
    uint32_t bits;
} cut_t;

enum kind { EVERYTHING = 0, BAND = 1, BERNOULLI = 2, RANKED = 3 };

typedef struct {
    int32_t kind;
    int32_t divide;      /* RANKED: divide what is kept by its probability */
    cut_t inner;         /* BAND: kept are the elements within this cut ... */
    cut_t outer;         /* ... that are not within this one */
    uint32_t key[2];     /* BERNOULLI, RANKED: Philox key */
    double probability;  /* BERNOULLI; RANKED: of the middle of a row */
    double spread;       /* RANKED: largest less smallest probability, halved */
} sparsifier_t;

typedef struct {
    uint32_t *words;   /* random words */
    uint32_t *rank;    /* of the elements of a row */
    uint64_t *keys[2]; /* magnitudes with the positions that they come from */
} scratch_t;

INLINE uint32_t magnitude_bits(float value) {
    return bits_of(value) & 0x7FFFFFFFu;
}

/* Smallest bits within a cut, for elements up to its last tie or for those behind. */
INLINE uint32_t lowest_within(cut_t cut, int behind) {
    return cut.bits + (behind && cut.bits != UINT32_MAX);
}

/* Random words of any run of flat indices. Returns where the first is. */
INLINE const uint32_t *random_words(const scratch_t *scratch, const uint32_t *key, int64_t start, int64_t count) {
    int64_t before = start % 4;
    philox(scratch->words, key, (start - before) / 4, (count + before + 3) / 4);
    return scratch->words + before;
}

enum { DIGITS = 3, LARGEST_DIGIT = 1 << 11 };

/* Positions in an ascending stable sort by magnitude: counting passes of 11, 10 and 10 bits. */
INLINE void ranks(const scratch_t *scratch, const float *values, int64_t count) {
    static const int shifts[DIGITS] = {0, 11, 21}, widths[DIGITS] = {11, 10, 10};
    uint32_t tally[DIGITS][LARGEST_DIGIT];
    uint64_t *from = scratch->keys[0], *to = scratch->keys[1];
    memset(tally, 0, sizeof tally);
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = magnitude_bits(values[i]);
        from[i] = (uint64_t)i << 32 | bits;
        tally[0][bits & 0x7FF]++;
        tally[1][bits >> 11 & 0x3FF]++;
        tally[2][bits >> 21]++;
    }
    for (int digit = 0; digit < DIGITS; digit++) {
        uint32_t *bins = tally[digit], mask = (1u << widths[digit]) - 1, sum = 0;
        if (bins[(uint32_t)from[0] >> shifts[digit] & mask] == count) continue; /* all alike in this digit */
        for (uint32_t bin = 0; bin <= mask; bin++) {
            uint32_t here = bins[bin];
            bins[bin] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < count; i++) to[bins[(uint32_t)from[i] >> shifts[digit] & mask]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    for (int64_t i = 0; i < count; i++) scratch->rank[from[i] >> 32] = (uint32_t)i;
}

/* Zero the elements that are not within the inner cut or within the outer one. */
INLINE void keep_band(const sparsifier_t *which, float *d, const float *by, int64_t start, int64_t count) {
    cut_t inner = which->inner, outer = which->outer;
    for (int64_t first = 0; first < count;) {
        int inner_behind = start + first > inner.last_tie, outer_behind = start + first > outer.last_tie;
        uint32_t low = lowest_within(inner, inner_behind), high = lowest_within(outer, outer_behind);
        int64_t end = count;
        if (!inner_behind && inner.last_tie - start < end) end = inner.last_tie - start + 1;
        if (!outer_behind && outer.last_tie - start < end) end = outer.last_tie - start + 1;
        for (int64_t i = first; i < end; i++) {
            uint32_t bits = magnitude_bits(by[i]);
            d[i] = (bits >= low) & (bits < high) ? d[i] : 0.0f;
        }
        first = end;
    }
}

/* Zero the elements of d that are not kept; d are the elements start to start + count of a task vector, of a whole row if
   the sparsifier is RANKED. `by` are the values whose magnitudes a BAND looks at. */
INLINE void sparsify(
    const sparsifier_t *which, const scratch_t *scratch, float *d, const float *by, int64_t start, int64_t count
) {
    if (which->kind == BAND) {
        keep_band(which, d, by, start, count);
    } else if (which->kind == BERNOULLI) {
        const uint32_t *words = random_words(scratch, which->key, start, count);
        double limit = ceil(which->probability * 0x1p32); /* word < p * 2^32 */
        if (limit >= 0x1p32) return;
        uint32_t beyond = limit > 0 ? (uint32_t)limit : 0;
        for (int64_t i = 0; i < count; i++) d[i] = words[i] < beyond ? d[i] : 0.0f;
    } else if (which->kind == RANKED) {
        const uint32_t *words = random_words(scratch, which->key, start, count);
        ranks(scratch, d, count);
        double step = count > 1 ? 2.0 * which->spread / (double)(count - 1) : 0.0;
        double least_p = count > 1 ? which->probability - which->spread : which->probability;
        for (int64_t i = 0; i < count; i++) {
            double p = least_p + step * scratch->rank[i];
            p = p < 0 ? 0 : p > 1 ? 1 : p;
            float kept = which->divide ? (float)(d[i] / p) : d[i];
            d[i] = (double)words[i] < p * 0x1p32 ? kept : 0.0f;
        }
    }
}

#endif
