// All kernels of one instruction level, as C functions. Compiled once for each level, with LEVEL set to its name.
#include "attention_backward.h"
#include "attention_forward.h"
#include "cross_entropy.h"
#include "encoder.h"
#include "geglu.h"
#include "interface.h"
#include "layer_norm.h"
#include "max_products.h"
#include "optimizer.h"

namespace LEVEL {
namespace {

Threads of(const NativeThreads* threads) { return {threads->parallel_for, threads->count}; }

template <class T>
Attention<T> of(const NativeAttention* a) {
    return {static_cast<const T*>(a->qkv), a->cos, a->sin, a->rope_stride, a->boundaries, a->sequences, a->tokens, a->heads, a->dim, a->window, a->scale};
}

// Whether boundaries rise from 0 to the number of tokens, so that kernels access exactly the tokens.
bool valid(const int32_t* boundaries, int64_t sequences, int64_t tokens) {
    if (sequences < 0 || boundaries[0] != 0 || boundaries[sequences] != tokens) return false;
    return std::is_sorted(boundaries, boundaries + sequences + 1);
}

int32_t attention_forward(const NativeAttention* a, void* out, float* logsumexp, const NativeThreads* threads) {
    if (!valid(a->boundaries, a->sequences, a->tokens)) return 1;
    if (a->dtype == native_bf16)
        AttentionForward<bf16, ForBf16>{of<bf16>(a), static_cast<bf16*>(out), logsumexp}.run(of(threads));
    else
        AttentionForward<float, InFloat>{of<float>(a), static_cast<float*>(out), logsumexp}.run(of(threads));
    return 0;
}

template <class T, class In>
void backward(const NativeAttention* a, const float* logsumexp, const void* out, const void* gradient, void* to, const NativeThreads* threads) {
    AttentionBackward<T, In>{of<T>(a), logsumexp, static_cast<const T*>(out), static_cast<const T*>(gradient), static_cast<T*>(to)}.run(of(threads));
}

int32_t attention_backward(const NativeAttention* a, const float* logsumexp, const void* out, const void* out_gradient, void* qkv_gradient,
                           const NativeThreads* threads) {
    if (!valid(a->boundaries, a->sequences, a->tokens)) return 1;
    if (a->dtype == native_bf16)
        backward<bf16, ForBf16>(a, logsumexp, out, out_gradient, qkv_gradient, threads);
    else
        backward<float, InFloat>(a, logsumexp, out, out_gradient, qkv_gradient, threads);
    return 0;
}

template <class X, class Y>
void norm_forward(const NativeNorm* n, const void* x, const void* y, void* sum, void* normed, float* mean, float* inverse, const NativeThreads* threads) {
    AddNorm<X, Y>{n->rows, n->width, n->weight, n->epsilon}.forward(static_cast<const X*>(x), static_cast<const Y*>(y), static_cast<X*>(sum),
                                                                    static_cast<Y*>(normed), mean, inverse, of(threads));
}

void add_norm_forward(const NativeNorm* n, const void* x, const void* y, void* sum, void* normed, float* mean, float* inverse,
                      const NativeThreads* threads) {
    if (n->stream == native_bf16)
        norm_forward<bf16, bf16>(n, x, y, sum, normed, mean, inverse, threads);
    else if (n->dtype == native_bf16)
        norm_forward<float, bf16>(n, x, y, sum, normed, mean, inverse, threads);
    else
        norm_forward<float, float>(n, x, y, sum, normed, mean, inverse, threads);
}

template <class X, class Y>
void norm_backward(const NativeNorm* n, const void* sum, const float* mean, const float* inverse, const void* normed_gradient, const void* stream_gradient,
                   void* gradient, void* narrow, float* weight_gradient, const NativeThreads* threads) {
    AddNorm<X, Y>{n->rows, n->width, n->weight, n->epsilon}.backward(static_cast<const X*>(sum), mean, inverse, static_cast<const Y*>(normed_gradient),
                                                                     static_cast<const X*>(stream_gradient), static_cast<X*>(gradient),
                                                                     static_cast<Y*>(narrow), weight_gradient, of(threads));
}

void add_norm_backward(const NativeNorm* n, const void* sum, const float* mean, const float* inverse, const void* normed_gradient,
                       const void* stream_gradient, void* gradient, void* narrow, float* weight_gradient, const NativeThreads* threads) {
    if (n->stream == native_bf16)
        norm_backward<bf16, bf16>(n, sum, mean, inverse, normed_gradient, stream_gradient, gradient, narrow, weight_gradient, threads);
    else if (n->dtype == native_bf16)
        norm_backward<float, bf16>(n, sum, mean, inverse, normed_gradient, stream_gradient, gradient, narrow, weight_gradient, threads);
    else
        norm_backward<float, float>(n, sum, mean, inverse, normed_gradient, stream_gradient, gradient, narrow, weight_gradient, threads);
}

void geglu_forward(int dtype, int64_t rows, int64_t width, const void* x, void* y, const NativeThreads* threads) {
    if (dtype == native_bf16)
        GeGlu<bf16>{rows, width}.forward(static_cast<const bf16*>(x), static_cast<bf16*>(y), of(threads));
    else
        GeGlu<float>{rows, width}.forward(static_cast<const float*>(x), static_cast<float*>(y), of(threads));
}

void geglu_backward(int dtype, int64_t rows, int64_t width, const void* x, const void* y_gradient, void* x_gradient, const NativeThreads* threads) {
    if (dtype == native_bf16)
        GeGlu<bf16>{rows, width}.backward(static_cast<const bf16*>(x), static_cast<const bf16*>(y_gradient), static_cast<bf16*>(x_gradient), of(threads));
    else
        GeGlu<float>{rows, width}.backward(static_cast<const float*>(x), static_cast<const float*>(y_gradient), static_cast<float*>(x_gradient), of(threads));
}

double softmax_gradient(int dtype, int64_t rows, int64_t vocab, void* logits, const float* bias, const int64_t* labels, float* bias_gradient,
                        const NativeThreads* threads) {
    if (dtype == native_bf16) return SoftmaxGradient<bf16>{rows, vocab, bias, labels}.run(static_cast<bf16*>(logits), bias_gradient, of(threads));
    return SoftmaxGradient<float>{rows, vocab, bias, labels}.run(static_cast<float*>(logits), bias_gradient, of(threads));
}

double stable_adamw_update(const NativeMoments* moments, const float* gradient, const NativeThreads* threads) {
    return StableAdamW{*moments}.update(gradient, of(threads));
}

void stable_adamw_move(const NativeMoments* moments, float* values, float decay_factor, float rate, const NativeThreads* threads) {
    StableAdamW{*moments}.move(values, decay_factor, rate, of(threads));
}

// use(pass) with the pass of this encoder in its types. Levels without bf16 products get encoders in fp32.
template <class Use>
auto with_pass(const NativeEncoder& encoder, Use use) {
    if constexpr (multiplies_bf16)
        if (encoder.dtype == native_bf16)
            return encoder.int8 ? use(EncoderForward<bf16, InInt8, ForBf16>{encoder}) : use(EncoderForward<bf16, ForBf16, ForBf16>{encoder});
    return encoder.int8 ? use(EncoderForward<float, InInt8, InFloat>{encoder}) : use(EncoderForward<float, InFloat, InFloat>{encoder});
}

int64_t encoder_workspace(const NativeEncoder* encoder, int64_t tokens) {
    return with_pass(*encoder, [&](auto pass) { return pass.workspace(tokens); });
}

int32_t encoder_forward(const NativeEncoder* encoder, const NativeBatch* batch, void* out, const NativeThreads* threads) {
    if (!valid(batch->boundaries, batch->sequences, batch->tokens)) return 1;
    with_pass(*encoder, [&](auto pass) { pass.run(*batch, out, of(threads)); });
    return 0;
}

int32_t max_products(const NativeMaxProducts* m, float* largest, const NativeThreads* threads) {
    if (!valid(m->boundaries, m->documents, m->tokens)) return 1;
    MaxProducts{m->vectors, m->boundaries, m->documents, m->tokens, m->dim, m->queries, m->columns}.run(largest, of(threads));
    return 0;
}

}  // namespace

extern const NativeKernels kernels = {attention_forward, attention_backward, add_norm_forward,    add_norm_backward, geglu_forward,
                                      geglu_backward,    softmax_gradient,   encoder_workspace,   encoder_forward,   stable_adamw_update,
                                      stable_adamw_move, max_products,       multiplies_bf16 ? ForBf16::step : 0};

}  // namespace LEVEL
