// A thread pool, and buffers that are kept from job to job.

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

#include "spin.h"

namespace {

// The calling thread and its workers. A worker spins for a moment between jobs, then sleeps.
class ThreadPool {
  public:
    const int size;

    explicit ThreadPool(int threads) : size(threads) {
        for (int i = 1; i < size; i++) workers_.emplace_back([this, i] { work(i); });
    }

    ~ThreadPool() {
        start_job(nullptr, nullptr);
        for (auto& worker : workers_) worker.join();
    }

    // Calls job(thread) on every thread and returns when all are done.
    template <class Job>
    void run(Job job) {
        start_job([](void* job, int thread) { (*static_cast<Job*>(job))(thread); }, &job);
        job(0);
        barrier();
    }

    // Inside a job: waits until all threads have called it. Restarts the chunks.
    void barrier() {
        const uint64_t generation = generation_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            next_chunk_.store(0, std::memory_order_relaxed);
            generation_.store(generation + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; spins++) {
            if (spins < SPIN_LIMIT) spin_pause();
            else sched_yield();
        }
    }

    // Inside a job: hands out 0, 1, 2 ... since the last barrier, so that a slow thread takes
    // fewer.
    int64_t next_chunk() { return next_chunk_.fetch_add(1, std::memory_order_relaxed); }

  private:
    static constexpr int SPIN_LIMIT = 4000;  // polls before a thread yields its core
    static constexpr std::chrono::milliseconds SPIN_TIME{2};  // longer than choosing a token takes
    using Call = void (*)(void*, int);

    void start_job(Call call, void* job) {
        call_ = call, job_ = job;
        {
            const std::lock_guard lock(mutex_);
            jobs_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }

    void work(int thread) {
        for (uint64_t seen = 0;; seen++) {
            const auto has_job = [&] {
                return jobs_.load(std::memory_order_acquire) != seen;
            };
            const auto deadline = std::chrono::steady_clock::now() + SPIN_TIME;
            while (!has_job() && std::chrono::steady_clock::now() < deadline) spin_pause();
            if (!has_job()) {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, has_job);
            }
            if (!call_) return;
            call_(job_, thread);
            barrier();
        }
    }

    alignas(64) std::atomic<uint64_t> jobs_{0};
    alignas(64) std::atomic<uint64_t> generation_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int64_t> next_chunk_{0};
    Call call_ = nullptr;
    void* job_ = nullptr;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;  // last member: workers use all of the above
};

struct Range {
    int64_t first, last;
};

// A thread's share of n items, in multiples of `unit`.
inline Range partition(int64_t n, int thread, int threads, int64_t unit = 1) {
    const int64_t units = (n + unit - 1) / unit;
    return {std::min(n, units * thread / threads * unit),
            std::min(n, units * (thread + 1) / threads * unit)};
}

// Memory that grows and is kept. Growing discards its contents; new memory is zeroed.
class Buffer {
  public:
    ~Buffer() { free(data_); }

    template <class T>
    T* get() const {
        return static_cast<T*>(data_);
    }

    template <class T>
    T* reserve(int64_t count) {
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
