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

constexpr int64_t SLOT = 1 << 20;   // bytes: more go in turns
constexpr int64_t SMALL = 1 << 15;  // bytes up to which every rank adds up everything itself
constexpr int BLOCK = 512;          // floats added up at a time, in the first-level cache

enum Operation : uint64_t { ALL_REDUCE, GATHER, BROADCAST, BARRIER };  // as in shared.py
enum Result : int32_t { DONE, LATE, DIFFERENT };                       // as in shared.py

struct Call {
    uint64_t number;  // of this rank's calls, the first is 1
    uint64_t what;    // bits 60 to 63: Operation, 52 to 59: dtype, 0 to 51: count of values
    bool operator==(const Call& other) const { return number == other.number && what == other.what; }
};

struct alignas(128) Line {  // 128: neighbouring lines are fetched together
    std::atomic<uint64_t> epoch;  // its lower half is what the others sleep on
    std::atomic<uint32_t> sleepers;
    int64_t word[2];
    Call call[2];  // of the last two epochs
};
static_assert(sizeof(Line) == 128 && offsetof(Line, call) == 32, "as in shared.py");
static_assert(std::atomic<uint64_t>::is_always_lock_free, "a lock would be private to each process");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half comes first");

}  // namespace

struct Team {  // as in shared.py
    char* memory;
    int32_t rank, size;
    int64_t spins;            // looks before a waiting rank lets others run on its core between two looks
    int64_t yield, patience;  // nanoseconds before it sleeps until it is woken, and before it gives up
    Call call;                // the last one that this rank began
};

namespace {

Line& line(const Team& team, int rank) { return reinterpret_cast<Line*>(team.memory)[rank]; }

template <typename T>
T* slot(const Team& team, int rank, uint64_t epoch) {
    return reinterpret_cast<T*>(team.memory + team.size * sizeof(Line) + (rank * 2 + epoch % 2) * SLOT);
}

int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

long futex(Line& there, int operation, uint32_t value, const timespec* limit = nullptr) {
    return syscall(SYS_futex, &there.epoch, operation, value, limit, nullptr, 0);
}

// Until the rank of this line announces something, or a tenth of a second.
void sleep(Line& there, uint64_t epoch) {
    const timespec limit{0, 100'000'000};
    there.sleepers++;
    const uint64_t seen = there.epoch.load();
    if (seen < epoch) futex(there, FUTEX_WAIT, uint32_t(seen), &limit);
    there.sleepers--;
}

bool came(const Team& team, int rank, uint64_t epoch) {
    const auto& there = line(team, rank).epoch;
    for (int64_t i = 0; i < team.spins; i++) {
        if (there.load(std::memory_order_acquire) >= epoch) return true;
        rest();
    }
    const int64_t start = now();
    while (there.load(std::memory_order_acquire) < epoch) {
        const int64_t waited = now() - start;
        if (waited > team.patience) return false;
        if (waited < team.yield) sched_yield();
        else sleep(line(team, rank), epoch);
    }
    return true;
}

// `epoch` is the last one that this rank announced, so no rank writes over its call of that epoch meanwhile.
Result wait_for(const Team& team, int rank, uint64_t epoch) {
    if (!came(team, rank, epoch)) return LATE;
    return line(team, rank).call[epoch % 2] == line(team, team.rank).call[epoch % 2] ? DONE : DIFFERENT;
}

Result wait_for_all(const Team& team, uint64_t epoch) {
    for (int r = 0; r < team.size; r++)
        if (const Result result = wait_for(team, r, epoch)) return result;
    return DONE;
}

uint64_t next(const Team& team) { return line(team, team.rank).epoch.load(std::memory_order_relaxed) + 1; }

void begin(Team& team, Operation operation, uint64_t dtype, int64_t count) {
    team.call = {team.call.number + 1, operation << 60 | dtype << 52 | uint64_t(count)};
}

void announce(const Team& team, uint64_t epoch) {
    Line& mine = line(team, team.rank);
    mine.call[epoch % 2] = team.call;
    mine.epoch.store(epoch);  // in order with the next line: who is about to sleep sees this epoch, or is seen here
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
        to[i].bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;  // rounding up could make a NaN a number
    }
}

#if defined(__F16C__)
template <>
void widen(float* to, const Half* from, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
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
void add_up(const Team& team, uint64_t epoch, T* to, int64_t first, int64_t count) {
    float sum[BLOCK], term[BLOCK];
    for (int64_t i = 0; i < count; i += BLOCK) {
        const int n = int(std::min<int64_t>(BLOCK, count - i));
        widen(sum, slot<T>(team, 0, epoch) + first + i, n);
        for (int r = 1; r < team.size; r++) {
            widen(term, slot<T>(team, r, epoch) + first + i, n);
            for (int k = 0; k < n; k++) sum[k] += term[k];
        }
        narrow(to + i, sum, n);
    }
}

template <typename T>
Result sum_small(const Team& team, T* x, int64_t count) {
    const uint64_t epoch = next(team);
    if (const Result result = wait_for_all(team, epoch - 1)) return result;
    memcpy(slot<T>(team, team.rank, epoch), x, count * sizeof(T));
    announce(team, epoch);
    if (const Result result = wait_for_all(team, epoch)) return result;
    add_up(team, epoch, x, 0, count);
    return DONE;
}

// Two epochs: in the first each rank adds up its share of the values, in the second all fetch the shares.
template <typename T>
Result sum_large(const Team& team, T* x, int64_t count) {
    const uint64_t epoch = next(team);
    if (const Result result = wait_for_all(team, epoch - 1)) return result;
    memcpy(slot<T>(team, team.rank, epoch), x, count * sizeof(T));
    announce(team, epoch);
    if (const Result result = wait_for_all(team, epoch)) return result;
    const auto start = [&](int r) { return count * r / team.size; };
    const int64_t first = start(team.rank), share = start(team.rank + 1) - first;
    add_up(team, epoch, slot<T>(team, team.rank, epoch + 1) + first, first, share);
    announce(team, epoch + 1);
    for (int r = 0; r < team.size; r++) {
        if (const Result result = wait_for(team, r, epoch + 1)) return result;
        memcpy(x + start(r), slot<T>(team, r, epoch + 1) + start(r), (start(r + 1) - start(r)) * sizeof(T));
    }
    return DONE;
}

template <typename T>
Result sum(Team& team, uint64_t dtype, T* x, int64_t count) {
    constexpr int64_t most = SLOT / sizeof(T);
    begin(team, ALL_REDUCE, dtype, count);
    for (int64_t i = 0; i < count; i += most) {
        const int64_t n = std::min(most, count - i);
        const bool all_of_it = team.size == 2 || n * int64_t(sizeof(T)) <= SMALL;
        const Result result = all_of_it ? sum_small(team, x + i, n) : sum_large(team, x + i, n);
        if (result) return result;
    }
    return DONE;
}

// Bytes [from, from + count) of a rank's rows go to its columns of the joined rows, `width` bytes apart.
void place(char* to, int64_t width, int64_t row_bytes, const char* bytes, int64_t from, int64_t count) {
    while (count > 0) {
        const int64_t row = from / row_bytes, column = from % row_bytes, n = std::min(count, row_bytes - column);
        memcpy(to + row * width + column, bytes, n);
        bytes += n, from += n, count -= n;
    }
}

}  // namespace

// All of these return DONE; LATE when a rank did not come in time; DIFFERENT when a rank makes another call: its line
// says which, and nothing of it was read.
extern "C" {

int64_t team_bytes(int32_t size) { return size * (sizeof(Line) + 2 * SLOT); }

// Every rank's `word`, on every rank: the first half of a gather or broadcast, or a barrier.
Result team_meet(Team* team, int64_t operation, int64_t word, int64_t* words) {
    begin(*team, Operation(operation), 0, 0);
    const uint64_t epoch = next(*team);
    if (const Result result = wait_for_all(*team, epoch - 1)) return result;
    line(*team, team->rank).word[epoch % 2] = word;
    announce(*team, epoch);
    if (const Result result = wait_for_all(*team, epoch)) return result;
    for (int r = 0; r < team->size; r++) words[r] = line(*team, r).word[epoch % 2];
    return DONE;
}

// The sum over the ranks of `count` values, in place. `dtype` is a number that tells the dtypes apart.
Result team_sum_float(Team* team, int64_t dtype, void* x, int64_t count) {
    return sum(*team, dtype, static_cast<Float*>(x), count);
}

Result team_sum_bfloat16(Team* team, int64_t dtype, void* x, int64_t count) {
    return sum(*team, dtype, static_cast<BFloat16*>(x), count);
}

Result team_sum_half(Team* team, int64_t dtype, void* x, int64_t count) {
    return sum(*team, dtype, static_cast<Half*>(x), count);
}

// Rank r has `rows` rows of row_bytes[r] bytes; rank 0 gets them side by side in `joined`. The others need not wait.
// `count` is what all ranks must have alike: the values of a row and column of theirs.
Result team_gather(Team* team, int64_t dtype, int64_t count, const char* mine, int64_t rows, const int64_t* row_bytes,
                   char* joined) {
    begin(*team, GATHER, dtype, count);
    int64_t width = 0, most = 0;
    for (int r = 0; r < team->size; r++) width += row_bytes[r], most = std::max(most, row_bytes[r]);
    if (team->rank == 0) place(joined, width, row_bytes[0], mine, 0, rows * row_bytes[0]);
    for (int64_t from = 0; from < rows * most; from += SLOT) {
        const uint64_t epoch = next(*team);
        const auto part = [&](int r) { return std::clamp<int64_t>(rows * row_bytes[r] - from, 0, SLOT); };
        if (const Result result = wait_for_all(*team, epoch - 1)) return result;
        if (team->rank) memcpy(slot<char>(*team, team->rank, epoch), mine + from, part(team->rank));
        announce(*team, epoch);
        if (team->rank) continue;
        char* columns = joined + row_bytes[0];
        for (int r = 1; r < team->size; columns += row_bytes[r++]) {
            if (const Result result = wait_for(*team, r, epoch)) return result;
            place(columns, width, row_bytes[r], slot<char>(*team, r, epoch), from, part(r));
        }
    }
    return DONE;
}

// Rank 0's `count` bytes, on every rank. Rank 0 does not wait for the others to read them.
Result team_tell(Team* team, char* bytes, int64_t count) {
    begin(*team, BROADCAST, 0, count);
    for (int64_t from = 0; from < count; from += SLOT) {
        const uint64_t epoch = next(*team);
        const int64_t n = std::min(SLOT, count - from);
        if (const Result result = wait_for_all(*team, epoch - 1)) return result;
        if (team->rank == 0) memcpy(slot<char>(*team, 0, epoch), bytes + from, n);
        announce(*team, epoch);
        if (team->rank == 0) continue;
        if (const Result result = wait_for(*team, 0, epoch)) return result;
        memcpy(bytes + from, slot<char>(*team, 0, epoch), n);
    }
    return DONE;
}

}  // extern "C"
