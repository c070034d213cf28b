// Linear layers with prepacked weights: rows (count x in) times the transpose of the weight, 64 columns at a time.
//
// A panel is 64 outputs of the weight, stored as the packed B operand of product.h, so it is read sequentially: 98 KB
// for 768 inputs in bf16, which stay in L2 for all rows of the micro-batch. A task is one panel and a range of rows.
// Its results, 48 rows x 64 columns in fp32, stay in L1: `finish`, the epilogue, converts them for the next step.
#pragma once

#include <algorithm>

#include "product.h"
#include "tasks.h"

namespace LEVEL {

// In: the operands, as in product.h. Scales and sums are only for int8 weights (quantized.h).
template <class In>
struct Linear {
    static constexpr int panel = 64;
    static constexpr int64_t rows_at_once = 48;

    const typename In::Weight* weight;
    const float *scales, *sums;
    int64_t in, out;  // out is a multiple of 32; the last panel may be half empty

    // finish(row, rows, column, columns, c): rows x columns results, with a row stride of 64 floats.
    template <class Finish>
    void run(const typename In::Rows& rows, int64_t count, const Threads& threads, Finish finish) const {
        const int64_t panels = (out + panel - 1) / panel;
        // Several tasks for every thread; more tasks would only read the weights again.
        const int64_t parts = std::clamp<int64_t>(threads.count < 2 ? 1 : 4 * threads.count / panels, 1, (count + rows_at_once - 1) / rows_at_once);
        const int64_t rows_each = (count + parts - 1) / parts;
        threads.each(panels * parts, [&](int64_t task) {
            const int64_t p = task / parts, begin = task % parts * rows_each, end = std::min(count, begin + rows_each);
            alignas(64) float c[rows_at_once * panel];
            for (int64_t i = begin; i < end; i += rows_at_once) {
                const int64_t rows_here = std::min(rows_at_once, end - i);
                const bool last = i + rows_here == end && task + threads.num_workers() < panels * parts;
                const auto* next = last ? weight + (task + threads.num_workers()) / parts * panel * in : nullptr;
                Product<In>::run(int(rows_here), panel, int(in), rows.at(i, in), int(in), weight + p * panel * in, panel, c, panel, false, next);
                In::finish(c, int(rows_here), panel, rows, i, scales + p * panel, sums + p * panel);
                finish(i, rows_here, p * panel, std::min<int64_t>(panel, out - p * panel), c);
            }
        });
    }
};

}  // namespace LEVEL
