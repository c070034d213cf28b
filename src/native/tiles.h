// The matrix unit (AMX): eight tiles of 16 rows x 64 bytes, and products of tiles, accumulated in fp32 or int32.
//
// This was written without a machine with the unit. So the same functions exist in plain C++ (EMULATED_TILES), which
// `make check-native` builds and tests: its results are tested, its speed is not tuned.
#pragma once

#include "simd.h"

#if defined(__AMX_TILE__) || defined(EMULATED_TILES)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

namespace LEVEL {

#if HAS_TILES && !defined(EMULATED_TILES)

// In assembly: compiler intrinsics need tile numbers as literals, and GCC before 12.4 does not store the shape
// that it loads (bug 114098).

// Configures the tiles for the lifetime of this object. Other libraries in the process (oneDNN) configure tiles too, so each
// thread creates it before its tasks; releasing the tiles makes the state of the thread small again.
struct TilesInUse {
    TilesInUse() {
        struct alignas(64) Shape {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        };
        const Shape shape;
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~TilesInUse() { asm volatile("tilerelease"); }
    TilesInUse(const TilesInUse&) = delete;
    TilesInUse& operator=(const TilesInUse&) = delete;
};

template <int tile>
void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(tile)); }
template <int tile>
void tile_load(const void* from, int64_t stride) { asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory"); }
template <int tile>
void tile_store(void* to, int64_t stride) { asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory"); }
template <int sum, int a, int b>
void tile_multiply_bf16() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b)); }
template <int sum, int a, int b>
void tile_multiply_int8() { asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b)); }

#elif HAS_TILES

struct TilesInUse {};

struct EmulatedTile {
    alignas(64) uint8_t bytes[16][64];
};
inline thread_local EmulatedTile emulated_tiles[8];

template <int tile>
void tile_zero() { std::memset(&emulated_tiles[tile], 0, sizeof(EmulatedTile)); }
template <int tile>
void tile_load(const void* from, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(emulated_tiles[tile].bytes[r], static_cast<const uint8_t*>(from) + r * stride, 64);
}
template <int tile>
void tile_store(void* to, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(static_cast<uint8_t*>(to) + r * stride, emulated_tiles[tile].bytes[r], 64);
}

// sum[m][n] += a[m][k * step ...] . b[k][n * step ...], k counting rows of b: as the manual defines TDPBF16PS and TDPBUSD.
template <class Sum, class A, class B>
void emulate_multiply(EmulatedTile& sum, const EmulatedTile& a, const EmulatedTile& b) {
    constexpr int step = 4 / sizeof(A);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            Sum total;
            std::memcpy(&total, &sum.bytes[m][4 * n], sizeof total);
            for (int k = 0; k < 16; k++)
                for (int s = 0; s < step; s++) {
                    A x;
                    B y;
                    std::memcpy(&x, &a.bytes[m][4 * k + s * sizeof x], sizeof x);
                    std::memcpy(&y, &b.bytes[k][4 * n + s * sizeof y], sizeof y);
                    if constexpr (sizeof(A) == 2)
                        total += to_float(x) * to_float(y);
                    else
                        total += Sum(x) * Sum(y);
                }
            std::memcpy(&sum.bytes[m][4 * n], &total, sizeof total);
        }
}
template <int sum, int a, int b>
void tile_multiply_bf16() { emulate_multiply<float, bf16, bf16>(emulated_tiles[sum], emulated_tiles[a], emulated_tiles[b]); }
template <int sum, int a, int b>
void tile_multiply_int8() { emulate_multiply<int32_t, uint8_t, int8_t>(emulated_tiles[sum], emulated_tiles[a], emulated_tiles[b]); }

#else

struct TilesInUse {};

#endif

}  // namespace LEVEL
