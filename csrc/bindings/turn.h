// Who goes first where memory is shared: a lock that forks cannot leave taken for ever.
#pragma once

#include <unistd.h>

#include <atomic>
#include <mutex>

namespace octavo {

// In a forked child, whoever held the parent's lock does not exist: the child makes one of its own,
// and leaves the other alone.
class Turn {
 public:
  Turn() : owned_(new Owned) {}
  ~Turn() {
    if (owned_.load()->process == getpid()) delete owned_.load();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  std::unique_lock<std::mutex> take() {
    Owned* owned = owned_.load();
    if (owned->process != getpid()) {
      Owned* own = new Owned;
      if (owned_.compare_exchange_strong(owned, own)) {
        owned = own;
      } else {
        delete own;  // another thread of the child was first
      }
    }
    return std::unique_lock<std::mutex>(owned->mutex);
  }

 private:
  struct Owned {
    pid_t process = getpid();
    std::mutex mutex;
  };

  std::atomic<Owned*> owned_;
};

}  // namespace octavo
