// The shared memory of the ranks of one machine, and the epochs in which they use it
// (docs/kernels.md draws them).
//
// Each rank has a RankState, which says how many epochs it has announced, and two slots. All ranks
// go through the same epochs. In epoch e a rank writes into its slot e % 2, announces e, and reads
// the others' slots once they announced e. "r announced e" thus says two things: r's data of epoch
// e is written, and r has read all that it needs of epoch e - 1. So slot e % 2 is free as soon as
// all have announced e - 1, and one wait per epoch is enough.
//
// With each epoch a rank records its call: operation, dtype, count and the call's number. A rank
// that waits for another compares that record with its own, so data of another call is never read.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "spin.h"

namespace {

constexpr int64_t SLOT_BYTES = 1 << 20;  // more values take several epochs

enum Operation : uint64_t { ALL_REDUCE, GATHER, BROADCAST, BARRIER };  // as in collectives.py
enum Result : int32_t { DONE, LATE, DIFFERENT };                       // as in shared_memory.py

struct Call {  // the record of a call of a collective
    uint64_t number;  // counts this rank's calls from 1
    uint64_t what;    // bits 60 to 63: Operation, 52 to 59: dtype, 0 to 51: count of values
    bool operator==(const Call& other) const {
        return number == other.number && what == other.what;
    }
};

struct alignas(128) RankState {   // 128: CPUs fetch cache lines in pairs
    std::atomic<uint64_t> epoch;  // last one announced; others sleep on its lower half
    std::atomic<uint32_t> sleepers;
    int64_t word[2];
    Call call[2];  // records of the last two epochs
};
static_assert(sizeof(RankState) == 128 && offsetof(RankState, call) == 32,
              "as in shared_memory.py");
static_assert(std::atomic<uint64_t>::is_always_lock_free,
              "a lock would be private to each process");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half comes first");

struct RankGroup {  // as in shared_memory.py
    char* memory;     // [size] RankState, then [size, 2, SLOT_BYTES] slots
    int32_t rank, size;
    int64_t spins;    // polls before a waiting rank yields its core between polls
    int64_t yield;    // nanoseconds before it sleeps until it is woken
    int64_t timeout;  // nanoseconds before it gives up
    Call call;        // the last one that this rank began
};

RankState& state(const RankGroup& group, int rank) {
    return reinterpret_cast<RankState*>(group.memory)[rank];
}

template <class T>
T* slot(const RankGroup& group, int rank, uint64_t epoch) {
    return reinterpret_cast<T*>(group.memory + group.size * sizeof(RankState) +
                                (rank * 2 + epoch % 2) * SLOT_BYTES);
}

int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

long futex(RankState& peer, int operation, uint32_t value, const timespec* limit = nullptr) {
    return syscall(SYS_futex, &peer.epoch, operation, value, limit, nullptr, 0);
}

// Sleeps until the peer announces an epoch, or for a tenth of a second.
void sleep(RankState& peer, uint64_t epoch) {
    const timespec limit{0, 100'000'000};
    peer.sleepers++;
    const uint64_t seen = peer.epoch.load();
    if (seen < epoch) futex(peer, FUTEX_WAIT, uint32_t(seen), &limit);
    peer.sleepers--;
}

// Waits for a rank to announce `epoch`. Returns false if it did not within group.timeout.
bool has_announced(const RankGroup& group, int rank, uint64_t epoch) {
    const auto& peer = state(group, rank).epoch;
    for (int64_t i = 0; i < group.spins; i++) {
        if (peer.load(std::memory_order_acquire) >= epoch) return true;
        spin_pause();
    }
    const int64_t start = now();
    while (peer.load(std::memory_order_acquire) < epoch) {
        const int64_t waited = now() - start;
        if (waited > group.timeout) return false;
        if (waited < group.yield) sched_yield();
        else sleep(state(group, rank), epoch);
    }
    return true;
}

// Waits for a rank to announce `epoch` and compares its call record with this rank's. `epoch` is
// the last one that this rank announced, so the other's record of it is not overwritten meanwhile.
Result wait_for(const RankGroup& group, int rank, uint64_t epoch) {
    if (!has_announced(group, rank, epoch)) return LATE;
    return state(group, rank).call[epoch % 2] == state(group, group.rank).call[epoch % 2]
               ? DONE
               : DIFFERENT;
}

Result wait_for_all(const RankGroup& group, uint64_t epoch) {
    for (int r = 0; r < group.size; r++)
        if (const Result result = wait_for(group, r, epoch)) return result;
    return DONE;
}

uint64_t next_epoch(const RankGroup& group) {
    return state(group, group.rank).epoch.load(std::memory_order_relaxed) + 1;
}

void begin_call(RankGroup& group, Operation operation, uint64_t dtype, int64_t count) {
    group.call = {group.call.number + 1, operation << 60 | dtype << 52 | uint64_t(count)};
}

void announce(const RankGroup& group, uint64_t epoch) {
    RankState& mine = state(group, group.rank);
    mine.call[epoch % 2] = group.call;
    // Sequentially consistent with the next line: a rank about to sleep sees this epoch, or is seen
    // here.
    mine.epoch.store(epoch);
    if (mine.sleepers.load()) futex(mine, FUTEX_WAKE, INT32_MAX);
}

// Calls write() as soon as this rank's slot and word of `epoch` are free, then announces the epoch.
template <class Write>
Result publish(const RankGroup& group, uint64_t epoch, Write write) {
    if (const Result result = wait_for_all(group, epoch - 1)) return result;
    write();
    announce(group, epoch);
    return DONE;
}

// As `publish`, and waits until all ranks have announced the epoch: all data of it may then be
// read.
template <class Write>
Result publish_and_wait(const RankGroup& group, uint64_t epoch, Write write) {
    if (const Result result = publish(group, epoch, write)) return result;
    return wait_for_all(group, epoch);
}

}  // namespace
