// Rows of logits and the arrays of a SamplingBatch to tokens and scores: what is checked.
#include "bindings/sampler.h"

#include <nanobind/stl/string.h>

#include <algorithm>

namespace nb = nanobind;

namespace octavo {
namespace {

using Access = Array::Access;

constexpr int64_t kMaxVocabulary = int64_t{1} << 23;  // sums of as many weights fit into int64

[[noreturn]] void raise_value_error(const std::string& message) {
  throw nb::value_error(message.c_str());
}

void require_ranges(const ArrayOf<int32_t>& starts, int64_t rows, const ArrayOf<int32_t>& ids,
                    const Array& values) {
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

int64_t checked_vocabulary(int64_t size) {
  if (size < 1 || size > kMaxVocabulary) {
    raise_value_error("vocab_size must be between 1 and " + std::to_string(kMaxVocabulary));
  }
  return size;
}

}  // namespace

SamplingBatch::SamplingBatch(const Attributes& sampling, int64_t rows, int64_t vocab_size)
    : seeds_(sampling.array<uint64_t>("seeds")),
      choices_(sampling.array<uint32_t>("choices")),
      positions_(sampling.array<uint32_t>("positions")),
      temperature_(sampling.array<float>("temperature")),
      top_k_(sampling.array<int32_t>("top_k")),
      top_p_(sampling.array<float>("top_p")),
      min_p_(sampling.array<float>("min_p")),
      typical_p_(sampling.array<float>("typical_p")),
      repetition_penalty_(sampling.array<float>("repetition_penalty")),
      presence_penalty_(sampling.array<float>("presence_penalty")),
      frequency_penalty_(sampling.array<float>("frequency_penalty")),
      num_logprobs_(sampling.array<int32_t>("num_logprobs")),
      seen_starts_(sampling.array<int32_t>("seen_starts")),
      seen_ids_(sampling.array<int32_t>("seen_ids")),
      seen_counts_(sampling.array<int32_t>("seen_counts")),
      bias_starts_(sampling.array<int32_t>("bias_starts")),
      bias_ids_(sampling.array<int32_t>("bias_ids")),
      bias_values_(sampling.array<float>("bias_values")),
      mask_of_row_(sampling.array<int32_t>("mask_of_row")),
      masks_(sampling.array<uint32_t>("masks")) {
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

SampledRows::Scores::Scores(nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
                            nb::handle top_logprobs, int64_t rows)
    : logprobs(logprobs.ptr(), "logprobs", Access::kWrite),
      num_top(num_top.ptr(), "num_top", Access::kWrite),
      top_ids(top_ids.ptr(), "top_ids", Access::kWrite),
      top_logprobs(top_logprobs.ptr(), "top_logprobs", Access::kWrite) {
  this->logprobs.require_shape(&rows, 1);
  this->num_top.require_shape(&rows, 1);
  const int64_t shape[] = {rows, this->top_ids.num_dims() == 2 ? this->top_ids.dim(1) : 0};
  this->top_ids.require_shape(shape, 2);
  this->top_logprobs.require_shape(shape, 2);
  room = shape[1];
}

SampledRows::SampledRows(nb::handle tokens, nb::handle errors, nb::handle logprobs,
                         nb::handle num_top, nb::handle top_ids, nb::handle top_logprobs,
                         const int32_t* wanted, int64_t rows, int64_t vocab_size)
    : errors_(errors.ptr(), "errors", Access::kWrite) {
  errors_.require_shape(&rows, 1);
  arrays.errors = errors_.data();
  if (tokens.is_valid()) {
    tokens_.emplace(tokens.ptr(), "tokens", Access::kWrite);
    tokens_->require_shape(&rows, 1);
    arrays.tokens = tokens_->data();
  }
  if (!logprobs.is_none()) {
    scores_.emplace(logprobs, num_top, top_ids, top_logprobs, rows);
    arrays.logprobs = scores_->logprobs.data();
    arrays.num_top = scores_->num_top.data();
    arrays.top_ids = scores_->top_ids.data();
    arrays.top_logprobs = scores_->top_logprobs.data();
    arrays.room = scores_->room;
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (!scores_ && wanted[row] >= 0) {
      raise_type_error("logprobs: no room for those of row %lld", static_cast<long long>(row));
    }
    if (std::min<int64_t>(wanted[row], vocab_size) > arrays.room) {
      raise_type_error("top_ids: no room for the %d tokens that row %lld wants", wanted[row],
                       static_cast<long long>(row));
    }
  }
}

void SampledRows::require_apart_from(const Array& input) const {
  errors_.require_apart_from(input, false);
  if (tokens_) tokens_->require_apart_from(input, false);
  if (!scores_) return;
  const Array* const outputs[] = {&scores_->logprobs, &scores_->num_top, &scores_->top_ids,
                                  &scores_->top_logprobs};
  for (const Array* output : outputs) output->require_apart_from(input, false);
}

int64_t SampledRows::num_failed() const {
  const int64_t num_rows = errors_.size();
  return num_rows - std::count(errors_.data(), errors_.data() + num_rows, 0);
}

Targets::Targets(nb::handle targets, nb::handle wanted, int64_t rows, int64_t vocab_size)
    : ids_(targets.ptr(), "targets", Access::kRead),
      wanted_(wanted.ptr(), "wanted", Access::kRead) {
  ids_.require_shape(&rows, 1);
  wanted_.require_shape(&rows, 1);
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t target = ids()[row];
    if (target < 0 || target >= vocab_size) {
      raise_value_error("targets: " + std::to_string(target) + " is no token");
    }
  }
}

NativeSampler::NativeSampler(Pool& pool, int64_t vocab_size, const std::string& instruction_set)
    : pool_(pool),
      set_(choose_instruction_set(instruction_set)),
      rows_(*set_.kernels, pool.num_threads(), checked_vocabulary(vocab_size)) {}

void NativeSampler::sample(nb::handle logits_object, nb::handle sampling, nb::handle tokens,
                           nb::handle errors, nb::handle logprobs, nb::handle num_top,
                           nb::handle top_ids, nb::handle top_logprobs) {
  const FloatArray logits(logits_object.ptr(), "logits", Access::kRead);
  const int64_t rows = require_rows(logits);
  const SamplingBatch batch(Attributes(sampling, names_), rows, vocab_size());
  const SampledRows sampled(tokens, errors, logprobs, num_top, top_ids, top_logprobs,
                            batch.arrays.num_logprobs, rows, vocab_size());
  sampled.require_apart_from(logits);
  run(logits, rows, {&batch.arrays, nullptr, nullptr, sampled.arrays});
}

void NativeSampler::score(nb::handle logits_object, nb::handle targets_object, nb::handle wanted,
                          nb::handle errors, nb::handle logprobs, nb::handle num_top,
                          nb::handle top_ids, nb::handle top_logprobs) {
  const FloatArray logits(logits_object.ptr(), "logits", Access::kRead);
  const int64_t rows = require_rows(logits);
  const Targets targets(targets_object, wanted, rows, vocab_size());
  const SampledRows scored(nb::handle(), errors, logprobs, num_top, top_ids, top_logprobs,
                           targets.wanted(), rows, vocab_size());
  scored.require_apart_from(logits);
  run(logits, rows, {nullptr, targets.ids(), targets.wanted(), scored.arrays});
}

int64_t NativeSampler::require_rows(const FloatArray& logits) const {
  const int64_t rows = logits.num_dims() == 2 ? logits.dim(0) : 0;
  const int64_t shape[] = {rows, vocab_size()};
  logits.require_shape(shape, 2);
  return rows;
}

void NativeSampler::run(const FloatArray& logits, int64_t num_rows, const SamplerTask& task) {
  nb::gil_scoped_release released;
  const auto turn = take_turn();
  rows_.begin(task);
  stages_.clear();
  rows_.plan(logits.data(), vocab_size(), 0, num_rows, nullptr, stages_);
  pool_.threads().run_stages(stages_.data(), static_cast<int64_t>(stages_.size()));
}

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
