// The pool's threads and its barrier: spin, then yield, then sleep in the kernel.
#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "floating_point_mode.h"

namespace octavo {
namespace {

std::atomic<uint32_t> fork_generation{0};

// Counts the forks that this process descends from, so that a pool can tell that it was copied.
void watch_forks() {
  static const int registered = pthread_atfork(
      nullptr, nullptr, [] { fork_generation.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The next stage of a step comes within microseconds, the next step within a millisecond.
constexpr int kSpins = 2000;
constexpr int kYields = 50;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Returns once `word` holds what `is_over` wants, with that value.
template <typename Value, typename Condition>
Value wait_until(const std::atomic<Value>& word, Condition is_over) {
  for (int i = 0; i < kSpins; ++i) {
    const Value value = word.load(std::memory_order_acquire);
    if (is_over(value)) return value;
    pause();
  }
  for (int i = 0; i < kYields; ++i) {
    const Value value = word.load(std::memory_order_acquire);
    if (is_over(value)) return value;
    sched_yield();
  }
  for (;;) {
    const Value value = word.load(std::memory_order_acquire);
    if (is_over(value)) return value;
    word.wait(value, std::memory_order_acquire);
  }
}

uint32_t wait_for_change(const std::atomic<uint32_t>& word, uint32_t old_value) {
  return wait_until(word, [old_value](uint32_t value) { return value != old_value; });
}

}  // namespace

void ThreadPool::Progress::begin(const Stage& stage) {
  done().store(0, std::memory_order_relaxed);
  for (int t = 0; t < num_threads_; ++t) {
    next(t).store(share(stage, t), std::memory_order_relaxed);
  }
}

bool ThreadPool::Progress::claim(const Stage& stage, int thread, int64_t* begin, int64_t* end) {
  for (int i = 0; i < num_threads_; ++i) {
    const int owner = thread + i < num_threads_ ? thread + i : thread + i - num_threads_;
    const int64_t limit = share(stage, owner + 1);
    if (next(owner).load(std::memory_order_relaxed) >= limit) continue;
    const int64_t block = next(owner).fetch_add(1, std::memory_order_relaxed);
    if (block >= limit) continue;  // somebody was quicker
    *begin = block * stage.block;
    *end = std::min(*begin + stage.block, stage.num_items);
    return true;
  }
  return false;
}

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  watch_forks();
  fork_generation_ = fork_generation.load(std::memory_order_relaxed);
  shared_ = new Shared;
  shared_->num_threads = num_threads;
  try {
    shared_->workers.reserve(num_threads - 1);
    for (int i = 1; i < num_threads; ++i) {
      shared_->workers.emplace_back([shared = shared_, i] { work(*shared, i); });
    }
  } catch (...) {  // the system has no more threads: end those that started
    num_threads_ = static_cast<int>(shared_->workers.size()) + 1;
    this->~ThreadPool();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  // In a forked child the workers do not exist: joining them would wait for ever.
  if (fork_generation.load(std::memory_order_relaxed) != fork_generation_) return;
  shared_->stopping.store(true, std::memory_order_relaxed);
  shared_->signal.fetch_add(1, std::memory_order_release);
  shared_->signal.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
  delete shared_;
}

void ThreadPool::go_through(Shared& shared, int thread) {
  const FloatingPointMode mode;
  double* seconds = thread == 0 ? shared.seconds : nullptr;
  double began = seconds == nullptr ? 0.0 : now();
  for (int64_t s = 0; s < shared.num_stages; ++s) {
    const Stage& stage = shared.stages[s];
    Progress progress = shared.progress_of(s);
    const int64_t num_items = stage.num_items;
    int64_t begin = 0, end = 0;
    while (progress.claim(stage, thread, &begin, &end)) {
      stage.body(stage.context, begin, end, thread);
      const int64_t done = progress.done().fetch_add(end - begin, std::memory_order_acq_rel);
      if (done + end - begin == num_items) progress.done().notify_all();
    }
    wait_until(progress.done(), [num_items](int64_t done) { return done == num_items; });
    if (seconds == nullptr) continue;
    const double ended = now();
    seconds[s] = ended - began;
    began = ended;
  }
}

void ThreadPool::work(Shared& shared, int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_for_change(shared.signal, seen);
    if (shared.stopping.load(std::memory_order_relaxed)) return;
    uint32_t state = shared.state.load(std::memory_order_relaxed);
    bool joined = false;
    while ((state & kOpen) != 0 && !joined) {
      joined = shared.state.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                                  std::memory_order_relaxed);
    }
    if (!joined) continue;
    go_through(shared, thread);
    // The caller sleeps, if at all, until the last worker has left a closed run.
    if (shared.state.fetch_sub(1, std::memory_order_release) == 1) shared.state.notify_one();
  }
}

void ThreadPool::run(int64_t num_items, int64_t block, RangeBody body, void* context) {
  struct Call {
    RangeBody body;
    void* context;
  } call{body, context};
  const auto run_range = [](void* self, int64_t begin, int64_t end, int) {
    const Call& call = *static_cast<Call*>(self);
    call.body(call.context, begin, end);
  };
  const Stage stage{run_range, &call, num_items, block, ""};
  run_stages(&stage, 1);
}

void ThreadPool::run_stages(const Stage* stages, int64_t num_stages, double* seconds) {
  const auto is_small = [](const Stage& stage) { return stage.num_items <= stage.block; };
  if (num_threads_ == 1 || std::all_of(stages, stages + num_stages, is_small) ||
      fork_generation.load(std::memory_order_relaxed) != fork_generation_) {
    const FloatingPointMode mode;
    for (int64_t s = 0; s < num_stages; ++s) {
      const Stage& stage = stages[s];
      const double began = seconds == nullptr ? 0.0 : now();
      if (stage.num_items > 0) stage.body(stage.context, 0, stage.num_items, 0);
      if (seconds != nullptr) seconds[s] = now() - began;
    }
    return;
  }
  Shared& shared = *shared_;
  const std::lock_guard<std::mutex> turn(shared.turn);
  const int64_t num_lines = num_stages * Progress::num_lines(shared.num_threads);
  if (num_lines > shared.progress_size) {
    shared.progress = std::make_unique<Progress::Line[]>(num_lines);
    shared.progress_size = num_lines;
  }
  for (int64_t s = 0; s < num_stages; ++s) shared.progress_of(s).begin(stages[s]);
  shared.stages = stages;
  shared.num_stages = num_stages;
  shared.seconds = seconds;
  shared.state.store(kOpen, std::memory_order_release);
  shared.signal.fetch_add(1, std::memory_order_release);
  shared.signal.notify_all();
  go_through(shared, 0);
  uint32_t state = shared.state.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  while (state != 0) state = wait_for_change(shared.state, state);
}

}  // namespace octavo
