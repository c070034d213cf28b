// The backward pass: scores are recomputed from queries, keys and the saved logsumexp, tile by tile (Dao et al. 2022,
// arXiv 2205.14135, algorithm 4).
//
// A task is one head of one sequence, so that no two threads add to the same gradient. All matrices are transposed,
// keys by queries: then the logsumexp is loaded as vectors, the two products with queries and output gradients read
// row-major operands, and only the product for the gradient of the queries needs packed weights.
#pragma once

#include "attention.h"

namespace LEVEL {

template <class T, class In>
struct AttentionBackward {
    using E = typename In::Element;
    static constexpr int tile = Attention<T>::tile;

    Attention<T> of;
    const float* logsumexp;
    const T *out, *out_gradient;
    T* qkv_gradient;

    void run(const Threads& threads) const {
        threads.each(of.sequences * of.heads, [&](int64_t number) {
            const int64_t s = number / of.heads, begin = of.boundaries[s], length = of.boundaries[s + 1] - begin;
            if (length > 0) head_of_sequence(number % of.heads, begin, length);
        });
    }

   private:
    // Operands of one tile of queries.
    struct Queries {
        E *columns, *packed;                      // of the product with keys, and of the product for their gradient
        E *gradient_columns, *gradient_packed;    // the same for the output gradient
        float *logsumexp, *inner;                 // and the inner product of output and output gradient, each of `tile`
    };

    void head_of_sequence(int64_t head, int64_t begin, int64_t length) const {
        const int64_t dim = of.dim, padded = (length + tile - 1) / tile * tile;
        Scratch& scratch = Scratch::fresh(
            (padded * 3 * dim + tile * 5 * dim + 3 * tile * tile) * sizeof(E) +
            (padded * 2 * dim + 2 * tile * dim + 2 * tile * tile + 2 * tile) * sizeof(float) + 4096);
        E* keys = scratch.allocate<E>(padded * dim);          // by rows
        E* key_columns = scratch.allocate<E>(padded * dim);   // by rows of their transpose, tile by tile
        E* values = scratch.allocate<E>(padded * dim);        // by rows
        Queries queries;
        queries.columns = scratch.allocate<E>(tile * dim);
        queries.packed = scratch.allocate<E>(tile * dim);
        queries.gradient_columns = scratch.allocate<E>(tile * dim);
        queries.gradient_packed = scratch.allocate<E>(tile * dim);
        queries.logsumexp = scratch.allocate<float>(tile);
        queries.inner = scratch.allocate<float>(tile);
        E* elements = scratch.allocate<E>(tile * dim);
        E* weights = scratch.allocate<E>(tile * tile);
        E* slopes = scratch.allocate<E>(tile * tile);
        E* slopes_packed = scratch.allocate<E>(tile * tile);
        float* key_gradient = scratch.allocate<float>(padded * dim);
        float* value_gradient = scratch.allocate<float>(padded * dim);
        float* query_gradient = scratch.allocate<float>(tile * dim);  // transposed: dim x tile
        float* rows = scratch.allocate<float>(tile * dim);
        float* scores = scratch.allocate<float>(tile * tile);
        float* products = scratch.allocate<float>(tile * tile);

        for (int64_t k = 0; k < length; k += tile) {
            const int64_t rows_here = std::min<int64_t>(tile, length - k);
            std::fill(rows + rows_here * dim, rows + tile * dim, 0.0f);
            for (int64_t r = 0; r < rows_here; r++) of.rotated_row(1, begin + k + r, head, rows + r * dim);
            as_rows<In>(rows, tile, dim, keys + k * dim);
            for (int64_t r = 0; r < tile; r++)
                for (int64_t d = 0; d < dim; d++) key_columns[k * dim + d * tile + r] = keys[(k + r) * dim + d];
            for (int64_t r = 0; r < rows_here; r++) of.plain(2, begin + k + r, head, rows + r * dim);
            as_rows<In>(rows, tile, dim, values + k * dim);
        }
        std::fill(key_gradient, key_gradient + padded * dim, 0.0f);
        std::fill(value_gradient, value_gradient + padded * dim, 0.0f);

        for (int64_t q = 0; q < length; q += tile) {
            const int64_t rows_here = std::min<int64_t>(tile, length - q);
            prepare(queries, head, begin + q, rows_here, rows, elements);
            std::fill(query_gradient, query_gradient + tile * dim, 0.0f);
            const int64_t low = of.first_visible(q) / tile * tile, high = of.last_visible(q + rows_here - 1, length);
            for (int64_t k = low; k <= high; k += tile) {
                const int64_t count = std::min<int64_t>(tile, length - k), even = (count + In::step - 1) / In::step * In::step;
                Product<In>::run(count, tile, dim, keys + k * dim, dim, queries.columns, tile, scores, tile, false);
                Product<In>::run(count, tile, dim, values + k * dim, dim, queries.gradient_columns, tile, products, tile, false);
                differentiate(scores, products, weights, count, k, q, length, queries);
                as_rows<In>(products, count, tile, slopes);
                as_packed<In>(products, count, tile, slopes_packed);
                Product<In>::run(count, dim, tile, weights, tile, queries.gradient_packed, dim, value_gradient + k * dim, dim, true);
                Product<In>::run(count, dim, tile, slopes, tile, queries.packed, dim, key_gradient + k * dim, dim, true);
                Product<In>::run(dim, tile, even, key_columns + k * dim, tile, slopes_packed, tile, query_gradient, tile, true);
            }
            for (int64_t r = 0; r < rows_here; r++) {
                for (int64_t d = 0; d < dim; d++) rows[d] = query_gradient[d * tile + r];
                of.rotate(rows, begin + q + r, -1.0f, gradient(0, begin + q + r, head));
            }
        }
        for (int64_t k = 0; k < length; k++) {
            of.rotate(key_gradient + k * dim, begin + k, -1.0f, gradient(1, begin + k, head));
            T* to = gradient(2, begin + k, head);
            for (int64_t d = 0; d < dim; d += Vec::width) Vec::load(value_gradient + k * dim + d).store(to + d);
        }
    }

    T* gradient(int part, int64_t token, int64_t head) const {
        return qkv_gradient + ((token * 3 + part) * of.heads + head) * of.dim;
    }

    // `count` queries from `token` on. Padding queries are zero, with a logsumexp that makes their weights zero.
    void prepare(Queries& to, int64_t head, int64_t token, int64_t count, float* rows, E* elements) const {
        const int64_t dim = of.dim;
        std::fill(rows + count * dim, rows + tile * dim, 0.0f);
        std::fill(to.logsumexp + count, to.logsumexp + tile, std::numeric_limits<float>::infinity());
        std::fill(to.inner + count, to.inner + tile, 0.0f);
        for (int64_t r = 0; r < count; r++) of.rotated_row(0, token + r, head, rows + r * dim);
        operands(rows, elements, to.columns, to.packed);
        for (int64_t r = 0; r < count; r++) {
            const T* values = out + ((token + r) * of.heads + head) * dim;
            const T* gradients = out_gradient + ((token + r) * of.heads + head) * dim;
            Vec inner = Vec::zero();
            for (int64_t d = 0; d < dim; d += Vec::width) {
                const Vec g = Vec::load(gradients + d);
                inner = fma(g, Vec::load(values + d), inner);
                g.store(rows + r * dim + d);
            }
            to.inner[r] = inner.sum();
            to.logsumexp[r] = logsumexp[head * of.tokens + token + r];
        }
        operands(rows, elements, to.gradient_columns, to.gradient_packed);
    }

    void operands(const float* rows, E* elements, E* columns, E* packed) const {
        as_rows<In>(rows, tile, of.dim, elements);
        as_packed_transpose<In>(elements, tile, of.dim, columns);
        as_packed<In>(rows, tile, of.dim, packed);
    }

    // Scores to weights, and products of values and output gradients to the gradients of the scores. Both keys by queries.
    void differentiate(const float* scores, float* products, E* weights, int64_t count, int64_t key, int64_t query, int64_t length, const Queries& queries) const {
        const Vec scale = Vec::all(of.scale);
        for (int64_t r = 0; r < count; r++) {
            const int64_t position = key + r;  // visibility is symmetric
            const int64_t low = of.first_visible(position) - query, high = of.last_visible(position, length) - query + 1;
            float weight[tile];
            for (int j = 0; j < tile; j += Vec::width) {
                const Vec score = Vec::load(scores + r * tile + j) * scale;
                exp(score - Vec::load(queries.logsumexp + j)).store(weight + j);
            }
            if (low > 0) std::fill(weight, weight + std::min<int64_t>(low, tile), 0.0f);
            if (high < tile) std::fill(weight + std::max<int64_t>(high, 0), weight + tile, 0.0f);
            for (int j = 0; j < tile; j += Vec::width) {
                const Vec w = Vec::load(weight + j), slope = Vec::load(products + r * tile + j) - Vec::load(queries.inner + j);
                w.store(weights + r * tile + j);
                (w * slope * scale).store(products + r * tile + j);
            }
        }
    }
};

}  // namespace LEVEL
