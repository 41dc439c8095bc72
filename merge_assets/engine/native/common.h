/* What all kernels share: dtypes, conversion of input bytes to float32, rounding of results to output bytes.

   Every loop is over independent elements or over fixed lanes, contraction to fused multiply-add is off, and nothing is
   re-associated: the bytes are the same on every machine, vectorised or not. */
#ifndef MERGE_ASSETS_COMMON_H
#define MERGE_ASSETS_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((visibility("default"), target_clones("arch=x86-64-v3", "default")))
#else
#define KERNEL __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

/* Elements that are worked on at once; sums are taken over runs of this many. Part of the numerics. */
#define CHUNK 512
/* A sum has this many partial sums, element k in partial sum k % LANES: two vectors of four. */
#define LANES 8

enum dtype { BF16 = 0, F16 = 1, F32 = 2, F64 = 3 };

typedef double half_lanes __attribute__((vector_size(LANES / 2 * sizeof(double))));

/* The inputs of one tile. */
typedef struct {
    const void *const *data;
    const int32_t *dtypes;
    int32_t count;
    int32_t base; /* position of the base, -1 without */
} inputs_t;

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

INLINE float half_to_float(uint16_t half) {
    /* Exponent and mantissa moved into place are the value times 2^-112, subnormals included. */
    uint32_t magnitude = (uint32_t)(half & 0x7FFF) << 13;
    float value;
    memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = magnitude >= (0x7C00u << 13) ? (magnitude | 0x7F800000u) : bits;
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

/* What every NaN is written as, since the bits that arithmetic gives one are a matter of the processor. */
#define QUIET_BF16 0x7FC0u
#define QUIET_F16 0x7E00u
#define QUIET_F32 0x7FC00000u
#define QUIET_F64 0x7FF8000000000000u

INLINE uint64_t bits_of_double(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

/* A float64 cut to the bits of a float32, the last of them set if anything was cut off ("rounded to odd"): rounded on to 16
   bits, it is the nearest to the float64, as the nearest float32 may not be. Exact from 2^-126 on. */
INLINE float float_to_odd(double value) {
    const uint64_t low = 0x1FFFFFFFu;
    uint64_t bits = bits_of_double(value);
    bits = (bits | ((bits & low) + low)) & ~low;
    memcpy(&value, &bits, 8);
    return (float)value;
}

INLINE uint16_t double_to_half(double wide) {
    uint32_t bits = bits_of(float_to_odd(wide));
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    /* Subnormal halves: adding 0.5 lets the float unit round to a multiple of 2^-24. */
    float shifted;
    memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    uint32_t small = bits_of(shifted) - 0x3F000000u;
    uint32_t normal = (magnitude + 0xC8000FFFu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t half = magnitude < 0x38800000u ? small : normal;
    half = sign | (magnitude >= 0x477FF000u ? 0x7C00u : half);
    return (uint16_t)(magnitude > 0x7F800000u ? QUIET_F16 : half);
}

INLINE uint16_t float_to_bfloat(float value) {
    uint32_t bits = bits_of(value), rounded = (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? QUIET_BF16 : rounded);
}

INLINE void bfloats(uint16_t *restrict to, const double *restrict values, int64_t count) {
    int32_t subnormal = 0;
    for (int64_t i = 0; i < count; i++) {
        float odd = float_to_odd(values[i]);
        to[i] = float_to_bfloat(odd);
        subnormal |= (bits_of(odd) & 0x7FFFFFFFu) - 1 < 0x7FFFFFu;
    }
    if (!subnormal) return;
    /* Where a float32 is not exact any more, adding 2^-81 lets the double unit round to a multiple of 2^-133. */
    for (int64_t i = 0; i < count; i++) {
        double small = copysign((fabs(values[i]) + 0x1p-81) - 0x1p-81, values[i]);
        to[i] = float_to_bfloat(float_to_odd(fabs(values[i]) < 0x1p-126 ? small : values[i]));
    }
}

/* Elements first to first + count of an input as float32. */
INLINE void load(float *restrict to, const void *data, int dtype, int64_t first, int64_t count) {
    if (dtype == BF16) {
        const uint16_t *from = (const uint16_t *)data + first;
        uint32_t *bits = (uint32_t *)to;
        for (int64_t i = 0; i < count; i++) bits[i] = (uint32_t)from[i] << 16;
    } else if (dtype == F16) {
        const uint16_t *from = (const uint16_t *)data + first;
        for (int64_t i = 0; i < count; i++) to[i] = half_to_float(from[i]);
    } else if (dtype == F32) {
        memcpy(to, (const float *)data + first, (size_t)count * sizeof(float));
    } else {
        const double *from = (const double *)data + first;
        for (int64_t i = 0; i < count; i++) to[i] = (float)from[i];
    }
}

INLINE float bfloat_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* to = factor * elements first to first + count of an input, or to += if `add`; float64. */
INLINE void load_scaled(
    double *restrict to, double factor, int add, const void *restrict data, int dtype, int64_t first, int64_t count
) {
    const uint16_t *narrow = (const uint16_t *)data + first;
    const float *single = (const float *)data + first;
    const double *wide = (const double *)data + first;
#define EACH(value)                                                               \
    do {                                                                          \
        if (add)                                                                  \
            for (int64_t i = 0; i < count; i++) to[i] += factor * (double)(value); \
        else                                                                      \
            for (int64_t i = 0; i < count; i++) to[i] = factor * (double)(value);  \
    } while (0)
    if (dtype == BF16)
        EACH(bfloat_to_float(narrow[i]));
    else if (dtype == F16)
        EACH(half_to_float(narrow[i]));
    else if (dtype == F32)
        EACH(single[i]);
    else
        EACH(wide[i]);
#undef EACH
}

/* Round values to the output, once, and count those that are NaN or infinite there. */
INLINE int64_t store(void *restrict data, int dtype, int64_t first, const double *restrict values, int64_t count) {
    int32_t bad = 0;
    if (dtype == BF16 || dtype == F16) {
        uint16_t *to = (uint16_t *)data + first, exponent = dtype == BF16 ? 0x7F80 : 0x7C00, largest = 0;
        if (dtype == BF16)
            bfloats(to, values, count);
        else
            for (int64_t i = 0; i < count; i++) to[i] = double_to_half(values[i]);
        for (int64_t i = 0; i < count; i++) {
            uint16_t here = to[i] & exponent;
            largest = here > largest ? here : largest;
        }
        if (largest == exponent)
            for (int64_t i = 0; i < count; i++) bad += (to[i] & exponent) == exponent;
    } else if (dtype == F32) {
        uint32_t *to = (uint32_t *)data + first;
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits = bits_of((float)values[i]);
            to[i] = (bits & 0x7FFFFFFFu) > 0x7F800000u ? QUIET_F32 : bits;
        }
        for (int64_t i = 0; i < count; i++) bad += (to[i] & 0x7F800000u) == 0x7F800000u;
    } else {
        uint64_t *to = (uint64_t *)data + first;
        for (int64_t i = 0; i < count; i++) {
            uint64_t bits = bits_of_double(values[i]);
            to[i] = (bits & 0x7FFFFFFFFFFFFFFFu) > 0x7FF0000000000000u ? QUIET_F64 : bits;
            bad += (bits & 0x7FF0000000000000u) == 0x7FF0000000000000u;
        }
    }
    return bad;
}

INLINE double sum_of(half_lanes one, half_lanes two) {
    double total = 0;
    for (int k = 0; k < LANES / 2; k++) total += one[k];
    for (int k = 0; k < LANES / 2; k++) total += two[k];
    return total;
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
