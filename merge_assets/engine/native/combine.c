/* Linear combinations of the inputs, and the inner products that their coefficients come from. */

#include "pairs.h"

/* out = sum of coefficients[i] * input i. Returns the number of NaN or infinite results. */
KERNEL int64_t combine(
    const inputs_t *inputs, const double *coefficients, int64_t count, void *out, int32_t out_dtype
) {
    double total[CHUNK];
    int64_t bad = 0;
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t n = least(CHUNK, count - first);
        for (int32_t m = 0; m < inputs->count; m++)
            load_scaled(total, coefficients[m], m > 0, inputs->data[m], inputs->dtypes[m], first, n);
        bad += store(out, out_dtype, first, total, n);
    }
    return bad;
}

/* Add the inner products of all pairs of vectors to products, an m x m matrix. The vectors are the inputs or, if there
   is a base, the differences of the others to it. Returns 0, or -1 if there is no memory. */
KERNEL int32_t gram(const inputs_t *inputs, int64_t count, double *products) {
    int32_t all = inputs->count, m = inputs->base < 0 ? all : all - 1;
    double *vectors = malloc(sizeof(double) * CHUNK * (size_t)all);
    if (!vectors) return -1;
    int64_t first = gram_of_pair(inputs, count, products);
    for (; first < count; first += CHUNK) {
        int64_t n = least(CHUNK, count - first), padded = (n + LANES - 1) / LANES * LANES;
        double *vector = vectors;
        for (int32_t k = 0; k < all; k++) {
            if (k == inputs->base) continue;
            load_scaled(vector, 1, 0, inputs->data[k], inputs->dtypes[k], first, n);
            if (inputs->base >= 0)
                load_scaled(vector, -1, 1, inputs->data[inputs->base], inputs->dtypes[inputs->base], first, n);
            for (int64_t i = n; i < padded; i++) vector[i] = 0;
            vector += CHUNK;
        }
        for (int32_t a = 0; a < m; a++)
            for (int32_t b = a; b < m; b++) {
                half_lanes one = {0}, two = {0}, u, v;
                const double *x = vectors + (size_t)a * CHUNK, *y = vectors + (size_t)b * CHUNK;
                for (int64_t i = 0; i < padded; i += LANES) {
                    memcpy(&u, x + i, sizeof u);
                    memcpy(&v, y + i, sizeof v);
                    one += u * v;
                    memcpy(&u, x + i + LANES / 2, sizeof u);
                    memcpy(&v, y + i + LANES / 2, sizeof v);
                    two += u * v;
                }
                products[a * m + b] += sum_of(one, two);
            }
    }
    for (int32_t a = 0; a < m; a++)
        for (int32_t b = 0; b < a; b++) products[a * m + b] = products[b * m + a];
    free(vectors);
    return 0;
}
