// Detects the levels of this processor. Compiled without instructions of a level.
#include "interface.h"

#include <cpuid.h>
#include <cstring>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace avx2 {
extern const NativeKernels kernels;
}
namespace avx512 {
extern const NativeKernels kernels;
}
namespace avx512_vnni {
extern const NativeKernels kernels;
}
namespace avx512_bf16 {
extern const NativeKernels kernels;
}

#if defined(LEVEL_AMX)
namespace amx {
extern const NativeKernels kernels;
}

namespace {

// Whether the processor has the matrix unit and the system permits its use, which each process must request once.
bool has_tiles() {
#if defined(EMULATED_TILES)
    return true;
#elif defined(__linux__)
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24, int8 = 1u << 25;
    if ((d & (bf16 | tiles | int8)) != (bf16 | tiles | int8)) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

}  // namespace
#endif

extern "C" __attribute__((visibility("default"))) int32_t native_version() { return 3; }

extern "C" __attribute__((visibility("default"))) const NativeKernels* native_kernels(const char* level) {
    __builtin_cpu_init();
    const bool small = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool large = small && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(level, "avx2") && small) return &avx2::kernels;
    if (!std::strcmp(level, "avx512") && large) return &avx512::kernels;
    const bool bytes = large && __builtin_cpu_supports("avx512vnni");
    if (!std::strcmp(level, "avx512_vnni") && bytes) return &avx512_vnni::kernels;
    const bool half = bytes && __builtin_cpu_supports("avx512bf16");
    if (!std::strcmp(level, "avx512_bf16") && half) return &avx512_bf16::kernels;
#if defined(LEVEL_AMX)
    if (!std::strcmp(level, "amx") && half && has_tiles()) return &amx::kernels;
#endif
    return nullptr;
}
