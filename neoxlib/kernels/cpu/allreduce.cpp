// Collectives between the ranks of one machine through shared memory: all-reduce, gather, broadcast
// and barrier (docs/kernels.md draws the epochs).
//
// Each rank has a RankState, which says how many epochs it has announced, and two slots. All ranks
// go through the same epochs. In epoch e a rank writes into its slot e % 2, announces e, and reads
// the others' slots once they announced e. "r announced e" thus says two things: r's data of epoch
// e is written, and r has read all that it needs of epoch e - 1. So slot e % 2 is free as soon as
// all have announced e - 1, and one wait per epoch is enough.
//
// With each epoch a rank records its call: operation, dtype, count and the call's number. A rank
// that waits for another compares that record with its own, so data of another call is never read.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "formats.h"
#include "spin.h"

namespace {

constexpr int64_t SLOT_BYTES = 1 << 20;   // more values take several epochs
constexpr int64_t SMALL_BYTES = 1 << 15;  // up to here each rank sums everything itself
constexpr int BLOCK_FLOATS = 512;         // summed at a time, in the first-level cache

enum Operation : uint64_t { ALL_REDUCE, GATHER, BROADCAST, BARRIER };  // as in shared_memory.py
enum Result : int32_t { DONE, LATE, DIFFERENT };                       // as in shared_memory.py

struct Call {
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

}  // namespace

struct RankGroup {  // as in shared_memory.py
    char* memory;
    int32_t rank, size;
    int64_t spins;     // polls before a waiting rank yields its core between polls
    int64_t yield;     // nanoseconds before it sleeps until it is woken
    int64_t patience;  // nanoseconds before it gives up
    Call call;         // the last one that this rank began
};

namespace {

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

// Waits for a rank to announce `epoch`; false if it did not within group.patience.
bool has_announced(const RankGroup& group, int rank, uint64_t epoch) {
    const auto& peer = state(group, rank).epoch;
    for (int64_t i = 0; i < group.spins; i++) {
        if (peer.load(std::memory_order_acquire) >= epoch) return true;
        spin_pause();
    }
    const int64_t start = now();
    while (peer.load(std::memory_order_acquire) < epoch) {
        const int64_t waited = now() - start;
        if (waited > group.patience) return false;
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

// to[i] = the sum over the ranks of value first + i of their slots: float32, in rank order, rounded
// once. So all ranks compute the same bits.
template <class F>
void sum_slots(const RankGroup& group, uint64_t epoch, typename F::Type* to, int64_t first,
               int64_t count) {
    float sum[BLOCK_FLOATS];
    for (int64_t i = 0; i < count; i += BLOCK_FLOATS) {
        const int64_t n = std::min<int64_t>(BLOCK_FLOATS, count - i);
        for (int r = 0; r < group.size; r++) {
            const auto* values = slot<typename F::Type>(group, r, epoch) + first + i;
            for (int64_t k = 0; k < n; k += LANES) {
                const Floats part = load<F>(values + k, n - k);
                write(sum + k, r ? read<Floats>(sum + k) + part : part);
            }
        }
        store<F>(to + i, sum, n);
    }
}

// One epoch: each rank sums all values.
template <class F>
Result all_reduce_small(const RankGroup& group, typename F::Type* x, int64_t count) {
    using T = typename F::Type;
    const uint64_t epoch = next_epoch(group);
    if (const Result result = wait_for_all(group, epoch - 1)) return result;
    memcpy(slot<T>(group, group.rank, epoch), x, count * sizeof(T));
    announce(group, epoch);
    if (const Result result = wait_for_all(group, epoch)) return result;
    sum_slots<F>(group, epoch, x, 0, count);
    return DONE;
}

// Reduce-scatter, then all-gather, in two epochs: each rank sums its share, then all fetch the
// shares.
template <class F>
Result all_reduce_large(const RankGroup& group, typename F::Type* x, int64_t count) {
    using T = typename F::Type;
    const uint64_t epoch = next_epoch(group);
    if (const Result result = wait_for_all(group, epoch - 1)) return result;
    memcpy(slot<T>(group, group.rank, epoch), x, count * sizeof(T));
    announce(group, epoch);
    if (const Result result = wait_for_all(group, epoch)) return result;
    const auto start = [&](int r) {
        return count * r / group.size;
    };
    const int64_t first = start(group.rank);
    const int64_t share = start(group.rank + 1) - first;
    sum_slots<F>(group, epoch, slot<T>(group, group.rank, epoch + 1) + first, first, share);
    announce(group, epoch + 1);
    for (int r = 0; r < group.size; r++) {
        if (const Result result = wait_for(group, r, epoch + 1)) return result;
        memcpy(x + start(r), slot<T>(group, r, epoch + 1) + start(r),
               (start(r + 1) - start(r)) * sizeof(T));
    }
    return DONE;
}

template <class F>
Result all_reduce(RankGroup& group, uint64_t dtype, void* values, int64_t count) {
    using T = typename F::Type;
    constexpr int64_t slot_values = SLOT_BYTES / sizeof(T);
    auto* x = static_cast<T*>(values);
    begin_call(group, ALL_REDUCE, dtype, count);
    for (int64_t i = 0; i < count; i += slot_values) {
        const int64_t n = std::min(slot_values, count - i);
        const bool sum_everything = group.size == 2 || n * int64_t(sizeof(T)) <= SMALL_BYTES;
        const Result result = sum_everything ? all_reduce_small<F>(group, x + i, n)
                                             : all_reduce_large<F>(group, x + i, n);
        if (result) return result;
    }
    return DONE;
}

// Copies bytes [from, from + count) of a rank's rows to its columns of the joined rows, `width`
// apart.
void write_columns(char* to, int64_t width, int64_t row_bytes, const char* bytes, int64_t from,
                   int64_t count) {
    while (count > 0) {
        const int64_t row = from / row_bytes;
        const int64_t column = from % row_bytes;
        const int64_t n = std::min(count, row_bytes - column);
        memcpy(to + row * width + column, bytes, n);
        bytes += n, from += n, count -= n;
    }
}

}  // namespace

// All of these return DONE, LATE if a rank did not come in time, or DIFFERENT if a rank makes
// another call: its RankState says which, and none of its data was read.
extern "C" {

int64_t group_bytes(int32_t size) { return size * (sizeof(RankState) + 2 * SLOT_BYTES); }

// All-gathers one `word` per rank: the first half of a gather or broadcast, or a barrier.
Result group_meet(RankGroup* group, int64_t operation, int64_t word, int64_t* words) {
    begin_call(*group, Operation(operation), 0, 0);
    const uint64_t epoch = next_epoch(*group);
    if (const Result result = wait_for_all(*group, epoch - 1)) return result;
    state(*group, group->rank).word[epoch % 2] = word;
    announce(*group, epoch);
    if (const Result result = wait_for_all(*group, epoch)) return result;
    for (int r = 0; r < group->size; r++) words[r] = state(*group, r).word[epoch % 2];
    return DONE;
}

// All-reduces `count` values in place. `dtype` is the number of the dtype in the call record.
Result group_sum_float(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<Float32>(*group, dtype, x, count);
}

Result group_sum_bfloat16(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<BFloat16Exact>(*group, dtype, x, count);
}

Result group_sum_half(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<Float16>(*group, dtype, x, count);
}

// Gathers rows: rank r has `rows` rows of row_bytes[r] bytes, and rank 0 gets them side by side in
// `joined`; the other ranks do not wait for it. `count` goes into the call record: the part of the
// shape that must be equal on all ranks.
Result group_gather(RankGroup* group, int64_t dtype, int64_t count, const char* mine, int64_t rows,
                   const int64_t* row_bytes, char* joined) {
    begin_call(*group, GATHER, dtype, count);
    int64_t width = 0;
    int64_t slot_values = 0;
    for (int r = 0; r < group->size; r++)
        width += row_bytes[r], slot_values = std::max(slot_values, row_bytes[r]);
    if (group->rank == 0) write_columns(joined, width, row_bytes[0], mine, 0, rows * row_bytes[0]);
    for (int64_t from = 0; from < rows * slot_values; from += SLOT_BYTES) {
        const uint64_t epoch = next_epoch(*group);
        const auto part = [&](int r) {
            return std::clamp<int64_t>(rows * row_bytes[r] - from, 0, SLOT_BYTES);
        };
        if (const Result result = wait_for_all(*group, epoch - 1)) return result;
        if (group->rank)
            memcpy(slot<char>(*group, group->rank, epoch), mine + from, part(group->rank));
        announce(*group, epoch);
        if (group->rank) continue;
        char* columns = joined + row_bytes[0];
        for (int r = 1; r < group->size; columns += row_bytes[r++]) {
            if (const Result result = wait_for(*group, r, epoch)) return result;
            write_columns(columns, width, row_bytes[r], slot<char>(*group, r, epoch), from,
                          part(r));
        }
    }
    return DONE;
}

// Broadcasts rank 0's `count` bytes. Rank 0 does not wait for the others to read them.
Result group_broadcast(RankGroup* group, char* bytes, int64_t count) {
    begin_call(*group, BROADCAST, 0, count);
    for (int64_t from = 0; from < count; from += SLOT_BYTES) {
        const uint64_t epoch = next_epoch(*group);
        const int64_t n = std::min(SLOT_BYTES, count - from);
        if (const Result result = wait_for_all(*group, epoch - 1)) return result;
        if (group->rank == 0) memcpy(slot<char>(*group, 0, epoch), bytes + from, n);
        announce(*group, epoch);
        if (group->rank == 0) continue;
        if (const Result result = wait_for(*group, 0, epoch)) return result;
        memcpy(bytes + from, slot<char>(*group, 0, epoch), n);
    }
    return DONE;
}

}  // extern "C"
