// int8 products: weights with a scale for each output, and dynamically quantized rows with a scale for each row.
//
// The instruction (VPDPBUSD) multiplies unsigned with signed numbers, so rows are stored plus 128, and 128 times the sum of
// the weights of each output is subtracted later. Levels without it compute exactly the same sums from 16-bit products.
#pragma once

#include <cmath>

#include "product.h"
#include "tasks.h"

namespace LEVEL {

struct InInt8 {
    using Element = uint8_t;
    using Weight = int8_t;
    static constexpr int step = 4;

    struct Rows {
        const uint8_t* rows;
        const float* scales;
        const uint8_t* at(int64_t row, int64_t width) const { return rows + row * width; }
    };

#if HAS_TILES
    template <int sum, int a, int b>
    static void multiply_tiles() { tile_multiply_int8<sum, a, b>(); }
#endif
    // Adds four products to each sum, which is a 32-bit integer in the memory of a float.
    static Vec multiply_add(Vec sum, const uint8_t* a, const int8_t* b) {
        int32_t four;
        std::memcpy(&four, a, sizeof four);
#if defined(__AVX512VNNI__)
        return {_mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum.v), _mm512_set1_epi32(four), _mm512_loadu_si512(b)))};
#elif defined(__AVX512BW__)
        const __m512i x = _mm512_set1_epi32(four), y = _mm512_loadu_si512(b);
        const __m512i even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(y, 8), 8));
        const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(y, 8));
        return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum.v), _mm512_add_epi32(even, odd)))};
#else
        const __m256i x = _mm256_set1_epi32(four), y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
        return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum.v), _mm256_add_epi32(even, odd)))};
#endif
    }

    // Integer sums to results: minus 128 times the sum of the output's weights, times both scales.
    static void finish(float* c, int count, int width, const Rows& rows, int64_t first, const float* scales, const float* sums) {
        for (int r = 0; r < count; r++) {
            const Vec scale = Vec::all(rows.scales[first + r]);
            for (int j = 0; j < width; j += Vec::width) {
                const Vec integers = Vec::from_integers(c + r * width + j) - Vec::load(sums + j);
                (integers * scale * Vec::load(scales + j)).store(c + r * width + j);
            }
        }
    }
};

// Rows to unsigned bytes: the largest magnitude of a row is scaled to 127, and 128 is added.
template <class T>
void quantize(const T* from, int64_t count, int64_t width, uint8_t* to, float* scales, const Threads& threads) {
    constexpr int64_t rows_at_once = 16;
    threads.each((count + rows_at_once - 1) / rows_at_once, [&](int64_t task) {
        for (int64_t r = task * rows_at_once; r < std::min(count, (task + 1) * rows_at_once); r++) {
            const T* row = from + r * width;
            Vec row_max = Vec::zero();
            for (int64_t i = 0; i < width; i += Vec::width) row_max = max(row_max, absolute(Vec::load(row + i)));
            const float largest = row_max.largest(), scale = largest > 0 ? 127.0f / largest : 0.0f;
            for (int64_t i = 0; i < width; i += Vec::width) (Vec::load(row + i) * Vec::all(scale) + Vec::all(128.0f)).store_bytes(to + r * width + i);
            scales[r] = largest / 127.0f;
        }
    });
}

}  // namespace LEVEL
