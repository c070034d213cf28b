// StableAdamW (Wortsman et al. 2023, arXiv 2304.13013, algorithm 2) of one tensor, in two passes, since the size of the step
// depends on a sum over the tensor. The speed is limited by memory, and each pass accesses a value once.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "interface.h"
#include "simd.h"
#include "tasks.h"

namespace LEVEL {

struct StableAdamW {
    static constexpr int64_t at_once = 16384;  // values; a multiple of every vector's width

    NativeMoments moments;

    // Updates the moments. Returns the sum of g^2 / max(v, epsilon^2), in an order that does not depend on the threads.
    double update(const float* gradient, const Threads& threads) const {
        const Vec scale = Vec::all(moments.gradient_scale), mean_share = Vec::all(moments.mean_share);
        const Vec decay = Vec::all(moments.square_decay), share = Vec::all(moments.square_share);
        const Vec least = Vec::all(moments.epsilon * moments.epsilon);
        std::vector<double> sums(blocks(), 0.0);
        each_block(threads, [&](int64_t block, int64_t begin, int64_t end) {
            Vec sum = Vec::zero();
            each_vector(begin, end, gradient, moments.mean, moments.square, [&](const float* g_at, float* m_at, float* v_at) {
                const Vec g = Vec::load(g_at) * scale, m = Vec::load(m_at), gg = g * g;
                const Vec v = fma(gg, share, Vec::load(v_at) * decay);
                fma(g - m, mean_share, m).store(m_at);
                v.store(v_at);
                sum += gg / max(v, least);
            });
            sums[block] = sum.sum();
        });
        double total = 0;
        for (double sum : sums) total += sum;
        return total;
    }

    // values = values * decay_factor - rate * m / (sqrt(v) + epsilon)
    void move(float* values, float decay_factor, float rate, const Threads& threads) const {
        const Vec decay = Vec::all(decay_factor), minus_rate = Vec::all(-rate), epsilon = Vec::all(moments.epsilon);
        each_block(threads, [&](int64_t, int64_t begin, int64_t end) {
            each_vector(begin, end, values, moments.mean, moments.square, [&](float* at, const float* m_at, const float* v_at) {
                const Vec step = Vec::load(m_at) / (square_root(Vec::load(v_at)) + epsilon);
                fma(step, minus_rate, Vec::load(at) * decay).store(at);
            });
        });
    }

   private:
    int64_t blocks() const { return (moments.count + at_once - 1) / at_once; }

    template <class Run>
    void each_block(const Threads& threads, Run run) const {
        threads.each(blocks(), [&](int64_t block) { run(block, block * at_once, std::min(moments.count, (block + 1) * at_once)); });
    }

    // run(a, b, c) for every full vector of the three; the remaining values are copied to padded vectors.
    template <class A, class Run>
    static void each_vector(int64_t begin, int64_t end, A* a, float* b, float* c, Run run) {
        int64_t i = begin;
        for (; i + Vec::width <= end; i += Vec::width) run(a + i, b + i, c + i);
        const int64_t left = end - i;
        if (left == 0) return;
        float x[Vec::width] = {}, m[Vec::width] = {}, v[Vec::width];
        std::fill_n(v, Vec::width, 1.0f);  // padding gradients are 0 and add nothing to the sum
        std::copy_n(a + i, left, x);
        std::copy_n(b + i, left, m);
        std::copy_n(c + i, left, v);
        run(x, m, v);
        if constexpr (!std::is_const_v<A>) std::copy_n(x, left, a + i);
        std::copy_n(m, left, b + i);
        std::copy_n(v, left, c + i);
    }
};

}  // namespace LEVEL
