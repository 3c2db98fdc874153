// Collectives between the ranks of one machine through shared memory: all-reduce, gather, broadcast
// and barrier, in the epochs of rank_group.h.

#include <algorithm>
#include <cstring>

#include "formats.h"
#include "rank_group.h"

namespace {

constexpr int64_t SMALL_BYTES = 1 << 15;  // up to here each rank sums everything itself
constexpr int BLOCK_FLOATS = 512;         // summed at a time, in the first-level cache

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

// Copies this rank's `count` values to its slot and waits until all ranks have done so.
template <class T>
Result share_values(const RankGroup& group, uint64_t epoch, const T* x, int64_t count) {
    const auto write_slot = [&] {
        memcpy(slot<T>(group, group.rank, epoch), x, count * sizeof(T));
    };
    return publish_and_wait(group, epoch, write_slot);
}

// One epoch: each rank sums all values.
template <class F>
Result all_reduce_small(const RankGroup& group, typename F::Type* x, int64_t count) {
    const uint64_t epoch = next_epoch(group);
    if (const Result result = share_values(group, epoch, x, count)) return result;
    sum_slots<F>(group, epoch, x, 0, count);
    return DONE;
}

// Reduce-scatter, then all-gather, in two epochs: each rank sums its share, then all fetch the
// shares.
template <class F>
Result all_reduce_large(const RankGroup& group, typename F::Type* x, int64_t count) {
    using T = typename F::Type;
    const uint64_t epoch = next_epoch(group);
    if (const Result result = share_values(group, epoch, x, count)) return result;
    const auto start = [&](int r) {
        return count * r / group.size;
    };
    const int64_t first = start(group.rank);
    const int64_t share = start(group.rank + 1) - first;
    sum_slots<F>(group, epoch, slot<T>(group, group.rank, epoch + 1) + first, first, share);
    announce(group, epoch + 1);  // share_values waited for all to announce `epoch`
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

// Copies bytes [from, from + count) of a rank's rows [row_bytes] to its columns `to` of the joined
// rows [width].
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

// All but group_bytes return DONE, LATE if a rank did not announce the epoch in time, or DIFFERENT
// if a rank makes another call: its RankState says which, and none of its data was read.
extern "C" {

// Bytes of shared memory that a group of `size` ranks needs.
int64_t group_bytes(int32_t size) { return size * (sizeof(RankState) + 2 * SLOT_BYTES); }

// All-gathers one `word` per rank into words [size]. It is a barrier, or tells all ranks the sizes
// of the gather or broadcast that follows.
Result group_all_gather_word(RankGroup* group, int64_t operation, int64_t word, int64_t* words) {
    begin_call(*group, Operation(operation), 0, 0);
    const uint64_t epoch = next_epoch(*group);
    const auto write_word = [&] {
        state(*group, group->rank).word[epoch % 2] = word;
    };
    if (const Result result = publish_and_wait(*group, epoch, write_word)) return result;
    for (int r = 0; r < group->size; r++) words[r] = state(*group, r).word[epoch % 2];
    return DONE;
}

// All-reduces x [count] in place. `dtype` is the number of the dtype in the call record.
Result group_all_reduce_float32(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<Float32>(*group, dtype, x, count);
}

Result group_all_reduce_bfloat16(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<BFloat16Exact>(*group, dtype, x, count);
}

Result group_all_reduce_float16(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce<Float16>(*group, dtype, x, count);
}

// Gathers rows: rank r has `rows` rows of row_bytes[r] bytes, and rank 0 gets them side by side in
// `joined`; the other ranks do not wait for it. `count` goes into the call record: the part of the
// shape that must be equal on all ranks.
Result group_gather(RankGroup* group, int64_t dtype, int64_t count, const char* mine, int64_t rows,
                   const int64_t* row_bytes, char* joined) {
    begin_call(*group, GATHER, dtype, count);
    int64_t width = 0;
    int64_t longest_row = 0;
    for (int r = 0; r < group->size; r++)
        width += row_bytes[r], longest_row = std::max(longest_row, row_bytes[r]);
    if (group->rank == 0) write_columns(joined, width, row_bytes[0], mine, 0, rows * row_bytes[0]);
    for (int64_t from = 0; from < rows * longest_row; from += SLOT_BYTES) {
        const uint64_t epoch = next_epoch(*group);
        const auto part = [&](int r) {
            return std::clamp<int64_t>(rows * row_bytes[r] - from, 0, SLOT_BYTES);
        };
        const auto write_slot = [&] {
            if (group->rank)
                memcpy(slot<char>(*group, group->rank, epoch), mine + from, part(group->rank));
        };
        if (const Result result = publish(*group, epoch, write_slot)) return result;
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

// Broadcasts rank 0's `count` bytes into `bytes` of the others. Rank 0 does not wait for them to
// read.
Result group_broadcast(RankGroup* group, char* bytes, int64_t count) {
    begin_call(*group, BROADCAST, 0, count);
    for (int64_t from = 0; from < count; from += SLOT_BYTES) {
        const uint64_t epoch = next_epoch(*group);
        const int64_t n = std::min(SLOT_BYTES, count - from);
        const auto write_slot = [&] {
            if (group->rank == 0) memcpy(slot<char>(*group, 0, epoch), bytes + from, n);
        };
        if (const Result result = publish(*group, epoch, write_slot)) return result;
        if (group->rank == 0) continue;
        if (const Result result = wait_for(*group, 0, epoch)) return result;
        memcpy(bytes + from, slot<char>(*group, 0, epoch), n);
    }
    return DONE;
}

}  // extern "C"
