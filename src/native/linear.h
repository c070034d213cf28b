// Linear layers with weights packed ahead: rows (count x in) times the weight's transpose, 64 columns at a time.
//
// A panel is 64 outputs of the weight, laid as the packed B operand of product.h, so it is read once from end to end: 98 KB
// for 768 inputs in bf16, which stay in L2 while every row of the micro-batch meets them. A task is one panel and some rows.
// Its results, 48 rows x 64 columns in fp32, never leave L1: `finish` turns them into what the next step reads.
#pragma once

#include <algorithm>

#include "product.h"
#include "tasks.h"

namespace LEVEL {

// In of product.h: what the operands are. Scales and sums belong to int8 weights alone (quantized.h).
template <class In>
struct Linear {
    static constexpr int panel = 64;
    static constexpr int64_t rows_at_once = 48;

    const typename In::Weight* weight;
    const float *scales, *sums;
    int64_t in, out;  // out is a multiple of 32; the last panel may be half empty

    // finish(row, rows, column, columns, c): rows x columns results, 64 floats from row to row.
    template <class Finish>
    void run(const typename In::Rows& rows, int64_t count, const Threads& threads, Finish finish) const {
        const int64_t panels = (out + panel - 1) / panel;
        // Enough tasks for every thread to have several; more would only read the weights again.
        const int64_t parts = std::clamp<int64_t>(threads.count < 2 ? 1 : 4 * threads.count / panels, 1, (count + rows_at_once - 1) / rows_at_once);
        const int64_t rows_each = (count + parts - 1) / parts;
        threads.each(panels * parts, [&](int64_t task) {
            const int64_t p = task / parts, begin = task % parts * rows_each, end = std::min(count, begin + rows_each);
            alignas(64) float c[rows_at_once * panel];
            for (int64_t i = begin; i < end; i += rows_at_once) {
                const int64_t there = std::min(rows_at_once, end - i);
                const bool last = i + there == end && task + threads.at_work() < panels * parts;
                const auto* next = last ? weight + (task + threads.at_work()) / parts * panel * in : nullptr;
                Product<In>::run(int(there), panel, int(in), rows.at(i, in), int(in), weight + p * panel * in, panel, c, panel, false, next);
                In::finish(c, int(there), panel, rows, i, scales + p * panel, sums + p * panel);
                finish(i, there, p * panel, std::min<int64_t>(panel, out - p * panel), c);
            }
        });
    }
};

}  // namespace LEVEL
