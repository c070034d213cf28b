// Cross-entropy of rows of logits, and its gradient softmax - one-hot, which replaces the logits.
//
// One row at a time: 100 KB for 50,368 logits in bf16, so it stays in L2 for the three passes (maximum, sum of e^x,
// result). The exponentials stay in fp32 from the second pass to the third.
#pragma once

#include <cmath>
#include <vector>

#include "simd.h"
#include "tasks.h"

namespace LEVEL {

template <class T>
struct SoftmaxGradient {
    static constexpr int64_t rows_at_once = 64;

    int64_t rows, vocab;
    const float* bias;  // added to the logits, or null
    const int64_t* labels;

    // The sum of the losses. Unless `bias_gradient` is null, the gradient replaces the logits, and its sum over the rows is
    // added to `bias_gradient`, in an order that does not depend on the threads.
    double run(T* logits, float* bias_gradient, const Threads& threads) const {
        const int64_t tasks = (rows + rows_at_once - 1) / rows_at_once;
        std::vector<double> losses(tasks, 0.0);
        std::vector<float> parts(bias_gradient == nullptr ? 0 : tasks * vocab, 0.0f);
        threads.each(tasks, [&](int64_t task) {
            float* weights = Scratch::fresh((vocab + Vec::width) * sizeof(float)).allocate<float>(vocab);
            for (int64_t r = task * rows_at_once; r < std::min(rows, (task + 1) * rows_at_once); r++) {
                T* row = logits + r * vocab;
                const float label_logit = read(row, labels[r]), row_max = largest(row);
                const float sum = exponentials(row, row_max, weights);
                losses[task] += std::log(sum) + row_max - label_logit;
                if (bias_gradient != nullptr) subtract(weights, 1.0f / sum, labels[r], row, parts.data() + task * vocab);
            }
        });
        double loss = 0;
        for (int64_t task = 0; task < tasks; task++) {
            loss += losses[task];
            if (bias_gradient == nullptr) continue;
            const float* part = parts.data() + task * vocab;
            each([&](int64_t i) { (Vec::load(bias_gradient + i) + Vec::load(part + i)).store(bias_gradient + i); },
                 [&](int64_t i) { bias_gradient[i] += part[i]; });
        }
        return loss;
    }

   private:
    // vector(i) for every full vector of a row, then scalar(i) for each remaining element.
    template <class OnVector, class OnScalar>
    void each(OnVector vector, OnScalar scalar) const {
        int64_t i = 0;
        for (; i + Vec::width <= vocab; i += Vec::width) vector(i);
        for (; i < vocab; i++) scalar(i);
    }

    float read(const T* row, int64_t i) const { return to_float(row[i]) + (bias == nullptr ? 0.0f : bias[i]); }
    Vec read_vector(const T* row, int64_t i) const { return bias == nullptr ? Vec::load(row + i) : Vec::load(row + i) + Vec::load(bias + i); }

    float largest(const T* row) const {
        Vec row_maxes = Vec::all(-std::numeric_limits<float>::infinity());
        float row_max = -std::numeric_limits<float>::infinity();
        each([&](int64_t i) { row_maxes = max(row_maxes, read_vector(row, i)); }, [&](int64_t i) { row_max = std::max(row_max, read(row, i)); });
        return std::max(row_max, row_maxes.largest());
    }

    float exponentials(const T* row, float row_max, float* weights) const {
        Vec sums = Vec::zero();
        float sum = 0;
        each(
            [&](int64_t i) {
                const Vec weight = exp(read_vector(row, i) - Vec::all(row_max));
                weight.store(weights + i);
                sums += weight;
            },
            [&](int64_t i) { sum += weights[i] = std::exp(read(row, i) - row_max); });
        return sum + sums.sum();
    }

    void subtract(float* weights, float share, int64_t label, T* row, float* bias_gradient) const {
        weights[label] -= 1.0f / share;
        each(
            [&](int64_t i) {
                const Vec slope = Vec::load(weights + i) * Vec::all(share);
                slope.store(row + i);
                (Vec::load(bias_gradient + i) + slope).store(bias_gradient + i);
            },
            [&](int64_t i) {
                const float slope = weights[i] * share;
                store(slope, row + i);
                bias_gradient[i] += slope;
            });
    }

    static void store(float x, float* to) { *to = x; }
    static void store(float x, bf16* to) { *to = to_bf16(x); }
};

}  // namespace LEVEL
