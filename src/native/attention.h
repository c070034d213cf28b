// Attention of packed sequences on the output of Wqkv, with rotary embeddings.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "product.h"
#include "tasks.h"

namespace LEVEL {

// qkv, its gradient: tokens x 3 x heads x dim. out, its gradient: tokens x heads x dim. cos, sin: tokens x dim / 2, rows
// `rope_stride` apart. logsumexp: heads x tokens. boundaries: sequences + 1 numbers. dim is a multiple of 32.
template <class T>
struct Attention {
    const T* qkv;
    const float *cos, *sin;
    int64_t rope_stride;
    const int32_t* boundaries;
    int64_t sequences, tokens, heads, dim;
    int64_t window;  // keys on each side, or negative: all
    float scale;

    static constexpr int tile = 64;

    const T* row(int part, int64_t token, int64_t head) const { return qkv + ((token * 3 + part) * heads + head) * dim; }

    // A query or a key, rotated by its position, in fp32.
    void rotated_row(int part, int64_t token, int64_t head, float* to) const {
        rotate(row(part, token, head), token, 1.0f, to);
    }

    // A value, in fp32.
    void plain(int part, int64_t token, int64_t head, float* to) const {
        const T* from = row(part, token, head);
        for (int64_t d = 0; d < dim; d += Vec::width) Vec::load(from + d).store(to + d);
    }

    // Pair (i, i + dim / 2) rotated by the angle of the token, or back with direction -1.
    template <class From, class To>
    void rotate(const From* from, int64_t token, float direction, To* to) const {
        const int64_t half = dim / 2;
        const float *c = cos + token * rope_stride, *s = sin + token * rope_stride;
        const Vec sign = Vec::all(direction);
        for (int64_t i = 0; i < half; i += Vec::width) {
            const Vec cosine = Vec::load(c + i), sine = Vec::load(s + i) * sign;
            const Vec a = Vec::load(from + i), b = Vec::load(from + half + i);
            (a * cosine - b * sine).store(to + i);
            fma(b, cosine, a * sine).store(to + half + i);
        }
    }

    // The visible keys of a query at `position` of a sequence of `length`.
    int64_t first_visible(int64_t position) const { return window < 0 ? 0 : std::max<int64_t>(0, position - window); }
    int64_t last_visible(int64_t position, int64_t length) const {
        return window < 0 ? length - 1 : std::min(length - 1, position + window);
    }
};

}  // namespace LEVEL
