/* Runs of task vectors, read from the inputs into memory of their own. */
#ifndef MERGE_ASSETS_VECTORS_H
#define MERGE_ASSETS_VECTORS_H

#include "sparsify.h"

typedef struct {
    int32_t models;   /* task vectors: inputs without the base */
    int64_t chunk;    /* elements of a run */
    float *base;
    float *deltas;    /* models x chunk */
    float *by;        /* variance over the models */
    double *work;     /* 3 x chunk */
    scratch_t scratch;
    void *memory;
} vectors_t;

/* Returns 0 if there is no memory. */
INLINE int open_vectors(vectors_t *v, const inputs_t *inputs, int64_t chunk) {
    size_t n = (size_t)chunk, m = (size_t)inputs->count;
    size_t wide = 3 * n * sizeof(double) + 2 * n * sizeof(uint64_t);
    size_t floats = n * (m + 2), words = 2 * n + 4 + PHILOX_SLACK;
    char *memory = malloc(wide + floats * sizeof(float) + words * sizeof(uint32_t));
    v->memory = memory;
    if (!memory) return 0;
    v->models = inputs->count - 1;
    v->chunk = chunk;
    v->work = (double *)memory;
    v->scratch.keys[0] = (uint64_t *)(v->work + 3 * n);
    v->scratch.keys[1] = v->scratch.keys[0] + n;
    v->base = (float *)(memory + wide);
    v->by = v->base + n;
    v->deltas = v->by + n;
    v->scratch.rank = (uint32_t *)(v->base + floats);
    v->scratch.words = v->scratch.rank + n;
    return 1;
}

/* Task vector m: the elements first to first + n of an input less the base. */
INLINE void load_delta(const vectors_t *v, const inputs_t *inputs, int32_t m, int64_t first, int64_t n) {
    int32_t k = m + (m >= inputs->base);
    float *restrict d = v->deltas + m * v->chunk;
    const float *restrict base = v->base;
    load(d, inputs->data[k], inputs->dtypes[k], first, n);
    for (int64_t i = 0; i < n; i++) d[i] -= base[i];
}

INLINE void load_base(const vectors_t *v, const inputs_t *inputs, int64_t first, int64_t n) {
    load(v->base, inputs->data[inputs->base], inputs->dtypes[inputs->base], first, n);
}

/* Standard deviation over the task vectors, which are loaded: in the order of the variance, but never too small a float. */
INLINE void variance(const vectors_t *v, int64_t n) {
    double *mean = v->work, *square = v->work + v->chunk;
    for (int64_t i = 0; i < n; i++) mean[i] = square[i] = 0;
    for (int32_t m = 0; m < v->models; m++) {
        const float *d = v->deltas + m * v->chunk;
        for (int64_t i = 0; i < n; i++) mean[i] += d[i];
    }
    for (int64_t i = 0; i < n; i++) mean[i] /= v->models;
    for (int32_t m = 0; m < v->models; m++) {
        const float *d = v->deltas + m * v->chunk;
        for (int64_t i = 0; i < n; i++) square[i] += (d[i] - mean[i]) * (d[i] - mean[i]);
    }
    for (int64_t i = 0; i < n; i++) v->by[i] = (float)sqrt(square[i] / v->models);
}

/* All task vectors, sparsified: by `common` first, if there is one, then each by its own. */
INLINE void load_sparse(
    const vectors_t *v, const inputs_t *inputs, const sparsifier_t *each, const sparsifier_t *common, int64_t start,
    int64_t first, int64_t n
) {
    load_base(v, inputs, first, n);
    for (int32_t m = 0; m < v->models; m++) load_delta(v, inputs, m, first, n);
    if (common) variance(v, n);
    for (int32_t m = 0; m < v->models; m++) {
        float *d = v->deltas + m * v->chunk;
        if (common) sparsify(common, &v->scratch, d, v->by, start + first, n);
        sparsify(each + m, &v->scratch, d, d, start + first, n);
    }
}

#endif
