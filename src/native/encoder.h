// The encoder without gradients, from embedded tokens to the hidden states after the final norm.
//
// Attention uses all tokens; the operations between two attentions are local to a token, and run in micro-batches of 512
// tokens, whose intermediate results stay in L2 and L3 until the next product reads them. The residual stream is in fp32.
// One call is one complete pass, in memory that the caller reuses for the next pass.
#pragma once

#include <type_traits>

#include "attention_forward.h"
#include "geglu.h"
#include "interface.h"
#include "layer_norm.h"
#include "linear.h"
#include "quantized.h"

namespace LEVEL {

// T: the type of activations and attention. In: the operands of the linear layers, of the same type or int8.
template <class T, class In, class InAttention>
struct EncoderForward {
    static constexpr int64_t micro_batch = 512;

    explicit EncoderForward(const NativeEncoder& encoder) : of(encoder) {}

    // Bytes of the workspace for a pass of this number of tokens.
    int64_t workspace(int64_t tokens) { return reinterpret_cast<int64_t>(set_addresses(nullptr, tokens)); }

    void run(const NativeBatch& batch, void* out, const Threads& with) {
        threads = with;
        tokens = batch.tokens;
        set_addresses(static_cast<char*>(batch.workspace), tokens);
        each_micro_batch([&](int64_t first, int64_t count) {
            const T* embedded = static_cast<const T*>(batch.embedded) + first * of.hidden;
            AddNorm<T, float>{count, of.hidden, of.embedding_norm, of.epsilon}.forward(embedded, nullptr, nullptr, stream + first * of.hidden, nullptr, nullptr, threads);
            AddNorm<T, T>{count, of.hidden, of.embedding_norm, of.epsilon}.forward(embedded, nullptr, nullptr, normed, nullptr, nullptr, threads);
            query_key_value(of.layers[0], first, count);
        });
        for (int64_t l = 0; l < of.count; l++) {
            const NativeLayer& layer = of.layers[l];
            Attention<T> attention{qkv, batch.cos[layer.rope], batch.sin[layer.rope], batch.rope_stride, batch.boundaries, batch.sequences,
                                   tokens, of.heads, of.hidden / of.heads, layer.window, of.scale};
            AttentionForward<T, InAttention>{attention, attended, nullptr}.run(threads);
            each_micro_batch([&](int64_t first, int64_t count) {
                add_to_stream(layer.attended, attended + first * of.hidden, first, count);
                norm(layer.mlp_norm, first, count, normed);
                feed_forward(layer, first, count);
                if (l + 1 < of.count) {
                    norm(of.layers[l + 1].attn_norm, first, count, normed);
                    query_key_value(of.layers[l + 1], first, count);
                } else {
                    norm(of.final_norm, first, count, static_cast<T*>(out) + first * of.hidden);
                }
            });
        }
    }

   private:
    const NativeEncoder& of;
    Threads threads{};
    int64_t tokens = 0;
    float* stream = nullptr;  // the residual stream
    T *qkv = nullptr, *attended = nullptr;
    T *normed = nullptr, *gated = nullptr;  // of one micro-batch, as the following ones
    uint8_t* quantized = nullptr;
    float* scales = nullptr;

    // Set the addresses of these arrays in the memory of the caller, and return its end.
    char* set_addresses(char* memory, int64_t tokens) {
        const int64_t micro = std::min(tokens, micro_batch);
        const auto allocate = [&](auto*& allocation, int64_t count) {
            allocation = reinterpret_cast<std::remove_reference_t<decltype(allocation)>>(memory);
            memory += (count * sizeof(*allocation) + 63) / 64 * 64;
        };
        allocate(stream, tokens * of.hidden);
        allocate(qkv, tokens * 3 * of.hidden);
        allocate(attended, tokens * of.hidden);
        allocate(normed, micro * of.hidden);
        allocate(gated, micro * of.intermediate);
        allocate(quantized, std::is_same_v<In, InInt8> ? micro * std::max(of.hidden, of.intermediate) : 0);
        allocate(scales, micro);
        return memory;
    }

    template <class Run>
    void each_micro_batch(Run run) const {
        for (int64_t first = 0; first < tokens; first += micro_batch) run(first, std::min(micro_batch, tokens - first));
    }

    void norm(const float* weight, int64_t first, int64_t count, T* to) const {
        AddNorm<float, T>{count, of.hidden, weight, of.epsilon}.forward(stream + first * of.hidden, nullptr, nullptr, to, nullptr, nullptr, threads);
    }

    template <class Finish>
    void product(const NativeLinear& linear, const T* rows, int64_t count, Finish finish) const {
        const Linear<In> with{static_cast<const typename In::Weight*>(linear.weight), linear.scales, linear.sums, linear.in, linear.out};
        if constexpr (std::is_same_v<In, InInt8>) {
            quantize(rows, count, linear.in, quantized, scales, threads);
            with.run({quantized, scales}, count, threads, finish);
        } else {
            with.run({rows}, count, threads, finish);
        }
    }

    void query_key_value(const NativeLayer& layer, int64_t first, int64_t count) const {
        const int64_t width = 3 * of.hidden;
        product(layer.qkv, normed, count, [&](int64_t row, int64_t rows, int64_t column, int64_t columns, const float* c) {
            for (int64_t r = 0; r < rows; r++)
                for (int64_t j = 0; j < columns; j += Vec::width) Vec::load(c + r * Linear<In>::panel + j).store(qkv + (first + row + r) * width + column + j);
        });
    }

    void add_to_stream(const NativeLinear& linear, const T* rows, int64_t first, int64_t count) const {
        product(linear, rows, count, [&](int64_t row, int64_t rows_here, int64_t column, int64_t columns, const float* c) {
            for (int64_t r = 0; r < rows_here; r++) {
                float* to = stream + (first + row + r) * of.hidden + column;
                for (int64_t j = 0; j < columns; j += Vec::width) (Vec::load(to + j) + Vec::load(c + r * Linear<In>::panel + j)).store(to + j);
            }
        });
    }

    // Each panel of `up` is 32 activated columns and their 32 gate columns.
    void feed_forward(const NativeLayer& layer, int64_t first, int64_t count) const {
        constexpr int64_t half = Linear<In>::panel / 2;
        product(layer.up, normed, count, [&](int64_t row, int64_t rows, int64_t column, int64_t, const float* c) {
            for (int64_t r = 0; r < rows; r++) {
                const float* from = c + r * Linear<In>::panel;
                T* to = gated + (row + r) * of.intermediate + column / 2;
                for (int64_t j = 0; j < half; j += Vec::width) (gelu(Vec::load(from + j)) * Vec::load(from + half + j)).store(to + j);
            }
        });
        add_to_stream(layer.down, gated, first, count);
    }
};

}  // namespace LEVEL
