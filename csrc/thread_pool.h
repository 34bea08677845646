// A pool of N-1 workers and the caller. It knows nothing of arrays or kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace octavo {

// Work on the items [begin, end). Must not throw. Called from several threads at once.
using RangeBody = void (*)(void* context, int64_t begin, int64_t end);

// One of several pieces of work, done one after the other: items in any order, by any thread, in
// ranges of at most `block`. `thread` is 0 for the caller, up to num_threads - 1.
struct Stage {
  void (*body)(void* context, int64_t begin, int64_t end, int thread);
  void* context;
  int64_t num_items;
  int64_t block;
  const char* kind = "";  // for profiles
};

// The stage that runs `Owner::run(begin, end, thread)`.
template <typename Owner>
Stage stage_of(Owner* owner, int64_t num_items, const char* kind) {
  const auto body = [](void* context, int64_t begin, int64_t end, int thread) {
    static_cast<Owner*>(context)->run(begin, end, thread);
  };
  return Stage{body, owner, num_items, 1, kind};
}

// Each thread has a share of the items, side by side, and claims it in blocks from the front: what
// it reads stands in a row, and what comes next can be fetched early. Who is through with a share
// goes on with what is left of the others', so a thread that the operating system has preempted
// costs one block, not a share. Kernels give the same bits whoever claims a block.
//
// A worker joins a run only while it is open. A worker that wakes late finds the run closed and
// goes back to sleep: the caller waits for those that joined, never for those that slept.
//
// A run goes through its stages; the next one begins when all items of the one before are done.
// What counts is the items, not the threads: nobody waits for a thread that has claimed nothing.
//
// Several threads may call run(); those that use the workers take turns.
//
// After fork() the child has no workers. The child's copy of a pool then does all work on the
// calling thread, takes none of the parent's locks, and is never joined. A pool made in the child
// is a full one.
class ThreadPool {
 public:
  // num_threads counts the caller; at least 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body on disjoint ranges of at most `block` items that cover [0, num_items); returns when
  // all are done. Bodies run in FloatingPointMode.
  void run(int64_t num_items, int64_t block, RangeBody body, void* context);

  // The same for several stages with one waking of the workers.
  // `seconds`: null, or (num_stages,): receives how long each took.
  void run_stages(const Stage* stages, int64_t num_stages, double* seconds = nullptr);

 private:
  static constexpr uint32_t kOpen = 1u << 31;

  // Of one stage; in lines of the cache, of which a stage has several if there are many threads.
  class Progress {
   public:
    struct alignas(64) Line {
      std::atomic<int64_t> words[8];
    };

    Progress(Line* lines, int num_threads) : lines_(lines), num_threads_(num_threads) {}

    static int64_t num_lines(int num_threads) { return (num_threads + 8) / 8; }

    void begin(const Stage& stage);
    // The next block of a thread's own share, or of another one's; false if all are claimed.
    bool claim(const Stage& stage, int thread, int64_t* begin, int64_t* end);

    std::atomic<int64_t>& done() { return word(0); }  // items finished

   private:
    std::atomic<int64_t>& word(int index) { return lines_[index / 8].words[index % 8]; }
    std::atomic<int64_t>& next(int thread) { return word(1 + thread); }  // block of its share
    int64_t share(const Stage& stage, int thread) const {                // its first block
      return (stage.num_items + stage.block - 1) / stage.block * thread / num_threads_;
    }

    Line* lines_;
    int num_threads_;
  };

  // Everything that threads touch. It outlives the pool in a forked child, where it is leaked.
  struct Shared {
    std::mutex turn;  // one run at a time

    // Written by the caller while `state` is 0, read by workers that joined.
    const Stage* stages = nullptr;
    int64_t num_stages = 0;
    double* seconds = nullptr;
    std::unique_ptr<Progress::Line[]> progress;  // (progress_size,) some for each stage
    int64_t progress_size = 0;                   // lines
    int num_threads = 0;  // that have a share; also where the system refused some of them

    Progress progress_of(int64_t stage) {
      return Progress(&progress[stage * Progress::num_lines(num_threads)], num_threads);
    }

    alignas(64) std::atomic<uint32_t> state{0};   // kOpen | workers inside
    alignas(64) std::atomic<uint32_t> signal{0};  // grows by one a run; workers sleep on it
    std::atomic<bool> stopping{false};
    std::vector<std::thread> workers;
  };

  static void work(Shared& shared, int thread);
  static void go_through(Shared& shared, int thread);

  int num_threads_;
  uint32_t fork_generation_;
  Shared* shared_;
};

}  // namespace octavo
