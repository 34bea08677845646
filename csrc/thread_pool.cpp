// The pool's threads and its barrier: spin, then yield, then sleep in the kernel.
#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>

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

// The next layer of a model comes within microseconds, the next request within milliseconds.
constexpr int kSpins = 2000;
constexpr int kYields = 50;

// Returns once `word` differs from `old_value`, with the new value.
uint32_t wait_for_change(const std::atomic<uint32_t>& word, uint32_t old_value) {
  for (int i = 0; i < kSpins; ++i) {
    const uint32_t value = word.load(std::memory_order_acquire);
    if (value != old_value) return value;
    pause();
  }
  for (int i = 0; i < kYields; ++i) {
    const uint32_t value = word.load(std::memory_order_acquire);
    if (value != old_value) return value;
    sched_yield();
  }
  word.wait(old_value, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  watch_forks();
  fork_generation_ = fork_generation.load(std::memory_order_relaxed);
  shared_ = new Shared;
  try {
    shared_->workers.reserve(num_threads - 1);
    for (int i = 1; i < num_threads; ++i) {
      shared_->workers.emplace_back([shared = shared_] { work(*shared); });
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

void ThreadPool::claim_blocks(Shared& shared) {
  const FloatingPointMode mode;
  for (;;) {
    const int64_t begin = shared.next.fetch_add(shared.block, std::memory_order_relaxed);
    if (begin >= shared.num_items) return;
    shared.body(shared.context, begin, std::min(begin + shared.block, shared.num_items));
  }
}

void ThreadPool::work(Shared& shared) {
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
    claim_blocks(shared);
    // The caller sleeps, if at all, until the last worker has left a closed run.
    if (shared.state.fetch_sub(1, std::memory_order_release) == 1) shared.state.notify_one();
  }
}

void ThreadPool::run(int64_t num_items, int64_t block, RangeBody body, void* context) {
  if (num_items <= 0) return;
  const bool alone = num_threads_ == 1 || num_items <= block ||
                     fork_generation.load(std::memory_order_relaxed) != fork_generation_;
  if (alone) {
    const FloatingPointMode mode;
    body(context, 0, num_items);
    return;
  }
  Shared& shared = *shared_;
  const std::lock_guard<std::mutex> turn(shared.turn);
  shared.body = body;
  shared.context = context;
  shared.num_items = num_items;
  shared.block = block;
  shared.next.store(0, std::memory_order_relaxed);
  shared.state.store(kOpen, std::memory_order_release);
  shared.signal.fetch_add(1, std::memory_order_release);
  shared.signal.notify_all();
  claim_blocks(shared);
  uint32_t state = shared.state.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  while (state != 0) state = wait_for_change(shared.state, state);
}

}  // namespace octavo
