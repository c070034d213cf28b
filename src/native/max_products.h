// For each document and each query vector, the largest product with a vector of the document: the part of late interaction
// that costs time.
//
// Products of 48 rows and 64 columns stay in L1, where their largest are found, so that the memory is read once.
#pragma once

#include <algorithm>
#include <limits>

#include "product.h"
#include "tasks.h"

namespace LEVEL {

struct MaxProducts {
    static constexpr int64_t rows_at_once = 48, columns_at_once = 64;
    static constexpr int64_t tokens_per_task = 480;

    const float* vectors;  // tokens x dim
    const int32_t* boundaries;  // documents + 1
    int64_t documents, tokens, dim;
    const float* queries;  // dim x columns: the packed B operand; columns is a multiple of 32
    int64_t columns;

    // Documents without vectors get minus infinity, those with a product that is not finite NaN.
    void run(float* largest, const Threads& threads) const {
        const int64_t tasks = (tokens + tokens_per_task - 1) / tokens_per_task;
        if (tasks == 0) std::fill(largest, largest + documents * columns, -std::numeric_limits<float>::infinity());
        threads.each(tasks, [&](int64_t task) {
            // The documents that begin in this range of tokens; those at the end of all tokens are empty.
            const int64_t begin = first(task * tokens_per_task), end = task + 1 == tasks ? documents : first((task + 1) * tokens_per_task);
            for (int64_t document = begin; document < end; document++) run_document(document, largest + document * columns);
        });
    }

   private:
    int64_t first(int64_t token) const { return std::lower_bound(boundaries, boundaries + documents, int32_t(token)) - boundaries; }

    void run_document(int64_t document, float* largest) const {
        const int64_t begin = boundaries[document], end = boundaries[document + 1];
        std::fill(largest, largest + columns, -std::numeric_limits<float>::infinity());
        for (int64_t column = 0; column < columns; column += columns_at_once) {
            const int n = int(std::min(columns_at_once, columns - column));
            alignas(64) float products[rows_at_once * columns_at_once];
            for (int64_t row = begin; row < end; row += rows_at_once) {
                const int rows = int(std::min(rows_at_once, end - row));
                Product<InFloat>::run(rows, n, int(dim), vectors + row * dim, int(dim), queries + column, int(columns), products, n, false);
                for (int j = 0; j < n; j += Vec::width) {
                    Vec best = Vec::load(largest + column + j), poison = Vec::zero();
                    for (int i = 0; i < rows; i++) {
                        const Vec product = Vec::load(products + i * n + j);
                        best = max(best, product);
                        poison += product - product;  // `max` would lose NaN
                    }
                    (best + poison).store(largest + column + j);
                }
            }
        }
    }
};

}  // namespace LEVEL
