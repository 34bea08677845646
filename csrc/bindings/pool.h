// What bindings share: a pool that runs kernels without the GIL, and the choice of instruction set.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "kernels/dispatch.h"
#include "thread_pool.h"

namespace octavo {

// The set of that name; an empty name: what OCTAVO_CPU_ISA says, else the best of this machine.
// Throws nanobind::value_error for a name that is unknown or does not run here.
const InstructionSet& choose_instruction_set(const std::string& name);

class Pool {
 public:
  explicit Pool(int num_threads) : threads_(checked(num_threads)) {}
  int num_threads() const { return threads_.num_threads(); }
  ThreadPool& threads() { return threads_; }

  // Runs a function of a kernel table over `num_items` items, without the GIL.
  template <typename Task>
  void run(void (*kernel)(const Task&, int64_t, int64_t), const Task& task, int64_t num_items,
           int64_t block) {
    nanobind::gil_scoped_release released;
    run_released(kernel, task, num_items, block);
  }

  // The same for a caller that has released the GIL already.
  template <typename Task>
  void run_released(void (*kernel)(const Task&, int64_t, int64_t), const Task& task,
                    int64_t num_items, int64_t block) {
    struct Call {
      void (*kernel)(const Task&, int64_t, int64_t);
      const Task* task;
    } call{kernel, &task};
    const auto body = [](void* context, int64_t begin, int64_t end) {
      const Call& self = *static_cast<Call*>(context);
      self.kernel(*self.task, begin, end);
    };
    threads_.run(num_items, block, body, &call);
  }

 private:
  static constexpr int kMaxThreads = 1024;

  static int checked(int num_threads) {
    if (num_threads < 1 || num_threads > kMaxThreads) {
      throw nanobind::value_error("num_threads must be between 1 and 1024");
    }
    return num_threads;
  }

  ThreadPool threads_;
};

}  // namespace octavo
