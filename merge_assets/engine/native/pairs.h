/* The fast path of gram(). */
#ifndef MERGE_ASSETS_PAIRS_H
#define MERGE_ASSETS_PAIRS_H

#include "common.h"

/* Adds the inner products of two vectors of bfloat16 to the upper triangle of products, 2 x 2. Returns how many elements
   it has done, a multiple of CHUNK; 0 where it does not apply. */
int64_t gram_of_pair(const inputs_t *inputs, int64_t count, double *products);

#endif
