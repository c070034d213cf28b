// The transpose of a small matrix of 32-bit words, in tiles of 16 x 16 with AVX-512.
#pragma once

#include "simd.h"

namespace LEVEL {

#if defined(__AVX512F__)

// Four rounds, which combine words at a distance of 1, 2, 4 and 8 rows.
inline void transpose_tile(const uint32_t* from, int stride, uint32_t* to, int to_stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    // Quarter q of a[4 g + c] is now column 4 q + c of rows 4 g to 4 g + 3.
    for (int c = 0; c < 4; c++) {
        const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        const __m512i low2 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd), high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_storeu_si512(to + c * to_stride, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_storeu_si512(to + (4 + c) * to_stride, _mm512_shuffle_i32x4(low2, high2, 0x88));
        _mm512_storeu_si512(to + (8 + c) * to_stride, _mm512_shuffle_i32x4(low, high, 0xdd));
        _mm512_storeu_si512(to + (12 + c) * to_stride, _mm512_shuffle_i32x4(low2, high2, 0xdd));
    }
}

#endif

// to[columns][rows] from from[rows][columns]; `rows` is a multiple of 16.
inline void transpose(const uint32_t* from, int rows, int columns, uint32_t* to) {
    int j = 0;
#if defined(__AVX512F__)
    for (; j + 16 <= columns; j += 16)
        for (int i = 0; i < rows; i += 16) transpose_tile(from + i * columns + j, columns, to + j * rows + i, rows);
#endif
    for (; j < columns; j++)
        for (int i = 0; i < rows; i++) to[j * rows + i] = from[i * columns + j];
}

}  // namespace LEVEL
