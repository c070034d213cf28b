// The forward pass: softmax(q k / sqrt(dim)) v with an online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao
// et al. 2022, arXiv 2205.14135).
//
// A task is one head of up to 512 queries of one sequence. Keys and values are packed in superblocks of 512, on first use,
// for all queries of the task, so that the memory of a task (about 0.4 MB) stays in L2. Tiles are 64 x 64 and start at
// the beginning of the sequence: its results do not depend on other sequences.
#pragma once

#include "attention.h"

namespace LEVEL {

template <class T, class In>
struct AttentionForward {
    using E = typename In::Element;
    static constexpr int tile = Attention<T>::tile;
    static constexpr int64_t superblock = 512;

    Attention<T> of;
    T* out;
    float* logsumexp;  // or null

    void run(const Threads& threads) const {
        struct Task {
            int64_t begin, length, first;
        };
        std::vector<Task> tasks;
        for (int64_t s = 0; s < of.sequences; s++) {
            const int64_t begin = of.boundaries[s], length = of.boundaries[s + 1] - begin;
            for (int64_t first = 0; first < length; first += superblock) tasks.push_back({begin, length, first});
        }
        threads.each(int64_t(tasks.size()) * of.heads, [&](int64_t number) {
            const Task& task = tasks[number / of.heads];
            queries(number % of.heads, task.begin, task.length, task.first, std::min(superblock, task.length - task.first));
        });
    }

   private:
    // One task: `count` queries of a sequence from position `first` on.
    void queries(int64_t head, int64_t begin, int64_t length, int64_t first, int64_t count) const {
        const int64_t dim = of.dim;
        Scratch& scratch = Scratch::fresh(
            (superblock * 3 * dim + tile * tile + tile * dim) * sizeof(E) +
            (superblock * (dim + 2) + tile * tile + tile * dim) * sizeof(float) + 1024);
        E* q = scratch.allocate<E>(superblock * dim);
        E* keys = scratch.allocate<E>(superblock * dim);
        E* values = scratch.allocate<E>(superblock * dim);
        E* weights = scratch.allocate<E>(tile * tile);
        E* elements = scratch.allocate<E>(tile * dim);
        float* sums = scratch.allocate<float>(superblock * dim);
        float* largest = scratch.allocate<float>(superblock);
        float* total = scratch.allocate<float>(superblock);
        float* scores = scratch.allocate<float>(tile * tile);
        float* rows = scratch.allocate<float>(tile * dim);

        for (int64_t i = 0; i < count; i += tile) {
            const int64_t rows_here = std::min<int64_t>(tile, count - i);
            for (int64_t r = 0; r < rows_here; r++) of.rotated_row(0, begin + first + i + r, head, rows + r * dim);
            as_rows<In>(rows, rows_here, dim, q + i * dim);
        }
        std::fill(sums, sums + count * dim, 0.0f);
        std::fill(largest, largest + count, -std::numeric_limits<float>::infinity());
        std::fill(total, total + count, 0.0f);

        const int64_t lowest = of.first_visible(first) / tile * tile, highest = of.last_visible(first + count - 1, length) + 1;
        for (int64_t from = lowest; from < highest; from += superblock) {
            const int64_t to = std::min(from + superblock, highest);
            pack(head, begin, length, from, to, rows, elements, keys, values);
            for (int64_t i = 0; i < count; i += tile) {
                const int64_t rows_here = std::min<int64_t>(tile, count - i), position = first + i;
                const int64_t low = of.first_visible(position), high = of.last_visible(position + rows_here - 1, length);
                for (int64_t k = from; k < to; k += tile) {
                    if (k > high || k + tile <= low) continue;
                    Product<In>::run(rows_here, tile, dim, q + i * dim, dim, keys + (k - from) * dim, tile, scores, tile, false);
                    online_softmax(scores, weights, rows_here, position, k, length, largest + i, total + i, sums + i * dim);
                    Product<In>::run(rows_here, dim, tile, weights, tile, values + (k - from) * dim, dim, sums + i * dim, dim, true);
                }
            }
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t token = begin + first + i;
            T* to = out + (token * of.heads + head) * dim;
            const Vec share = Vec::all(1.0f / total[i]);
            for (int64_t d = 0; d < dim; d += Vec::width) (Vec::load(sums + i * dim + d) * share).store(to + d);
            if (logsumexp != nullptr) logsumexp[head * of.tokens + token] = largest[i] + std::log(total[i]);
        }
    }

    // Keys and values [from, to) of a sequence as operands; rows after its end are zero.
    void pack(int64_t head, int64_t begin, int64_t length, int64_t from, int64_t to, float* rows, E* elements, E* keys, E* values) const {
        const int64_t dim = of.dim;
        for (int64_t k = from; k < to; k += tile, keys += tile * dim, values += tile * dim) {
            const int64_t rows_here = std::min<int64_t>(tile, length - k);
            std::fill(rows + rows_here * dim, rows + tile * dim, 0.0f);
            for (int64_t r = 0; r < rows_here; r++) of.rotated_row(1, begin + k + r, head, rows + r * dim);
            as_rows<In>(rows, tile, dim, elements);
            as_packed_transpose<In>(elements, tile, dim, keys);
            for (int64_t r = 0; r < rows_here; r++) of.plain(2, begin + k + r, head, rows + r * dim);
            as_packed<In>(rows, tile, dim, values);
        }
    }

    // Scores to weights e^(score - maximum so far), and rescaling of the sums to the new maximum.
    void online_softmax(float* scores, E* weights, int64_t count, int64_t position, int64_t key, int64_t length, float* largest, float* total, float* sums) const {
        const float none = -std::numeric_limits<float>::infinity();
        const Vec scale = Vec::all(of.scale);
        for (int64_t r = 0; r < count; r++) {
            float* row = scores + r * tile;
            E* to = weights + r * tile;
            const int64_t low = of.first_visible(position + r) - key, high = of.last_visible(position + r, length) - key + 1;
            if (low > 0) std::fill(row, row + std::min<int64_t>(low, tile), none);
            if (high < tile) std::fill(row + std::max<int64_t>(high, 0), row + tile, none);
            Vec row_max = Vec::load(row);
            for (int j = Vec::width; j < tile; j += Vec::width) row_max = max(row_max, Vec::load(row + j));
            const float before = largest[r], now = std::max(before, row_max.largest() * of.scale);
            if (now == none) {
                std::fill(to, to + tile, E(0));
                continue;
            }
            const Vec minus = Vec::all(-now);
            Vec sum = Vec::zero();
            for (int j = 0; j < tile; j += Vec::width) {
                const Vec weight = exp(fma(Vec::load(row + j), scale, minus));
                sum += weight;
                weight.store(to + j);
            }
            const float rescale = before == now ? 1.0f : std::exp(before - now);
            largest[r] = now;
            total[r] = total[r] * rescale + sum.sum();
            if (rescale != 1.0f) {
                const Vec factor = Vec::all(rescale);
                for (int64_t d = 0; d < of.dim; d += Vec::width) (Vec::load(sums + r * of.dim + d) * factor).store(sums + r * of.dim + d);
            }
        }
    }
};

}  // namespace LEVEL
