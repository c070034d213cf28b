// GeGLU (Shazeer 2020, arXiv 2002.05202): gelu(a) * b, where a row is a followed by b.
#pragma once

#include "simd.h"
#include "tasks.h"

namespace LEVEL {

// e^(-x^2 / 2), for the error function of x / sqrt(2) and its derivative.
inline Vec gauss(Vec x) { return exp(x * x * Vec::all(-0.5f)); }
// The cumulative normal distribution at x.
inline Vec normal_cdf(Vec x, Vec bell) { return fma(erf(x * Vec::all(0.70710678f), bell), Vec::all(0.5f), Vec::all(0.5f)); }
inline Vec gelu(Vec x) { return x * normal_cdf(x, gauss(x)); }

template <class T>
struct GeGlu {
    static constexpr int64_t rows_at_once = 16;

    int64_t rows, width;  // of the result; a multiple of 16

    void forward(const T* x, T* y, const Threads& threads) const {
        threads.each((rows + rows_at_once - 1) / rows_at_once, [&](int64_t task) {
            const int64_t end = std::min(rows, (task + 1) * rows_at_once);
            for (int64_t r = task * rows_at_once; r < end; r++) {
                const T *a = x + r * 2 * width, *b = a + width;
                for (int64_t i = 0; i < width; i += Vec::width) (gelu(Vec::load(a + i)) * Vec::load(b + i)).store(y + r * width + i);
            }
        });
    }

    void backward(const T* x, const T* y_gradient, T* x_gradient, const Threads& threads) const {
        threads.each((rows + rows_at_once - 1) / rows_at_once, [&](int64_t task) {
            const int64_t end = std::min(rows, (task + 1) * rows_at_once);
            for (int64_t r = task * rows_at_once; r < end; r++) {
                const T *a = x + r * 2 * width, *b = a + width;
                T *to_a = x_gradient + r * 2 * width, *to_b = to_a + width;
                for (int64_t i = 0; i < width; i += Vec::width) {
                    const Vec value = Vec::load(a + i), given = Vec::load(y_gradient + r * width + i);
                    const Vec bell = gauss(value), part = normal_cdf(value, bell);
                    const Vec slope = fma(value * bell, Vec::all(0.3989422804f), part);
                    (given * Vec::load(b + i) * slope).store(to_a + i);
                    (given * value * part).store(to_b + i);
                }
            }
        });
    }
};

}  // namespace LEVEL
