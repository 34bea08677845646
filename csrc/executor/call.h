// What a program is made of once it is compiled: calls, each of which adds its stages to a step.
#pragma once

#include <vector>

#include "executor/step.h"
#include "thread_pool.h"

namespace octavo {

// A call lives as long as its program. Between plan() and the end of the step it may keep what it
// needs of the step; it allocates nothing once it has seen the largest step.
class Call {
 public:
  virtual ~Call() = default;

  // Adds stages that compute `num_rows` rows: all tokens of the step, or its heads.
  virtual void plan(const Step& step, int64_t num_rows, std::vector<Stage>& stages) = 0;
};

}  // namespace octavo
