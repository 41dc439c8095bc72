/* Inputs that are made out of stored tensors of other shapes: low-rank updates, and weights in 8-bit floating point. */

#include "common.h"

/* Columns of a panel: four vectors of four doubles for each of two rows stay in registers. */
#define WIDE 16
#define VECTORS (WIDE / 4)

typedef float quad __attribute__((vector_size(4 * sizeof(float))));

/* sums[row][column] = sum over k of left[row][k] * panel[k][column], one k after the other; float64. */
INLINE void products(
    double sums[2][WIDE], const float *restrict one, const float *restrict other, const float *restrict panel, int64_t rank
) {
    half_lanes a[VECTORS] = {{0}}, b[VECTORS] = {{0}};
    for (int64_t k = 0; k < rank; k++) {
        double x = one[k], y = other[k];
        for (int v = 0; v < VECTORS; v++) {
            quad narrow;
            memcpy(&narrow, panel + k * WIDE + 4 * v, sizeof narrow);
            half_lanes wide = __builtin_convertvector(narrow, half_lanes);
            a[v] += x * wide;
            b[v] += y * wide;
        }
    }
    memcpy(sums[0], a, sizeof a);
    memcpy(sums[1], b, sizeof b);
}

/* out = (out + scale * sum) times the factor of the row, and of the column if there are such. */
INLINE void add_panel(
    float *restrict out, const double *restrict sum, int64_t count, double scale, double by_row,
    const double *restrict by_column
) {
    if (by_column)
        for (int64_t i = 0; i < count; i++) out[i] = (float)((out[i] + scale * sum[i]) * by_row * by_column[i]);
    else
        for (int64_t i = 0; i < count; i++) out[i] = (float)((out[i] + scale * sum[i]) * by_row);
}

/* Elements start to start + count of (W + scale * left * right), times the factor of the row and of the column.

   base:    the elements of W.
   left:    rank numbers for every row that is touched, from the first on.
   panels:  right, rank x columns, cut into panels of WIDE columns, the last one padded; each is rank x WIDE.
   by_row, by_column: factors by number of the row and of the column, or null.
*/
KERNEL int32_t low_rank(
    const void *base, int32_t base_dtype, const float *left, const float *panels, int64_t rank, int64_t columns,
    int64_t start, int64_t count, double scale, const double *by_row, const double *by_column, float *out
) {
    if (count <= 0) return 0;
    int64_t first = start / columns, last = (start + count - 1) / columns;
    load(out, base, base_dtype, 0, count);
    for (int64_t column = 0; column < columns; column += WIDE) {
        const float *panel = panels + column * rank;
        for (int64_t row = first; row <= last; row += 2) {
            const float *one = left + (row - first) * rank;
            double sums[2][WIDE];
            products(sums, one, row < last ? one + rank : one, panel, rank);
            for (int64_t r = row; r <= row + 1 && r <= last; r++) {
                int64_t begin = r * columns + column, end = begin + least(WIDE, columns - column);
                int64_t low = begin > start ? begin : start, high = least(end, start + count);
                const double *sum = sums[r - row] + (low - begin), *of_column = by_column ? by_column + (low - r * columns) : 0;
                double factor = by_row ? by_row[r] : 1;
                if (high - low == WIDE)
                    add_panel(out + (low - start), sum, WIDE, scale, factor, of_column);
                else
                    add_panel(out + (low - start), sum, high - low, scale, factor, of_column);
            }
        }
    }
    return 0;
}

/* Add the squares of elements start to start + count of a matrix to the sum of their column or row, in order. */
KERNEL int32_t add_squares(
    const float *values, int64_t columns, int64_t start, int64_t count, int32_t by_column, double *sums
) {
    for (int64_t at = 0; at < count;) {
        int64_t row = (start + at) / columns, column = (start + at) % columns;
        int64_t n = least(columns - column, count - at);
        const float *v = values + at;
        if (by_column) {
            double *to = sums + column;
            for (int64_t i = 0; i < n; i++) to[i] += (double)v[i] * (double)v[i];
        } else {
            double total = sums[row];
            for (int64_t i = 0; i < n; i++) total += (double)v[i] * (double)v[i];
            sums[row] = total;
        }
        at += n;
    }
    return 0;
}

/* Elements start to start + count of a matrix of bytes: the table's value of the byte times the scale of its block. */
KERNEL int32_t dequantize(
    const uint8_t *bytes, const float *table, const float *scales, int64_t columns, int64_t block_rows,
    int64_t block_columns, int64_t start, int64_t count, float *out
) {
    int64_t across = (columns + block_columns - 1) / block_columns;
    for (int64_t at = 0; at < count;) {
        int64_t row = (start + at) / columns, column = (start + at) % columns;
        int64_t n = least(least(columns - column, block_columns - column % block_columns), count - at);
        float scale = scales[row / block_rows * across + column / block_columns];
        for (int64_t i = 0; i < n; i++) out[at + i] = table[bytes[at + i]] * scale;
        at += n;
    }
    return 0;
}

/* Elements start to start + count of a matrix of codes of four bits, two in a byte, the lower one first: the table's value of the
   code times the scale of its group in the row. codes begins with the byte of element start. */
KERNEL int32_t unpack(
    const uint8_t *codes, const float *table, const float *scales, int64_t columns, int64_t group, int64_t start,
    int64_t count, float *out
) {
    int64_t across = columns / group, odd = start & 1;
    for (int64_t at = 0; at < count;) {
        int64_t row = (start + at) / columns, column = (start + at) % columns;
        int64_t n = least(group - column % group, count - at);
        float scale = scales[row * across + column / group];
        for (int64_t i = at; i < at + n; i++) {
            uint8_t pair = codes[(odd + i) >> 1];
            out[i] = table[(odd + i) & 1 ? pair >> 4 : pair & 15] * scale;
        }
        at += n;
    }
    return 0;
}

/* The same of the transpose of a matrix of (rows, columns): codes and scales are those of all of it. */
KERNEL int32_t unpack_transposed(
    const uint8_t *codes, const float *table, const float *scales, int64_t rows, int64_t columns, int64_t group,
    int64_t start, int64_t count, float *out
) {
    int64_t across = columns / group, stride = columns / 2;
    for (int64_t at = 0; at < count;) {
        int64_t column = (start + at) / rows, row = (start + at) % rows;
        int64_t n = least(rows - row, count - at);
        const uint8_t *pair = codes + row * stride + column / 2;
        const float *scale = scales + row * across + column / group;
        int shift = column & 1 ? 4 : 0;
        for (int64_t i = 0; i < n; i++) out[at + i] = table[pair[i * stride] >> shift & 15] * scale[i * across];
        at += n;
    }
    return 0;
}
