/* The task-vector family: norms of sparsified task vectors, and their weighted, sign-elected sum on the base. */

#include <math.h>

#include "vectors.h"

/* Elements worked on at once: whole rows if a sparsifier ranks within rows. */
INLINE int64_t run_length(const sparsifier_t *each, int32_t models, int64_t row) {
    for (int32_t m = 0; m < models; m++)
        if (each[m].kind == RANKED) return row;
    return CHUNK;
}

/* Of at most CHUNK elements. */
INLINE void add_norms_of_chunk(double *restrict to, const float *restrict d, int64_t n) {
    double absolute[LANES] = {0}, square[LANES] = {0}, x;
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int k = 0; k < LANES; k++) {
            x = d[i + k];
            absolute[k] += fabs(x);
            square[k] += x * x;
        }
    for (int64_t i = whole; i < n; i++) {
        x = d[i];
        absolute[i - whole] += fabs(x);
        square[i - whole] += x * x;
    }
    for (int k = 1; k < LANES; k++) {
        absolute[0] += absolute[k];
        square[0] += square[k];
    }
    to[0] += absolute[0];
    to[1] += square[0];
}

/* Add the L1 norm and the squared L2 norm of a run to `to`, chunk after chunk. */
INLINE void add_norms(double *restrict to, const float *restrict d, int64_t n) {
    for (int64_t i = 0; i < n; i += CHUNK) add_norms_of_chunk(to, d + i, least(CHUNK, n - i));
}

/* Add to norms, 3 per task vector: L1 norm of the dense one, L1 norm and squared L2 norm of the sparsified one.
   count is a multiple of row if a sparsifier ranks. Returns -1 if there is no memory. */
KERNEL int32_t norms(
    const inputs_t *inputs, const sparsifier_t *each, const sparsifier_t *common, int64_t row, int64_t start,
    int64_t count, double *norms
) {
    vectors_t v;
    int64_t run = run_length(each, inputs->count - 1, row);
    if (!open_vectors(&v, inputs, run)) return -1;
    for (int64_t first = 0; first < count; first += run) {
        int64_t n = least(run, count - first);
        load_base(&v, inputs, first, n);
        for (int32_t m = 0; m < v.models; m++) {
            double dense[2] = {norms[3 * m], 0};
            load_delta(&v, inputs, m, first, n);
            add_norms(dense, v.deltas + m * v.chunk, n);
            norms[3 * m] = dense[0];
        }
        load_sparse(&v, inputs, each, common, start, first, n);
        for (int32_t m = 0; m < v.models; m++) add_norms(norms + 3 * m + 1, v.deltas + m * v.chunk, n);
    }
    free(v.memory);
    return 0;
}

typedef struct {
    const double *weights; /* w: of the mean and its divisor */
    const double *factors; /* f: what a sparsified task vector D is multiplied by */
    const double *votes;   /* what D counts in the election of the sign; null without an election */
    int32_t normalize;
    double lambda;
} mixing_t;

/* to = factor * d, or to += if `add`. */
INLINE void add_scaled(double *restrict to, double factor, const float *restrict d, int add, int64_t n) {
    if (add)
        for (int64_t i = 0; i < n; i++) to[i] += factor * d[i];
    else
        for (int64_t i = 0; i < n; i++) to[i] = factor * d[i];
}

/* Like add_scaled, but only where the sign of factor * d is that of the vote (0 counts as +); there weight, too. */
INLINE void add_agreeing(
    double *restrict sum, double *restrict divisor, const double *restrict vote, double factor, double weight,
    const float *restrict d, int add, int64_t n
) {
    for (int64_t i = 0; i < n; i++) {
        double x = factor * d[i], signed_x = vote[i] >= 0 ? x : -x;
        double y = signed_x <= 0 ? 0.0 : x, w = signed_x <= 0 ? 0.0 : weight; /* NaN goes through */
        sum[i] = add ? sum[i] + y : y;
        divisor[i] = add ? divisor[i] + w : w;
    }
}

/* out = base + lambda * sum(f D m) / sum(w m), m = 1 where the sign of f D is the elected one (everywhere without an
   election); not divided without normalize and where the divisor is 0. Returns the number of NaN or infinite results, -1
   if there is no memory. */
KERNEL int64_t mix(
    const inputs_t *inputs, const sparsifier_t *each, const sparsifier_t *common, const mixing_t *mixing, int64_t row,
    int64_t start, int64_t count, void *out, int32_t out_dtype
) {
    vectors_t v;
    int64_t run = run_length(each, inputs->count - 1, row), bad = 0;
    if (!open_vectors(&v, inputs, run)) return -1;
    double *restrict sum = v.work, *restrict divisor = v.work + run, *restrict vote = v.work + 2 * run;
    double all = 0;
    for (int32_t m = 0; m < v.models; m++) all += mixing->weights[m];
    if (all == 0) all = 1;
    for (int64_t first = 0; first < count; first += run) {
        int64_t n = least(run, count - first);
        load_sparse(&v, inputs, each, common, start, first, n);
        for (int32_t m = 0; mixing->votes && m < v.models; m++)
            add_scaled(vote, mixing->votes[m], v.deltas + m * v.chunk, m > 0, n);
        for (int32_t m = 0; m < v.models; m++) {
            const float *d = v.deltas + m * v.chunk;
            if (mixing->votes)
                add_agreeing(sum, divisor, vote, mixing->factors[m], mixing->weights[m], d, m > 0, n);
            else
                add_scaled(sum, mixing->factors[m], d, m > 0, n);
        }
        double lambda = mixing->lambda;
        if (mixing->normalize && mixing->votes)
            for (int64_t i = 0; i < n; i++) sum[i] /= divisor[i] != 0 ? divisor[i] : 1.0;
        else if (mixing->normalize)
            for (int64_t i = 0; i < n; i++) sum[i] /= all;
        for (int64_t i = 0; i < n; i++) sum[i] = v.base[i] + lambda * sum[i];
        bad += store(out, out_dtype, first, sum, n);
    }
    free(v.memory);
    return bad;
}
