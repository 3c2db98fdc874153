// Threads that work on one job together, and memory that stays from job to job.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <sched.h>
#include <thread>
#include <vector>

namespace {

inline void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// The calling thread and its helpers. These wait for the next job awake for a moment, then asleep.
class Team {
  public:
    const int size;

    explicit Team(int threads) : size(threads) {
        for (int i = 1; i < size; i++) helpers_.emplace_back([this, i] { serve(i); });
    }

    ~Team() {
        begin(nullptr, nullptr);
        for (auto& helper : helpers_) helper.join();
    }

    // Calls job(thread) on every thread; returns when all are done.
    template <class Job>
    void run(Job job) {
        begin([](void* job, int thread) { (*static_cast<Job*>(job))(thread); }, &job);
        job(0);
        meet();
    }

    // In a job: waits until all threads are here.
    void meet() {
        const uint64_t turn = turn_.load(std::memory_order_relaxed);
        if (here_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            here_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int looks = 0; turn_.load(std::memory_order_acquire) == turn; looks++) {
            if (looks < PATIENCE) rest();
            else sched_yield();
        }
    }

    // In a job, since the last meeting: 0, 1, 2 ... to whoever asks. A thread that is held up leaves more to others.
    int64_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

  private:
    static constexpr int PATIENCE = 4000;  // looks before a thread lets others run
    static constexpr std::chrono::milliseconds AWAKE{2};  // longer than it takes to choose a token
    using Call = void (*)(void*, int);

    void begin(Call call, void* job) {
        call_ = call, job_ = job;
        {
            const std::lock_guard lock(door_);
            jobs_.fetch_add(1, std::memory_order_release);
        }
        bell_.notify_all();
    }

    void serve(int thread) {
        for (uint64_t seen = 0;; seen++) {
            const auto called = [&] { return jobs_.load(std::memory_order_acquire) != seen; };
            const auto asleep = std::chrono::steady_clock::now() + AWAKE;
            while (!called() && std::chrono::steady_clock::now() < asleep) rest();
            if (!called()) {
                std::unique_lock lock(door_);
                bell_.wait(lock, called);
            }
            if (!call_) return;
            call_(job_, thread);
            meet();
        }
    }

    alignas(64) std::atomic<uint64_t> jobs_{0};
    alignas(64) std::atomic<uint64_t> turn_{0};
    alignas(64) std::atomic<int> here_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    Call call_ = nullptr;
    void* job_ = nullptr;
    std::mutex door_;
    std::condition_variable bell_;
    std::vector<std::thread> helpers_;  // last: they use all of the above
};

struct Range {
    int64_t first, last;
};

// A thread's part of n things, in whole units.
inline Range share(int64_t n, int thread, int threads, int64_t unit = 1) {
    const int64_t units = (n + unit - 1) / unit;
    return {std::min(n, units * thread / threads * unit), std::min(n, units * (thread + 1) / threads * unit)};
}

// Memory that grows and is kept; what it held is lost when it grows, and it begins with zeros.
class Buffer {
  public:
    ~Buffer() { free(data_); }

    template <class T>
    T* get() const {
        return static_cast<T*>(data_);
    }

    template <class T>
    T* hold(int64_t count) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes > size_) {
            free(data_);
            size_ = 0;
            data_ = aligned_alloc(64, bytes);
            if (!data_) throw std::bad_alloc();
            memset(data_, 0, bytes);
            size_ = bytes;
        }
        return get<T>();
    }

  private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace
