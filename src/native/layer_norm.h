// Residual and layer norm in one pass over memory: sum = x + y, normed = (sum - mean) / deviation * weight.
//
// y may be absent (only a norm), and so may the sum. Statistics are computed in fp32 from a row that stays in L1, in two
// passes, for the mean and for the deviation from it, so that no digits are lost.
#pragma once

#include <cmath>
#include <vector>

#include "simd.h"
#include "tasks.h"

namespace LEVEL {

// X: the type of the residual stream; Y: the type of the added term and of the normed result.
template <class X, class Y>
struct AddNorm {
    static constexpr int64_t rows_at_once = 64;

    int64_t rows, width;  // a multiple of 16
    const float* weight;
    float epsilon;

    void forward(const X* x, const Y* y, X* sum, Y* normed, float* mean, float* inverse, const Threads& threads) const {
        threads.each((rows + rows_at_once - 1) / rows_at_once, [&](int64_t task) {
            Scratch& scratch = Scratch::fresh(width * sizeof(float) + 64);
            float* row = scratch.allocate<float>(width);
            const int64_t end = std::min(rows, (task + 1) * rows_at_once);
            for (int64_t r = task * rows_at_once; r < end; r++) {
                Vec all = Vec::zero();
                for (int64_t i = 0; i < width; i += Vec::width) {
                    Vec value = Vec::load(x + r * width + i);
                    if (y != nullptr) {
                        value += Vec::load(y + r * width + i);
                        value.store(sum + r * width + i);
                        value = Vec::load(sum + r * width + i);  // rounded as in the stored sum
                    }
                    value.store(row + i);
                    all += value;
                }
                const float row_mean = all.sum() / float(width);
                Vec squares = Vec::zero();
                for (int64_t i = 0; i < width; i += Vec::width) {
                    const Vec deviation = Vec::load(row + i) - Vec::all(row_mean);
                    squares = fma(deviation, deviation, squares);
                }
                const float scale = 1.0f / std::sqrt(squares.sum() / float(width) + epsilon);
                for (int64_t i = 0; i < width; i += Vec::width)
                    ((Vec::load(row + i) - Vec::all(row_mean)) * Vec::all(scale) * Vec::load(weight + i)).store(normed + r * width + i);
                if (mean != nullptr) {
                    mean[r] = row_mean;
                    inverse[r] = scale;
                }
            }
        });
    }

    // The gradient of the sum: that of the residual stream (or null) plus that of the norm. `narrow` gets it in Y, for the
    // added term. The gradient of the weight is summed in chunks of rows that do not depend on the threads.
    void backward(const X* sum, const float* mean, const float* inverse, const Y* normed_gradient, const X* stream_gradient, X* gradient, Y* narrow,
                  float* weight_gradient, const Threads& threads) const {
        const int64_t tasks = (rows + rows_at_once - 1) / rows_at_once;
        std::vector<float> parts(tasks * width, 0.0f);
        threads.each(tasks, [&](int64_t task) {
            float* part = parts.data() + task * width;
            const int64_t end = std::min(rows, (task + 1) * rows_at_once);
            for (int64_t r = task * rows_at_once; r < end; r++) {
                const Vec row_mean = Vec::all(mean[r]), scale = Vec::all(inverse[r]);
                Vec slopes = Vec::zero(), along = Vec::zero();
                for (int64_t i = 0; i < width; i += Vec::width) {
                    const Vec given = Vec::load(normed_gradient + r * width + i);
                    const Vec unit = (Vec::load(sum + r * width + i) - row_mean) * scale;
                    const Vec slope = given * Vec::load(weight + i);
                    slopes += slope;
                    along = fma(slope, unit, along);
                    fma(given, unit, Vec::load(part + i)).store(part + i);
                }
                const Vec mean_slope = Vec::all(slopes.sum() / float(width)), mean_along = Vec::all(along.sum() / float(width));
                for (int64_t i = 0; i < width; i += Vec::width) {
                    const Vec unit = (Vec::load(sum + r * width + i) - row_mean) * scale;
                    const Vec slope = Vec::load(normed_gradient + r * width + i) * Vec::load(weight + i);
                    Vec result = (slope - mean_slope - unit * mean_along) * scale;
                    if (stream_gradient != nullptr) result += Vec::load(stream_gradient + r * width + i);
                    result.store(gradient + r * width + i);
                    if (narrow != nullptr) result.store(narrow + r * width + i);
                }
            }
        });
        for (int64_t i = 0; i < width; i++) weight_gradient[i] = 0.0f;
        for (int64_t task = 0; task < tasks; task++)
            for (int64_t i = 0; i < width; i += Vec::width)
                (Vec::load(weight_gradient + i) + Vec::load(parts.data() + task * width + i)).store(weight_gradient + i);
    }
};

}  // namespace LEVEL
