// Small matrix products whose operands stay in L1: C = A B or C += A B, with C in fp32.
//
// A is row-major. B is packed: the `step` rows of one instruction are interleaved, B[k / step][n][k % step].
// A block of 6 rows by 4 vectors (2 for AVX2, which has half the registers) of C stays in registers: 24 chains of
// dependent additions hide the latency of the multiply-add, and each loaded vector of B is used for 6 rows.
//
// With a matrix unit, blocks of 32 x 32 of C are four tiles, so that each loaded tile is used for two products and
// four chains of products run in parallel. The unit needs the same packing of B. Rows that do not fill a tile use vectors.
#pragma once

#include "simd.h"
#include "tiles.h"
#include "transpose.h"

namespace LEVEL {

// The left operand of a linear layer.
template <class E>
struct PlainRows {
    const E* rows;
    const E* at(int64_t row, int64_t width) const { return rows + row * width; }
};

// Operands in fp32: any level, any dtype.
struct InFloat {
    using Element = float;
    using Weight = float;
    using Rows = PlainRows<float>;
    static constexpr int step = 1;
    static void finish(float*, int, int, const Rows&, int64_t, const float*, const float*) {}
    static Vec multiply_add(Vec sum, const float* a, const float* b) { return fma(Vec::all(*a), Vec::load(b), sum); }
};

#if defined(__AVX512BF16__)
// Operands in bf16, two products for each fp32 sum at once.
struct InBf16 {
    using Element = bf16;
    using Weight = bf16;
    using Rows = PlainRows<bf16>;
    static constexpr int step = 2;
    static void finish(float*, int, int, const Rows&, int64_t, const float*, const float*) {}
#if HAS_TILES
    template <int sum, int a, int b>
    static void multiply_tiles() { tile_multiply_bf16<sum, a, b>(); }
#endif
    static Vec multiply_add(Vec sum, const bf16* a, const bf16* b) {
        int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(b))};
    }
};
using ForBf16 = InBf16;
#else
using ForBf16 = InFloat;
#endif
constexpr bool multiplies_bf16 = sizeof(ForBf16::Element) == sizeof(bf16);

#if HAS_TILES
// Rows of C in full tiles; `fits` checks k and n.
template <class In>
struct TileProduct {
    using E = typename In::Element;
    using W = typename In::Weight;
    static constexpr int depth = 64 / sizeof(E);  // k of one tile

    static bool fits(int n, int k) { return n % 32 == 0 && k % depth == 0; }

    static void run(int m, int n, int k, const E* a, int lda, const W* b, int ldb, float* c, int ldc, bool add) {
        for (int j = 0; j < n; j += 32) {
            int i = 0;
            for (; i + 32 <= m; i += 32) block<2>(k, a + i * lda, lda, b + j * In::step, ldb, c + i * ldc + j, ldc, add);
            if (i < m) block<1>(k, a + i * lda, lda, b + j * In::step, ldb, c + i * ldc + j, ldc, add);
        }
    }

   private:
    // 16 or 32 rows: sums in tiles 0 to 3, A in 4 and 5, B in 6 and 7.
    template <int R>
    static void block(int k, const E* a, int lda, const W* b, int ldb, float* c, int ldc, bool add) {
        const int64_t a_stride = lda * sizeof(E), b_stride = ldb * 4, c_stride = ldc * 4;
        if (add) {
            tile_load<0>(c, c_stride);
            tile_load<1>(c + 16, c_stride);
            if constexpr (R == 2) {
                tile_load<2>(c + 16 * ldc, c_stride);
                tile_load<3>(c + 16 * ldc + 16, c_stride);
            }
        } else {
            tile_zero<0>();
            tile_zero<1>();
            tile_zero<2>();
            tile_zero<3>();
        }
        for (int p = 0; p < k; p += depth, a += depth, b += depth * ldb) {
            tile_load<6>(b, b_stride);
            tile_load<7>(b + 16 * In::step, b_stride);
            tile_load<4>(a, a_stride);
            In::template multiply_tiles<0, 4, 6>();
            In::template multiply_tiles<1, 4, 7>();
            if constexpr (R == 2) {
                tile_load<5>(a + 16 * lda, a_stride);
                In::template multiply_tiles<2, 5, 6>();
                In::template multiply_tiles<3, 5, 7>();
            }
        }
        tile_store<0>(c, c_stride);
        tile_store<1>(c + 16, c_stride);
        if constexpr (R == 2) {
            tile_store<2>(c + 16 * ldc, c_stride);
            tile_store<3>(c + 16 * ldc + 16, c_stride);
        }
    }
};
#endif

template <class In>
struct Product {
    using E = typename In::Element;
    using W = typename In::Weight;
    static constexpr int rows_at_once = 6;
    static constexpr int vectors_at_once = Vec::width == 16 ? 4 : 2;

    // C is m x n, A is m x k, n a multiple of 2 vectors and k of step; `ldb` is the n of the complete packed B.
    //
    // `next`, unless null, is the address of the next B, of the same size: each block of rows prefetches a part of it.
    // Otherwise a product with few rows waits for the next weights: base at 16 tokens gains 9 % in bf16 and 19 % in int8.
    static void run(int m, int n, int k, const E* a, int lda, const W* b, int ldb, float* c, int ldc, bool add, const W* next = nullptr) {
        int i = 0;
        Prefetch prefetch{reinterpret_cast<const char*>(next), 0};
        if (next != nullptr) prefetch.lines = int((int64_t(n) * k * sizeof(W) / 64 + steps(m, n, k) - 1) / steps(m, n, k));
#if HAS_TILES
        if constexpr (In::step > 1)
            if (TileProduct<In>::fits(n, k)) {
                i = m / 16 * 16;
                TileProduct<In>::run(i, n, k, a, lda, b, ldb, c, ldc, add);
            }
#endif
        for (; i + rows_at_once <= m; i += rows_at_once) columns<rows_at_once>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch);
        switch (m - i) {
            case 5: columns<5>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch); break;
            case 4: columns<4>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch); break;
            case 3: columns<3>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch); break;
            case 2: columns<2>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch); break;
            case 1: columns<1>(n, k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, add, prefetch); break;
        }
    }

   private:
    // The prefetched memory, with a few cache lines at each step of k.
    struct Prefetch {
        const char* next;
        int lines;

        void fetch() {
            for (int line = 0; line < lines; line++, next += 64) _mm_prefetch(next, _MM_HINT_T1);
        }
    };

    // The number of steps of k in all blocks of a product.
    static int64_t steps(int m, int n, int k) {
        const int columns = vectors_at_once * Vec::width;
        return int64_t((m + rows_at_once - 1) / rows_at_once) * ((n + columns - 1) / columns) * (k / In::step);
    }

    template <int R>
    static void columns(int n, int k, const E* a, int lda, const W* b, int ldb, float* c, int ldc, bool add, Prefetch& prefetch) {
        int j = 0;
        for (; j + vectors_at_once * Vec::width <= n; j += vectors_at_once * Vec::width)
            block<R, vectors_at_once>(k, a, lda, b + j * In::step, ldb, c + j, ldc, add, prefetch);
        for (; j < n; j += 2 * Vec::width) block<R, 2>(k, a, lda, b + j * In::step, ldb, c + j, ldc, add, prefetch);
    }

    template <int R, int V>
    static void block(int k, const E* a, int lda, const W* b, int ldb, float* c, int ldc, bool add, Prefetch& prefetch) {
        Vec sums[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums[r][v] = add ? Vec::load(c + r * ldc + v * Vec::width) : Vec::zero();
        Prefetch local = prefetch;
        for (int p = 0; p < k; p += In::step, b += ldb * In::step) {
            local.fetch();
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    sums[r][v] = In::multiply_add(sums[r][v], a + r * lda + p, b + v * Vec::width * In::step);
        }
        prefetch = local;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums[r][v].store(c + r * ldc + v * Vec::width);
    }
};

// Rows in fp32 as an A operand.
template <class In>
void as_rows(const float* rows, int count, int width, typename In::Element* to) {
    for (int i = 0; i < count * width; i += Vec::width) Vec::load(rows + i).store(to + i);
}

// Rows in fp32 as a packed B operand, k = rows: `count` rows, then zeros up to a multiple of step.
template <class In>
void as_packed(const float* rows, int count, int width, typename In::Element* to) {
    for (int r = 0; r < count; r += In::step) {
        const float* row = rows + r * width;
        if constexpr (In::step == 1) {
            std::memcpy(to, row, width * sizeof(float));
        } else {
#if defined(__AVX512BF16__)
            for (int j = 0; j < width; j += 16) {
                const __m512i even = _mm512_cvtepu16_epi32(Vec::load(row + j).rounded());
                const bool last = r + 1 == count;
                const __m512i odd = last ? _mm512_setzero_si512() : _mm512_cvtepu16_epi32(Vec::load(row + width + j).rounded());
                _mm512_storeu_si512(to + 2 * j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
            }
#endif
        }
        to += width * In::step;
    }
}

// The transpose of rows of elements as a packed B operand, k = width and n = rows: a transpose of groups of `step`, which
// always have 32 bits. `rows` is a multiple of 16.
template <class In>
void as_packed_transpose(const typename In::Element* from, int rows, int width, typename In::Element* to) {
    transpose(reinterpret_cast<const uint32_t*>(from), rows, width / In::step, reinterpret_cast<uint32_t*>(to));
}

}  // namespace LEVEL
