// A program while Python builds it, call by call. Arrays are checked for type, dimensions and
// contiguity by nanobind, never converted; sizes of weights are the Python side's, which has them
// from the program (octavo/backends/native_layout.py).
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bindings/pool.h"
#include "bindings/step_arrays.h"
#include "executor/forward.h"

namespace octavo {

template <typename T, size_t kDims>
using CheckedArray =
    nanobind::ndarray<T, nanobind::ndim<kDims>, nanobind::c_contig, nanobind::device::cpu>;
using Floats1 = CheckedArray<const float, 1>;
using Floats2 = CheckedArray<const float, 2>;
using Bytes = CheckedArray<const uint8_t, 1>;
using WritableBytes = CheckedArray<uint8_t, 1>;

// The calls, the Python arrays that they point into, and what a step's arrays may say to them.
class Program {
 public:
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  Program(Pool& pool, const std::string& instruction_set, ForwardLimits limits, bool joins_rows,
          bool finds_peaks);

  const char* instruction_set() const { return set_.name; }
  Forward& forward() { return forward_; }
  const Forward& forward() const { return forward_; }
  const StepBounds& bounds() const { return bounds_; }
  int64_t vocab_size() const { return vocab_size_; }

  View buffer(int64_t features) { return forward_.add_buffer(features); }
  Operand operand(const std::string& format, int64_t depth);

  void embed(Floats2 table, bool by_position, View out);
  void embed_panels(const std::string& format, Bytes panels, int64_t depth, View out);
  void norm(View x, View out, Floats1 weight, std::optional<Floats1> bias, float eps,
            bool subtracts_mean);
  void prepare(View x, int64_t features, Operand operand, const std::string& format);
  void head_norm(View x, int64_t num_heads, Floats1 weight, float eps);
  void rotate(View x, int64_t num_heads, int64_t head_dim, Floats2 cosines, Floats2 sines);
  void add(View a, View b, View out, int64_t features);
  void scale(View x, float factor, View out, int64_t features);
  void activate(const std::string& activation, View x, std::optional<View> factor, View out,
                int64_t features);
  void take(View x, int64_t features, View out);

  int pool(WritableBytes pages, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
           const std::string& format);
  void write_kv(int pool, int64_t layer, View keys, View values);
  void attend(int pool, int64_t layer, int64_t heads_of_one, int64_t window, float scale,
              View queries, View out);

  void product(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
               int64_t depth, std::optional<Floats1> bias, View out);
  void product_added(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
                     int64_t depth, std::optional<Floats1> bias, View addend, View out);
  void product_gated(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
                     int64_t depth, std::optional<Floats1> bias, const std::string& activation,
                     std::optional<View> out, std::optional<Operand> next,
                     const std::string& next_format, int64_t features);

  void begin_heads() { forward_.begin_heads(); }
  void end_heads(View logits, int64_t vocab_size);

 private:
  template <typename Array>
  const float* keep(const Array& array) {
    kept_.push_back(nanobind::cast(array));
    return array.data();
  }
  const float* keep(const std::optional<Floats1>& array) { return array ? keep(*array) : nullptr; }
  ProductWeights weights_of(const std::string& format, const Bytes& panels, int64_t num_panels,
                            int64_t depth, const std::optional<Floats1>& bias);

  const InstructionSet& set_;
  Forward forward_;
  std::vector<nanobind::object> kept_;
  StepBounds bounds_;
  int64_t vocab_size_ = 0;
};

}  // namespace octavo
