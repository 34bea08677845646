// octavo._native.NativeSampler: blocks of logits and the arrays of a SamplingBatch to tokens and
// scores. A row is an item of work on the pool; each thread has a workspace.
#include "sampler/sampler.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings/pool.h"
#include "bindings/turn.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Access = Array::Access;

constexpr int64_t kMaxVocabulary = int64_t{1} << 23;  // sums of as many weights fit into int64
constexpr int64_t kPartOfRow = 16384;                 // logits worth another thread
constexpr int64_t kMaxParts = 16;

[[noreturn]] void raise_value_error(const std::string& message) {
  throw nb::value_error(message.c_str());
}

template <typename T>
ArrayOf<T> read_array(nb::handle object, const char* name) {
  return ArrayOf<T>(nb::getattr(object, name).ptr(), name, Access::kRead);
}

// The attributes of a SamplingBatch, held for one call.
class Batch {
 public:
  Batch(nb::handle sampling, int64_t rows, int64_t vocab_size)
      : seeds_(read_array<uint64_t>(sampling, "seeds")),
        choices_(read_array<uint32_t>(sampling, "choices")),
        positions_(read_array<uint32_t>(sampling, "positions")),
        temperature_(read_array<float>(sampling, "temperature")),
        top_k_(read_array<int32_t>(sampling, "top_k")),
        top_p_(read_array<float>(sampling, "top_p")),
        min_p_(read_array<float>(sampling, "min_p")),
        typical_p_(read_array<float>(sampling, "typical_p")),
        repetition_penalty_(read_array<float>(sampling, "repetition_penalty")),
        presence_penalty_(read_array<float>(sampling, "presence_penalty")),
        frequency_penalty_(read_array<float>(sampling, "frequency_penalty")),
        num_logprobs_(read_array<int32_t>(sampling, "num_logprobs")),
        seen_starts_(read_array<int32_t>(sampling, "seen_starts")),
        seen_ids_(read_array<int32_t>(sampling, "seen_ids")),
        seen_counts_(read_array<int32_t>(sampling, "seen_counts")),
        bias_starts_(read_array<int32_t>(sampling, "bias_starts")),
        bias_ids_(read_array<int32_t>(sampling, "bias_ids")),
        bias_values_(read_array<float>(sampling, "bias_values")),
        mask_of_row_(read_array<int32_t>(sampling, "mask_of_row")),
        masks_(read_array<uint32_t>(sampling, "masks")) {
    const Array* const of_rows[] = {&seeds_,
                                    &choices_,
                                    &positions_,
                                    &temperature_,
                                    &top_k_,
                                    &top_p_,
                                    &min_p_,
                                    &typical_p_,
                                    &num_logprobs_,
                                    &mask_of_row_,
                                    &repetition_penalty_,
                                    &presence_penalty_,
                                    &frequency_penalty_};
    for (const Array* array : of_rows) array->require_shape(&rows, 1);
    require_ranges(seen_starts_, rows, seen_ids_, seen_counts_);
    require_ranges(bias_starts_, rows, bias_ids_, bias_values_);
    const int64_t words = (vocab_size + 31) / 32;
    const int64_t num_masks = masks_.num_dims() == 2 ? masks_.dim(0) : 0;
    const int64_t shape_of_masks[] = {num_masks, words};
    masks_.require_shape(shape_of_masks, 2);
    for (int64_t row = 0; row < rows; ++row) {
      if (mask_of_row_.data()[row] >= num_masks) {
        raise_value_error("mask_of_row: there are only " + std::to_string(num_masks) + " masks");
      }
    }
    arrays = {seeds_.data(),
              choices_.data(),
              positions_.data(),
              temperature_.data(),
              top_k_.data(),
              top_p_.data(),
              min_p_.data(),
              typical_p_.data(),
              repetition_penalty_.data(),
              presence_penalty_.data(),
              frequency_penalty_.data(),
              num_logprobs_.data(),
              seen_starts_.data(),
              seen_ids_.data(),
              seen_counts_.data(),
              bias_starts_.data(),
              bias_ids_.data(),
              bias_values_.data(),
              mask_of_row_.data(),
              masks_.data(),
              words};
  }

  SamplingArrays arrays;

 private:
  static void require_ranges(const ArrayOf<int32_t>& starts, int64_t rows,
                             const ArrayOf<int32_t>& ids, const Array& values) {
    const int64_t num_starts = rows + 1, count = ids.size();
    starts.require_shape(&num_starts, 1);
    ids.require_shape(&count, 1);
    values.require_shape(&count, 1);
    int64_t last = 0;
    for (int64_t i = 0; i < num_starts; ++i) {
      const int64_t start = starts.data()[i];
      if (start < last || start > count) {
        raise_value_error(std::string(starts.name()) + ": not ascending within the values");
      }
      last = start;
    }
  }

  ArrayOf<uint64_t> seeds_;
  ArrayOf<uint32_t> choices_, positions_;
  ArrayOf<float> temperature_;
  ArrayOf<int32_t> top_k_;
  ArrayOf<float> top_p_, min_p_, typical_p_;
  ArrayOf<float> repetition_penalty_, presence_penalty_, frequency_penalty_;
  ArrayOf<int32_t> num_logprobs_;
  ArrayOf<int32_t> seen_starts_, seen_ids_, seen_counts_;
  ArrayOf<int32_t> bias_starts_, bias_ids_;
  ArrayOf<float> bias_values_;
  ArrayOf<int32_t> mask_of_row_;
  ArrayOf<uint32_t> masks_;
};

// The arrays that receive results: (rows,), the last two (rows, room).
class Results {
 public:
  Results(nb::handle errors, nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
          nb::handle top_logprobs, int64_t rows)
      : errors_(errors.ptr(), "errors", Access::kWrite),
        logprobs_(logprobs.ptr(), "logprobs", Access::kWrite),
        num_top_(num_top.ptr(), "num_top", Access::kWrite),
        top_ids_(top_ids.ptr(), "top_ids", Access::kWrite),
        top_logprobs_(top_logprobs.ptr(), "top_logprobs", Access::kWrite) {
    errors_.require_shape(&rows, 1);
    logprobs_.require_shape(&rows, 1);
    num_top_.require_shape(&rows, 1);
    const int64_t shape[] = {rows, top_ids_.num_dims() == 2 ? top_ids_.dim(1) : 0};
    top_ids_.require_shape(shape, 2);
    top_logprobs_.require_shape(shape, 2);
    room_ = shape[1];
  }

  void require_room(const int32_t* wanted, int64_t rows, int64_t vocab_size) const {
    for (int64_t row = 0; row < rows; ++row) {
      if (std::min<int64_t>(wanted[row], vocab_size) > room_) {
        raise_type_error("top_ids: no room for the %d tokens that row %lld wants", wanted[row],
                         static_cast<long long>(row));
      }
    }
  }

  void require_apart_from(const Array& input) const {
    const Array* const outputs[] = {&errors_, &logprobs_, &num_top_, &top_ids_, &top_logprobs_};
    for (const Array* output : outputs) output->require_apart_from(input, false);
  }

  SampledRow row(int64_t index) const {
    SampledRow row{};
    row.top_ids = top_ids_.data() + index * room_;
    row.top_logprobs = top_logprobs_.data() + index * room_;
    return row;
  }

  void put(int64_t index, const SampledRow& row) const {
    errors_.data()[index] = static_cast<int32_t>(row.error);
    logprobs_.data()[index] = row.logprob;
    num_top_.data()[index] = row.num_top;
  }

 private:
  ArrayOf<int32_t> errors_;
  ArrayOf<float> logprobs_;
  ArrayOf<int32_t> num_top_, top_ids_;
  ArrayOf<float> top_logprobs_;
  int64_t room_;
};

class NativeSampler {
 public:
  NativeSampler(Pool& pool, int64_t vocab_size, const std::string& instruction_set)
      : pool_(pool), set_(choose_instruction_set(instruction_set)), vocab_size_(vocab_size) {
    if (vocab_size < 1 || vocab_size > kMaxVocabulary) {
      raise_value_error("vocab_size must be between 1 and " + std::to_string(kMaxVocabulary));
    }
    for (int i = 0; i < pool.num_threads(); ++i) workspaces_.emplace_back(vocab_size);
  }

  const char* instruction_set() const { return set_.name; }
  int64_t vocab_size() const { return vocab_size_; }

  void sample(nb::handle logits_object, nb::handle sampling, nb::handle tokens_object,
              nb::handle errors, nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
              nb::handle top_logprobs) {
    const FloatArray logits(logits_object.ptr(), "logits", Access::kRead);
    const int64_t rows = require_rows(logits);
    const Batch batch(sampling, rows, vocab_size_);
    const ArrayOf<int32_t> tokens(tokens_object.ptr(), "tokens", Access::kWrite);
    tokens.require_shape(&rows, 1);
    tokens.require_apart_from(logits, false);
    const Results results(errors, logprobs, num_top, top_ids, top_logprobs, rows);
    results.require_apart_from(logits);
    results.require_room(batch.arrays.num_logprobs, rows, vocab_size_);
    RowPeak peak;
    const bool knows_peak = find_peak_together(logits.data(), rows, &peak);
    struct Task {
      NativeSampler* self;
      const float* logits;
      const SamplingArrays* arrays;
      int32_t* tokens;
      const Results* results;
      const RowPeak* peak;
    } task{this,          logits.data(), &batch.arrays,
           tokens.data(), &results,      knows_peak ? &peak : nullptr};
    run(task, rows, [](const Task& task, int64_t row, SamplerWorkspace& workspace) {
      const NativeSampler& self = *task.self;
      SampledRow sampled = task.results->row(row);
      sample_row(*self.set_.kernels, task.logits + row * self.vocab_size_, self.vocab_size_,
                 task.arrays->row(row), workspace, &sampled, task.peak);
      task.tokens[row] = sampled.token;
      task.results->put(row, sampled);
    });
  }

  void score(nb::handle logits_object, nb::handle targets_object, nb::handle wanted_object,
             nb::handle errors, nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
             nb::handle top_logprobs) {
    const FloatArray logits(logits_object.ptr(), "logits", Access::kRead);
    const int64_t rows = require_rows(logits);
    const ArrayOf<int32_t> targets(targets_object.ptr(), "targets", Access::kRead);
    const ArrayOf<int32_t> wanted(wanted_object.ptr(), "wanted", Access::kRead);
    targets.require_shape(&rows, 1);
    wanted.require_shape(&rows, 1);
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t target = targets.data()[row];
      if (target < 0 || target >= vocab_size_) {
        raise_value_error("targets: " + std::to_string(target) + " is no token");
      }
    }
    const Results results(errors, logprobs, num_top, top_ids, top_logprobs, rows);
    results.require_apart_from(logits);
    results.require_room(wanted.data(), rows, vocab_size_);
    struct Task {
      NativeSampler* self;
      const float* logits;
      const int32_t* targets;
      const int32_t* wanted;
      const Results* results;
    } task{this, logits.data(), targets.data(), wanted.data(), &results};
    run(task, rows, [](const Task& task, int64_t row, SamplerWorkspace& workspace) {
      const NativeSampler& self = *task.self;
      SampledRow scored = task.results->row(row);
      score_row(*self.set_.kernels, task.logits + row * self.vocab_size_, self.vocab_size_,
                task.targets[row], task.wanted[row], workspace, &scored);
      task.results->put(row, scored);
    });
  }

 private:
  int64_t require_rows(const FloatArray& logits) const {
    const int64_t rows = logits.num_dims() == 2 ? logits.dim(0) : 0;
    const int64_t shape[] = {rows, vocab_size_};
    logits.require_shape(shape, 2);
    return rows;
  }

  // The highest logit of a single long row, in parts that threads share. False if that would not
  // pay.
  bool find_peak_together(const float* logits, int64_t rows, RowPeak* found) {
    const int64_t num_parts =
        std::min<int64_t>({pool_.num_threads(), vocab_size_ / kPartOfRow, kMaxParts});
    if (rows != 1 || num_parts < 2) return false;
    struct Task {
      NativeSampler* self;
      const float* logits;
      int64_t part;  // logits
      std::mutex merging;
      RowPeak* found;
      bool is_first;
    } task{this, logits, 0, {}, found, true};
    const int64_t num_blocks = SamplerWorkspace::num_blocks(vocab_size_);
    task.part = (num_blocks + num_parts - 1) / num_parts * kLogitBlock;
    nb::gil_scoped_release released;
    pool_.run_released<Task*>(
        [](Task* const& task, int64_t begin, int64_t end) {
          const NativeSampler& self = *task->self;
          const int64_t last = std::min(end * task->part, self.vocab_size_);
          const RowPeak peak = row_peak(*self.set_.kernels, task->logits, begin * task->part, last);
          const std::lock_guard<std::mutex> turn(task->merging);
          *task->found = task->is_first ? peak : merged(*task->found, peak);
          task->is_first = false;
        },
        &task, num_parts, 1);
    return true;
  }

  // Calls function(task, row, workspace) for each row, without the GIL.
  template <typename Task, typename Function>
  void run(const Task& task, int64_t rows, const Function& function) {
    struct Call {
      NativeSampler* self;
      const Task* task;
      const Function* function;
    } call{this, &task, &function};
    nb::gil_scoped_release released;
    const auto turn = turn_.take();
    const auto body = [](void* context, int64_t begin, int64_t end, int thread) {
      const Call& call = *static_cast<const Call*>(context);
      for (int64_t row = begin; row < end; ++row) {
        (*call.function)(*call.task, row, call.self->workspaces_[thread]);
      }
    };
    const Stage stage{body, &call, rows, 1, "sampling"};
    pool_.threads().run_stages(&stage, 1);
  }

  Pool& pool_;
  const InstructionSet& set_;
  int64_t vocab_size_;
  Turn turn_;                                 // callers of several threads share the workspaces
  std::vector<SamplerWorkspace> workspaces_;  // a thread each
};

}  // namespace

void bind_sampler(nb::module_& module) {
  nb::class_<NativeSampler>(module, "NativeSampler")
      .def(nb::init<Pool&, int64_t, const std::string&>(), nb::arg("pool"), nb::arg("vocab_size"),
           nb::arg("instruction_set") = "", nb::keep_alive<1, 2>())
      .def_prop_ro("instruction_set", &NativeSampler::instruction_set)
      .def_prop_ro("vocab_size", &NativeSampler::vocab_size)
      .def("sample", &NativeSampler::sample, nb::arg("logits").none(), nb::arg("sampling").none(),
           nb::arg("tokens").none(), nb::arg("errors").none(), nb::arg("logprobs").none(),
           nb::arg("num_top").none(), nb::arg("top_ids").none(), nb::arg("top_logprobs").none())
      .def("score", &NativeSampler::score, nb::arg("logits").none(), nb::arg("targets").none(),
           nb::arg("wanted").none(), nb::arg("errors").none(), nb::arg("logprobs").none(),
           nb::arg("num_top").none(), nb::arg("top_ids").none(), nb::arg("top_logprobs").none());
}

}  // namespace octavo
