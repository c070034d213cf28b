// Cross-entropy of rows of logits, and softmax - one-hot, its gradient, in their place.
//
// One row at a time: 100 KB for 50,368 logits in bf16, so the three passes over it (largest, sum of e^x, result) find it in
// L2. The exponentials are kept in fp32 from the second pass to the third.
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

    // The sum of the losses. Unless `bias_gradient` is null, the gradient takes the place of the logits and its sum over the
    // rows is added there, in an order that does not depend on the threads.
    double run(T* logits, float* bias_gradient, const Threads& threads) const {
        const int64_t tasks = (rows + rows_at_once - 1) / rows_at_once;
        std::vector<double> losses(tasks, 0.0);
        std::vector<float> parts(bias_gradient == nullptr ? 0 : tasks * vocab, 0.0f);
        threads.each(tasks, [&](int64_t task) {
            float* weights = Scratch::fresh((vocab + Vec::width) * sizeof(float)).take<float>(vocab);
            for (int64_t r = task * rows_at_once; r < std::min(rows, (task + 1) * rows_at_once); r++) {
                T* row = logits + r * vocab;
                const float right = read(row, labels[r]), top = largest(row);
                const float sum = exponentials(row, top, weights);
                losses[task] += std::log(sum) + top - right;
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
    // whole(i) for every vector of a row, then one(i) for what is left.
    template <class Whole, class One>
    void each(Whole whole, One one) const {
        int64_t i = 0;
        for (; i + Vec::width <= vocab; i += Vec::width) whole(i);
        for (; i < vocab; i++) one(i);
    }

    float read(const T* row, int64_t i) const { return to_float(row[i]) + (bias == nullptr ? 0.0f : bias[i]); }
    Vec read_vector(const T* row, int64_t i) const { return bias == nullptr ? Vec::load(row + i) : Vec::load(row + i) + Vec::load(bias + i); }

    float largest(const T* row) const {
        Vec tops = Vec::all(-std::numeric_limits<float>::infinity());
        float top = -std::numeric_limits<float>::infinity();
        each([&](int64_t i) { tops = max(tops, read_vector(row, i)); }, [&](int64_t i) { top = std::max(top, read(row, i)); });
        return std::max(top, tops.largest());
    }

    float exponentials(const T* row, float top, float* weights) const {
        Vec sums = Vec::zero();
        float sum = 0;
        each(
            [&](int64_t i) {
                const Vec weight = exp(read_vector(row, i) - Vec::all(top));
                weight.store(weights + i);
                sums += weight;
            },
            [&](int64_t i) { sum += weights[i] = std::exp(read(row, i) - top); });
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
