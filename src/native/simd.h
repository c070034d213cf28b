// Vectors of fp32, with the width of the instruction level, and conversions from and to bf16.
//
// Every kernel is compiled once for each level, in a namespace named LEVEL (CMakeLists.txt). Nothing here may be
// shared between levels: the linker would keep one copy, which some processors could not run.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace LEVEL {

using bf16 = uint16_t;

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest bf16, ties to even; NaN stays NaN.
inline bf16 to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fc0;
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__) && defined(__AVX512BW__)

struct Vec {
    static constexpr int width = 16;
    __m512 v;

    static Vec zero() { return {_mm512_setzero_ps()}; }
    static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec load(const bf16* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(bf16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded()); }

    // From 32-bit integers that are stored in the memory of floats.
    static Vec from_integers(const float* p) { return {_mm512_cvtepi32_ps(_mm512_castps_si512(_mm512_loadu_ps(p)))}; }
    // To the nearest integers from 0 to 255.
    void store_bytes(uint8_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(v))); }

    __m256i rounded() const {
#if defined(__AVX512BF16__)
        return (__m256i)_mm512_cvtneps_pbh(v);
#else
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, _mm512_srli_epi32(up, 16), _mm512_set1_epi32(0x7fc0)));
#endif
    }

    float sum() const { return _mm512_reduce_add_ps(v); }
    float largest() const { return _mm512_reduce_max_ps(v); }
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec square_root(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec absolute(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec with_sign_of(Vec a, Vec b) {
    const __m512i sign = _mm512_set1_epi32(int(0x80000000u));
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b.v), _mm512_castps_si512(a.v), 0xca))};
}
inline Vec rounded(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a * 2^n for integers n
inline Vec scaled(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#else  // AVX2 and FMA

struct Vec {
    static constexpr int width = 8;
    __m256 v;

    static Vec zero() { return {_mm256_setzero_ps()}; }
    static Vec all(float x) { return {_mm256_set1_ps(x)}; }
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec load(const bf16* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
    }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store(bf16* p) const {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i up = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256i kept = _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc0), nan);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(kept, kept), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    }

    static Vec from_integers(const float* p) { return {_mm256_cvtepi32_ps(_mm256_castps_si256(_mm256_loadu_ps(p)))}; }
    void store_bytes(uint8_t* p) const {
        const __m256i integers = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
    }

    float sum() const {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    float largest() const {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
};

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec square_root(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec absolute(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec with_sign_of(Vec a, Vec b) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(sign, a.v), _mm256_and_ps(sign, b.v))};
}
inline Vec rounded(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a * 2^n for integers n from -252 to 254, in two factors so that subnormal results are also correct
inline Vec scaled(Vec a, Vec n) {
    const __m256i integers = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(integers, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256 one = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256i rest = _mm256_sub_epi32(integers, half);
    const __m256 two = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, one), two)};
}

#endif

inline Vec operator+=(Vec& a, Vec b) { return a = a + b; }
inline Vec operator*=(Vec& a, Vec b) { return a = a * b; }

// e^x to about 1 ulp: 2^n times a polynomial in the remainder, which is in [-ln 2 / 2, ln 2 / 2]. Below -87 it is (almost)
// 0; NaN stays NaN.
inline Vec exp(Vec x) {
    // The order matters: max and min return their second operand if one is NaN.
    x = min(Vec::all(88.72f), max(Vec::all(-110.0f), x));
    const Vec n = rounded(x * Vec::all(1.44269504f));
    Vec r = fma(n, Vec::all(-0.693359375f), x);
    r = fma(n, Vec::all(2.12194440e-4f), r);
    Vec p = Vec::all(1.9875691500e-4f);
    p = fma(p, r, Vec::all(1.3981999507e-3f));
    p = fma(p, r, Vec::all(8.3334519073e-3f));
    p = fma(p, r, Vec::all(4.1665795894e-2f));
    p = fma(p, r, Vec::all(1.6666665459e-1f));
    p = fma(p, r, Vec::all(5.0000001201e-1f));
    p = fma(p, r * r, r + Vec::all(1.0f));
    return scaled(p, n);
}

// The error function with an absolute error below 1.5e-7 (Abramowitz and Stegun, 7.1.26). `gauss` must be e^(-x^2).
inline Vec erf(Vec x, Vec gauss) {
    const Vec t = Vec::all(1.0f) / fma(Vec::all(0.3275911f), absolute(x), Vec::all(1.0f));
    Vec p = Vec::all(1.061405429f);
    p = fma(p, t, Vec::all(-1.453152027f));
    p = fma(p, t, Vec::all(1.421413741f));
    p = fma(p, t, Vec::all(-0.284496736f));
    p = fma(p, t, Vec::all(0.254829592f));
    return with_sign_of(Vec::all(1.0f) - p * t * gauss, x);
}

}  // namespace LEVEL
