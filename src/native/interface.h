// The interface of the library for Python, in plain C: it includes no header of torch or Python, so one build works with
// every version of both. Tensors are pointers to contiguous memory; Python has checked their sizes. Functions with
// boundaries check them: they return 0, or 1 without any change if the boundaries do not rise from 0 to the number of
// tokens.
#pragma once

#include <cstdint>

extern "C" {

enum NativeType { native_fp32 = 0, native_bf16 = 1 };

struct NativeThreads {
    // torch_parallel_for of torch's stable C interface, or null
    int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, void (*run)(int64_t, int64_t, void*), void* context);
    int64_t count;
};

struct NativeAttention {
    const void* qkv;  // tokens x 3 x heads x dim
    const float *cos, *sin;  // tokens x dim / 2, rows rope_stride apart
    int64_t rope_stride;
    const int32_t* boundaries;  // sequences + 1
    int64_t sequences, tokens, heads, dim;
    int64_t window;  // keys on each side; negative: all
    float scale;
    int32_t dtype;
};

struct NativeNorm {
    int64_t rows, width;
    const float* weight;
    float epsilon;
    int32_t stream, dtype;  // dtypes of the residual stream, and of the other tensors
};

// A linear layer with its weight packed into panels of 64 outputs (linear.h). int8 weights have a scale and 128 times their
// sum for each output; for other weights both are null.
struct NativeLinear {
    const void* weight;
    const float *scales, *sums;
    int64_t in, out;
};

struct NativeLayer {
    const float *attn_norm, *mlp_norm;  // the first layer has no attn_norm
    NativeLinear qkv, attended, up, down;  // `up` alternates 32 activated and 32 gating outputs
    int64_t window, rope;  // rope is 0 or 1
};

struct NativeEncoder {
    const NativeLayer* layers;
    int64_t count, hidden, intermediate, heads;
    const float *embedding_norm, *final_norm;
    float epsilon, scale;
    int32_t dtype, int8;
};

struct NativeBatch {
    const void* embedded;  // tokens x hidden, of the encoder's dtype
    const int32_t* boundaries;
    int64_t sequences, tokens;
    const float *cos[2], *sin[2];  // tokens x dim / 2, rows rope_stride apart
    int64_t rope_stride;
    void* workspace;  // 64-byte aligned; its size is the result of encoder_workspace
};

struct NativeMaxProducts {
    const float* vectors;  // tokens x dim
    const int32_t* boundaries;  // documents + 1
    int64_t documents, tokens, dim;
    const float* queries;  // dim x columns; columns is a multiple of 32
    int64_t columns;
};

// The moving averages of a tensor's gradients and of their squares, in fp32, and their update with g = gradient_scale *
// gradient: mean += mean_share * (g - mean), square = square_decay * square + square_share * g^2
struct NativeMoments {
    float *mean, *square;
    int64_t count;
    float gradient_scale, mean_share, square_decay, square_share, epsilon;
};

struct NativeKernels {
    int32_t (*attention_forward)(const NativeAttention*, void* out, float* logsumexp, const NativeThreads*);
    int32_t (*attention_backward)(const NativeAttention*, const float* logsumexp, const void* out, const void* out_gradient, void* qkv_gradient,
                                  const NativeThreads*);
    void (*add_norm_forward)(const NativeNorm*, const void* x, const void* y, void* sum, void* normed, float* mean, float* inverse, const NativeThreads*);
    void (*add_norm_backward)(const NativeNorm*, const void* sum, const float* mean, const float* inverse, const void* normed_gradient,
                              const void* stream_gradient, void* gradient, void* narrow, float* weight_gradient, const NativeThreads*);
    void (*geglu_forward)(int dtype, int64_t rows, int64_t width, const void* x, void* y, const NativeThreads*);
    void (*geglu_backward)(int dtype, int64_t rows, int64_t width, const void* x, const void* y_gradient, void* x_gradient, const NativeThreads*);
    double (*softmax_gradient)(int dtype, int64_t rows, int64_t vocab, void* logits, const float* bias, const int64_t* labels, float* bias_gradient,
                               const NativeThreads*);
    int64_t (*encoder_workspace)(const NativeEncoder*, int64_t tokens);
    int32_t (*encoder_forward)(const NativeEncoder*, const NativeBatch*, void* out, const NativeThreads*);
    double (*stable_adamw_update)(const NativeMoments*, const float* gradient, const NativeThreads*);
    void (*stable_adamw_move)(const NativeMoments*, float* values, float decay_factor, float rate, const NativeThreads*);
    int32_t (*max_products)(const NativeMaxProducts*, float* largest, const NativeThreads*);  // largest: documents x columns
    int64_t bf16_step;  // number of interleaved rows of a bf16 weight, or 0 if bf16 products are computed in fp32
};

// Changes with every change of this interface: Python checks it, so that it never calls a library of other sources.
int32_t native_version();

// The kernels of a level (avx2, avx512, avx512_vnni, avx512_bf16, amx), or null if this processor lacks it or it does not exist.
const NativeKernels* native_kernels(const char* level);
}
