// Work shared out among torch's own threads, and memory that a thread keeps from one task to the next.
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

    int64_t at_work() const { return parallel_for == nullptr || count < 1 ? 1 : count; }

    // run(task) for every task once. Threads take the next one when they are free, as sequences differ in length.
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

// Memory of one thread, 64-byte aligned and grown when needed: fresh allocations would be page faults, a tenth of the time.
class Scratch {
   public:
    // All earlier pieces are given up.
    static Scratch& fresh(size_t bytes) {
        static thread_local Scratch mine;
        if (bytes > mine.size_) {
            mine.memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
            mine.size_ = bytes;
        }
        mine.used_ = 0;
        return mine;
    }

    template <class T>
    T* take(size_t count) {
        T* piece = reinterpret_cast<T*>(memory_.get() + used_);
        used_ += (count * sizeof(T) + 63) / 64 * 64;
        return piece;
    }

   private:
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    std::unique_ptr<char, Free> memory_;
    size_t size_ = 0, used_ = 0;
};

}  // namespace LEVEL
