// Which levels this processor has. Compiled for any processor of its kind.
#include "interface.h"

#include <cstring>

namespace avx2 {
extern const NativeKernels kernels;
}
namespace avx512 {
extern const NativeKernels kernels;
}
namespace avx512_bf16 {
extern const NativeKernels kernels;
}

extern "C" __attribute__((visibility("default"))) const NativeKernels* native_kernels(const char* level) {
    __builtin_cpu_init();
    const bool small = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool large = small && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(level, "avx2") && small) return &avx2::kernels;
    if (!std::strcmp(level, "avx512") && large) return &avx512::kernels;
    if (!std::strcmp(level, "avx512_bf16") && large && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) return &avx512_bf16::kernels;
    return nullptr;
}
