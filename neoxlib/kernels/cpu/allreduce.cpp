// The ranks of one machine meet in a piece of shared memory: sums, gathers and messages between processes.
//
// Each rank has a line, which says how many epochs it has announced, and two slots. All ranks go through the same
// epochs. In epoch e a rank writes into its slot e % 2, announces e, and reads the others' slots once they announced e.
// "r announced e" thus says two things: what r has to say in e is written, and r has read all that it wants of e - 1.
// So slot e % 2 is free as soon as all have announced e - 1, and one wait an epoch is enough.
//
// With each epoch a rank writes down its call: operation, dtype, count and the call's number. Whoever waits for a rank
// compares that with its own call, so data of another call is never read.

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
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t SLOT_BYTES = 1 << 20;   // bytes: more go in turns
constexpr int64_t SMALL_BYTES = 1 << 15;  // bytes up to which every rank adds up everything itself
constexpr int BLOCK_FLOATS = 512;         // floats added up at a time, in the first-level cache

enum Operation : uint64_t { ALL_REDUCE, GATHER, BROADCAST, BARRIER };  // as in shared.py
enum Result : int32_t { DONE, LATE, DIFFERENT };                       // as in shared.py

struct Call {
    uint64_t number;  // of this rank's calls, the first is 1
    uint64_t what;    // bits 60 to 63: Operation, 52 to 59: dtype, 0 to 51: count of values
    bool operator==(const Call& other) const {
        return number == other.number && what == other.what;
    }
};

struct alignas(128) RankState {   // 128: neighbouring lines are fetched together
    std::atomic<uint64_t> epoch;  // its lower half is what the others sleep on
    std::atomic<uint32_t> sleepers;
    int64_t word[2];
    Call call[2];  // of the last two epochs
};
static_assert(sizeof(RankState) == 128 && offsetof(RankState, call) == 32, "as in shared.py");
static_assert(std::atomic<uint64_t>::is_always_lock_free,
              "a lock would be private to each process");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half comes first");

}  // namespace

struct RankGroup {  // as in shared.py
    char* memory;
    int32_t rank, size;
    int64_t spins;  // looks before a waiting rank lets others run on its core between two looks
    int64_t yield,
        patience;  // nanoseconds before it sleeps until it is woken, and before it gives up
    Call call;     // the last one that this rank began
};

namespace {

RankState& state(const RankGroup& group, int rank) {
    return reinterpret_cast<RankState*>(group.memory)[rank];
}

template <typename T>
T* slot(const RankGroup& group, int rank, uint64_t epoch) {
    return reinterpret_cast<T*>(group.memory + group.size * sizeof(RankState) +
                                (rank * 2 + epoch % 2) * SLOT_BYTES);
}

int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

void spin_pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

long futex(RankState& peer, int operation, uint32_t value, const timespec* limit = nullptr) {
    return syscall(SYS_futex, &peer.epoch, operation, value, limit, nullptr, 0);
}

// Until the rank of this line announces something, or a tenth of a second.
void sleep(RankState& peer, uint64_t epoch) {
    const timespec limit{0, 100'000'000};
    peer.sleepers++;
    const uint64_t seen = peer.epoch.load();
    if (seen < epoch) futex(peer, FUTEX_WAIT, uint32_t(seen), &limit);
    peer.sleepers--;
}

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

// `epoch` is the last one that this rank announced, so no rank writes over its call of that epoch meanwhile.
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
    mine.epoch.store(
        epoch);  // in order with the next line: who is about to sleep sees this epoch, or is seen here
    if (mine.sleepers.load()) futex(mine, FUTEX_WAKE, INT32_MAX);
}

// Number formats: each widens to float and narrows to the nearest, ties to even.

struct Float {
    float value;
};
struct BFloat16 {
    uint16_t bits;
};
#if defined(__F16C__)
struct Half {
    uint16_t bits;
};
#elif defined(__aarch64__)
struct Half {
    __fp16 value;
};
#else
struct Half {
    _Float16 value;
};
#endif

template <typename T>
void widen(float* to, const T* from, int n) {
    for (int i = 0; i < n; i++) to[i] = from[i].value;
}

template <typename T>
void narrow(T* to, const float* from, int n) {
    for (int i = 0; i < n; i++) to[i].value = from[i];
}

template <>
void widen(float* to, const BFloat16* from, int n) {
    for (int i = 0; i < n; i++) {
        const uint32_t bits = uint32_t(from[i].bits) << 16;
        memcpy(to + i, &bits, 4);
    }
}

template <>
void narrow(BFloat16* to, const float* from, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i].bits = (bits & 0x7fffffff) > 0x7f800000
                         ? 0x7fc0
                         : rounded;  // rounding up could make a NaN a number
    }
}

#if defined(__F16C__)
template <>
void widen(float* to, const Half* from, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(
            to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    for (; i < n; i++) to[i] = _cvtsh_ss(from[i].bits);
}

template <>
void narrow(Half* to, const float* from, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), eight);
    }
    for (; i < n; i++) to[i].bits = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT);
}
#endif

// to[i] = the sum over the ranks, in their order and in float, of value first + i of their slots: the same on all.
template <typename T>
void sum_slots(const RankGroup& group, uint64_t epoch, T* to, int64_t first, int64_t count) {
    float sum[BLOCK_FLOATS], part[BLOCK_FLOATS];
    for (int64_t i = 0; i < count; i += BLOCK_FLOATS) {
        const int n = int(std::min<int64_t>(BLOCK_FLOATS, count - i));
        widen(sum, slot<T>(group, 0, epoch) + first + i, n);
        for (int r = 1; r < group.size; r++) {
            widen(part, slot<T>(group, r, epoch) + first + i, n);
            for (int k = 0; k < n; k++) sum[k] += part[k];
        }
        narrow(to + i, sum, n);
    }
}

template <typename T>
Result all_reduce_small(const RankGroup& group, T* x, int64_t count) {
    const uint64_t epoch = next_epoch(group);
    if (const Result result = wait_for_all(group, epoch - 1)) return result;
    memcpy(slot<T>(group, group.rank, epoch), x, count * sizeof(T));
    announce(group, epoch);
    if (const Result result = wait_for_all(group, epoch)) return result;
    sum_slots(group, epoch, x, 0, count);
    return DONE;
}

// Two epochs: in the first each rank adds up its share of the values, in the second all fetch the shares.
template <typename T>
Result all_reduce_large(const RankGroup& group, T* x, int64_t count) {
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
    sum_slots(group, epoch, slot<T>(group, group.rank, epoch + 1) + first, first, share);
    announce(group, epoch + 1);
    for (int r = 0; r < group.size; r++) {
        if (const Result result = wait_for(group, r, epoch + 1)) return result;
        memcpy(x + start(r), slot<T>(group, r, epoch + 1) + start(r),
               (start(r + 1) - start(r)) * sizeof(T));
    }
    return DONE;
}

template <typename T>
Result all_reduce(RankGroup& group, uint64_t dtype, T* x, int64_t count) {
    constexpr int64_t slot_values = SLOT_BYTES / sizeof(T);
    begin_call(group, ALL_REDUCE, dtype, count);
    for (int64_t i = 0; i < count; i += slot_values) {
        const int64_t n = std::min(slot_values, count - i);
        const bool sum_everything = group.size == 2 || n * int64_t(sizeof(T)) <= SMALL_BYTES;
        const Result result =
            sum_everything ? all_reduce_small(group, x + i, n) : all_reduce_large(group, x + i, n);
        if (result) return result;
    }
    return DONE;
}

// Bytes [from, from + count) of a rank's rows go to its columns of the joined rows, `width` bytes apart.
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

// All of these return DONE; LATE when a rank did not come in time; DIFFERENT when a rank makes another call: its line
// says which, and nothing of it was read.
extern "C" {

int64_t team_bytes(int32_t size) { return size * (sizeof(RankState) + 2 * SLOT_BYTES); }

// Every rank's `word`, on every rank: the first half of a gather or broadcast, or a barrier.
Result team_meet(RankGroup* group, int64_t operation, int64_t word, int64_t* words) {
    begin_call(*group, Operation(operation), 0, 0);
    const uint64_t epoch = next_epoch(*group);
    if (const Result result = wait_for_all(*group, epoch - 1)) return result;
    state(*group, group->rank).word[epoch % 2] = word;
    announce(*group, epoch);
    if (const Result result = wait_for_all(*group, epoch)) return result;
    for (int r = 0; r < group->size; r++) words[r] = state(*group, r).word[epoch % 2];
    return DONE;
}

// The sum over the ranks of `count` values, in place. `dtype` is a number that tells the dtypes apart.
Result team_sum_float(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce(*group, dtype, static_cast<Float*>(x), count);
}

Result team_sum_bfloat16(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce(*group, dtype, static_cast<BFloat16*>(x), count);
}

Result team_sum_half(RankGroup* group, int64_t dtype, void* x, int64_t count) {
    return all_reduce(*group, dtype, static_cast<Half*>(x), count);
}

// Rank r has `rows` rows of row_bytes[r] bytes; rank 0 gets them side by side in `joined`. The others need not wait.
// `count` is what all ranks must have alike: the values of a row and column of theirs.
Result team_gather(RankGroup* group, int64_t dtype, int64_t count, const char* mine, int64_t rows,
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

// Rank 0's `count` bytes, on every rank. Rank 0 does not wait for the others to read them.
Result team_tell(RankGroup* group, char* bytes, int64_t count) {
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
