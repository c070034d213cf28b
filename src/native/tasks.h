// Distribution of tasks over the threads of torch, and memory that a thread reuses for all its tasks.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "tiles.h"

namespace LEVEL {

// torch_parallel_for of torch's stable C interface; null runs everything in the calling thread.
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, void (*run)(int64_t, int64_t, void*), void* context);

struct Threads {
    ParallelFor parallel_for;
    int64_t count;

    int64_t num_workers() const { return parallel_for == nullptr || count < 1 ? 1 : count; }

    // run(task) once for every task. A free thread takes the next task, as sequences have different lengths.
    template <class Run>
    void each(int64_t tasks, Run run) const {
        if (parallel_for == nullptr || count < 2 || tasks < 2) {
            [[maybe_unused]] const TilesInUse tiles;
            for (int64_t task = 0; task < tasks; task++) run(task);
            return;
        }
        struct Shared {
            Run& run;
            int64_t tasks;
            std::atomic<int64_t> next{0};
        } shared{run, tasks};
        const auto work = [](int64_t, int64_t, void* context) {
            [[maybe_unused]] const TilesInUse tiles;
            Shared& shared = *static_cast<Shared*>(context);
            for (int64_t task; (task = shared.next.fetch_add(1)) < shared.tasks;) shared.run(task);
        };
        parallel_for(0, count < tasks ? count : tasks, 1, work, &shared);
    }
};

// Memory of one thread, 64-byte aligned; it grows when needed. Page faults of new allocations would cost a tenth of the time.
class Scratch {
   public:
    // Invalidates all earlier allocations.
    static Scratch& fresh(size_t bytes) {
        static thread_local Scratch instance;
        if (bytes > instance.size_) {
            instance.memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
            instance.size_ = bytes;
        }
        instance.used_ = 0;
        return instance;
    }

    template <class T>
    T* allocate(size_t count) {
        T* allocation = reinterpret_cast<T*>(memory_.get() + used_);
        used_ += (count * sizeof(T) + 63) / 64 * 64;
        return allocation;
    }

   private:
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    std::unique_ptr<char, Free> memory_;
    size_t size_ = 0, used_ = 0;
};

}  // namespace LEVEL
