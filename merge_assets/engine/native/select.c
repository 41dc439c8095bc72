/* Histograms of magnitudes, from which the k-th largest follows exactly without a sort: the magnitude of a float32 is
   monotonic in its bits. First the upper 16 of the 31 bits are counted, then the lower 15 within one upper bin, then the
   position of the last kept element among equal ones is found. */

#include "vectors.h"

/* Which magnitudes: those of task vector `which`, or, for -1, of the variance over the task vectors. */
INLINE const float *magnitudes(const vectors_t *v, const inputs_t *inputs, int32_t which, int64_t first, int64_t n) {
    load_base(v, inputs, first, n);
    if (which >= 0) {
        load_delta(v, inputs, which, first, n);
        return v->deltas + which * v->chunk;
    }
    for (int32_t m = 0; m < v->models; m++) load_delta(v, inputs, m, first, n);
    variance(v, n);
    return v->by;
}

/* Add the counts of the upper 16 bits to bins[65536]. Returns -1 if there is no memory. */
KERNEL int32_t count_upper(const inputs_t *inputs, int32_t which, int64_t count, int64_t *bins) {
    vectors_t v;
    if (!open_vectors(&v, inputs, CHUNK)) return -1;
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t n = least(CHUNK, count - first);
        const float *values = magnitudes(&v, inputs, which, first, n);
        for (int64_t i = 0; i < n; i++) bins[magnitude_bits(values[i]) >> 15]++;
    }
    free(v.memory);
    return 0;
}

/* Add the counts of the lower 15 bits within each of `wanted` upper bins to bins[cuts][32768]. */
KERNEL int32_t count_lower(
    const inputs_t *inputs, int32_t which, int64_t count, int32_t cuts, const uint32_t *upper, int64_t *bins
) {
    vectors_t v;
    if (!open_vectors(&v, inputs, CHUNK)) return -1;
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t n = least(CHUNK, count - first);
        const float *values = magnitudes(&v, inputs, which, first, n);
        for (int32_t c = 0; c < cuts; c++)
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits = magnitude_bits(values[i]);
                if (bits >> 15 == upper[c]) bins[c * 32768 + (bits & 0x7FFF)]++;
            }
    }
    free(v.memory);
    return 0;
}

/* For each cut: missing[c] ties with exactly bits[c] are still wanted; those found here are subtracted, and last[c]
   becomes the flat index of the last of them. */
KERNEL int32_t find_ties(
    const inputs_t *inputs, int32_t which, int64_t start, int64_t count, int32_t cuts, const uint32_t *bits,
    int64_t *missing, int64_t *last
) {
    vectors_t v;
    if (!open_vectors(&v, inputs, CHUNK)) return -1;
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t n = least(CHUNK, count - first);
        const float *values = magnitudes(&v, inputs, which, first, n);
        for (int32_t c = 0; c < cuts; c++) {
            if (missing[c] <= 0) continue;
            int32_t here = 0;
            for (int64_t i = 0; i < n; i++) here += magnitude_bits(values[i]) == bits[c];
            if (here == 0) continue;
            int64_t take = least(here, missing[c]), seen = 0;
            missing[c] -= take;
            for (int64_t i = 0; i < n && seen < take; i++)
                if (magnitude_bits(values[i]) == bits[c]) {
                    seen++;
                    last[c] = start + first + i;
                }
        }
    }
    free(v.memory);
    return 0;
}

/* The bin that holds the *rank-th largest value; *rank becomes its rank within the bin. -1 if there are fewer values. */
KERNEL int64_t find_bin(const int64_t *bins, int64_t count, int64_t *rank) {
    for (int64_t bin = count - 1; bin >= 0; bin--) {
        if (*rank <= bins[bin]) return bin;
        *rank -= bins[bin];
    }
    return -1;
}
