// Packing weights, preparing operands and multiplying the two, from Python: what tests compare and
// `octavo bench kernels` measures. A product is the executor's.
#include "bindings/products.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings/names.h"
#include "bindings/pool.h"
#include "bindings/turn.h"
#include "executor/formats.h"
#include "executor/product.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Access = Array::Access;

constexpr int64_t kAlignment = 64;
constexpr int64_t kReadBlockBytes = 1 << 20;
constexpr int64_t kLoopsPerThread = 8;

Element operand_element(Format format) {
  return format == Format::kF32    ? Element::kF32
         : format == Format::kBf16 ? Element::kU16
                                   : Element::kI8;
}

// The arrays of an operand as Python holds them, checked against each other.
class OperandArrays {
 public:
  OperandArrays(Format format, nb::handle values, nb::handle scales, nb::handle corrections,
                nb::handle corrections_4, int64_t rows, int64_t depth, Access access)
      : values_(values.ptr(), "values", {operand_element(format)}, access) {
    require_size(values_, rows * depth);
    operand_.values = values_.memory();
    operand_.depth = depth;
    operand_.value_bytes = value_bytes(format);
    if (!is_quantised(format)) return;
    const Array scale_array(scales.ptr(), "scales", {Element::kF32}, access);
    const Array correction_array(corrections.ptr(), "corrections", {Element::kI32}, access);
    const Array small_array(corrections_4.ptr(), "corrections_4", {Element::kI32}, access);
    require_size(scale_array, rows * (depth / kGroup));
    require_size(correction_array, rows * (depth / kGroup));
    require_size(small_array, rows * (depth / kSmallGroup));
    // Python's caller holds references to the arrays for the length of the call.
    operand_.scales = static_cast<float*>(scale_array.memory());
    operand_.corrections = static_cast<int32_t*>(correction_array.memory());
    operand_.corrections_4 = static_cast<int32_t*>(small_array.memory());
  }

  const Operand& operand() const { return operand_; }
  const Array& values() const { return values_; }

 private:
  static void require_size(const Array& array, int64_t size) {
    const int64_t shape[] = {size};
    array.require_shape(shape, 1);
  }

  Array values_;
  Operand operand_{};
};

struct TilesTask {
  Prepare prepare;
  const float* x;
  int64_t columns;
  RowTiles tiles;
  const Operand* operand;
};

void prepare_tiles(const TilesTask& task, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const float* x = task.x + task.tiles.first(index) * task.columns;
    task.prepare({x, task.columns, 0, task.columns, task.operand->depth,
                  task.operand->tile(task.tiles, index)});
  }
}

struct ReadTask {
  uint64_t (*read)(const uint8_t*, int64_t);
  const uint8_t* memory;
  int64_t bytes;
  uint64_t* sum;
};

void read_blocks(const ReadTask& task, int64_t begin, int64_t end) {
  const int64_t first = begin * kReadBlockBytes;
  const int64_t last = std::min(end * kReadBlockBytes, task.bytes);
  __atomic_fetch_add(task.sum, task.read(task.memory + first, last - first), __ATOMIC_RELAXED);
}

struct LoopTask {
  int64_t (*loop)(const uint8_t*, int64_t, float*);
  int64_t repeats;
  int64_t* done;
};

void run_loops(const LoopTask& task, int64_t begin, int64_t end) {
  alignas(64) uint8_t memory[kRoofBytes] = {};
  alignas(64) float out[16];
  for (int64_t item = begin; item < end; ++item) {
    __atomic_fetch_add(task.done, task.loop(memory, task.repeats, out), __ATOMIC_RELAXED);
  }
}

class Products {
 public:
  Products(Pool& pool, const std::string& instruction_set, bool emulates_tiles)
      : pool_(pool), set_(choose_instruction_set(instruction_set)), kernels_(*set_.kernels) {
    if (!emulates_tiles) return;
    if (set_.kernels != &kScalarKernels) {
      throw nb::value_error("emulates_tiles: only with the instruction set scalar");
    }
    kernels_.panels_w8 = kEmulatedTiles.panels_w8;
    kernels_.panels_w4_unpacked = kEmulatedTiles.panels_w4_unpacked;
    kernels_.roof_int8 = kEmulatedTiles.roof_int8;
  }

  const char* instruction_set() const { return set_.name; }

  bool pack(const std::string& format_name, nb::handle weights_object, nb::handle panels_object) {
    const Format format = format_of(format_name);
    const Array weights(weights_object.ptr(), "weights",
                        {Element::kF32, Element::kF16, Element::kU16}, Access::kRead);
    const Array panels(panels_object.ptr(), "panels", {Element::kU8}, Access::kWrite);
    if (weights.num_dims() != 2) {
      raise_type_error("weights: has %d dimensions, expected 2", weights.num_dims());
    }
    const int64_t num_panels = padded(weights.dim(0), kPanelColumns) / kPanelColumns;
    const int64_t bytes = panel_bytes(format, padded(weights.dim(1), depth_unit(format)));
    const int64_t shape[] = {num_panels, bytes};
    panels.require_shape(shape, 2);
    panels.require_apart_from(weights, false);
    PackTask task{};
    task.format = format;
    task.source = weights.element() == Element::kF32   ? Source::kF32
                  : weights.element() == Element::kF16 ? Source::kF16
                                                       : Source::kBf16;
    task.weights = weights.memory();
    task.columns = weights.dim(0);
    task.depth = weights.dim(1);
    task.panels = static_cast<uint8_t*>(panels.memory());
    int32_t has_non_finite = 0;
    task.has_non_finite = &has_non_finite;
    pool_.run(kernels_.pack, task, num_panels, 1);
    return has_non_finite == 0;
  }

  void prepare(const std::string& format_name, nb::handle x_object, nb::handle values,
               nb::handle scales, nb::handle corrections, nb::handle corrections_4) {
    const Format format = format_of(format_name);
    const FloatArray x(x_object.ptr(), "x", Access::kRead);
    if (x.num_dims() != 2) raise_type_error("x: has %d dimensions, expected 2", x.num_dims());
    const OperandArrays arrays(format, values, scales, corrections, corrections_4, x.dim(0),
                               padded(x.dim(1), depth_unit(format)), Access::kWrite);
    arrays.values().require_apart_from(x, false);
    const RowTiles tiles{x.dim(0)};
    const TilesTask task{prepare_of(kernels_, format), x.data(), x.dim(1), tiles,
                         &arrays.operand()};
    pool_.run(prepare_tiles, task, tiles.count(), 1);
  }

  void multiply(const std::string& format_name, nb::handle values, nb::handle scales,
                nb::handle corrections, nb::handle corrections_4, nb::handle panels_object,
                nb::handle out_object, nb::handle unpack) {
    const Format format = format_of(format_name);
    const FloatArray out(out_object.ptr(), "out", Access::kWrite);
    const Array panels(panels_object.ptr(), "panels", {Element::kU8}, Access::kRead);
    if (out.num_dims() != 2) raise_type_error("out: has %d dimensions, expected 2", out.num_dims());
    if (panels.num_dims() != 2) {
      raise_type_error("panels: has %d dimensions, expected 2", panels.num_dims());
    }
    const int64_t rows = out.dim(0);
    const int64_t num_panels = panels.dim(0);
    const int64_t unit = depth_unit(format);
    const int64_t depth = panels.dim(1) / panel_bytes(format, unit) * unit;
    const int64_t panels_shape[] = {num_panels, panel_bytes(format, depth)};
    panels.require_shape(panels_shape, 2);
    const int64_t out_shape[] = {rows, num_panels * kPanelColumns};
    out.require_shape(out_shape, 2);
    const OperandArrays arrays(format, values, scales, corrections, corrections_4, rows, depth,
                               Access::kRead);
    out.require_apart_from(arrays.values(), false);
    out.require_apart_from(panels, false);
    if (depth == 0) raise_type_error("panels: have no depth");
    if (rows == 0) return;
    Unpacked unpacked;
    if (!unpack.is_none()) {
      unpacked.from_rows = nb::cast<bool>(unpack) ? 0 : std::numeric_limits<int64_t>::max();
    }
    unpacked.stride = padded(Product::unpacked_bytes(format, depth), kAlignment);
    ProductFinish finish;
    finish.out = View{out.data(), out.dim(1)};
    const ProductWeights weights{format, static_cast<const uint8_t*>(panels.memory()), num_panels,
                                 depth, nullptr};
    nb::gil_scoped_release released;
    const auto turn = turn_.take();
    const int num_threads = pool_.num_threads();
    const int64_t scratch_bytes = num_threads * Product::kScratchFloats * 4;
    uint8_t* room = room_of(scratch_bytes + num_threads * unpacked.stride);
    unpacked.data = room + scratch_bytes;
    Product product(kernels_, num_threads, arrays.operand(), weights, finish,
                    reinterpret_cast<float*>(room), unpacked);
    stages_.clear();
    product.plan(Step{}, rows, stages_);
    pool_.threads().run_stages(stages_.data(), static_cast<int64_t>(stages_.size()));
  }

  void embed(const std::string& format_name, nb::handle panels_object, int64_t column,
             nb::handle out_object) {
    const Format format = format_of(format_name);
    const Array panels(panels_object.ptr(), "panels", {Element::kU8}, Access::kRead);
    const FloatArray out(out_object.ptr(), "out", Access::kWrite);
    if (out.num_dims() != 1) raise_type_error("out: has %d dimensions, expected 1", out.num_dims());
    if (panels.num_dims() != 2) {
      raise_type_error("panels: has %d dimensions, expected 2", panels.num_dims());
    }
    const int64_t bytes = panel_bytes(format, padded(out.dim(0), depth_unit(format)));
    const int64_t shape[] = {panels.dim(0), bytes};
    panels.require_shape(shape, 2);
    if (column < 0 || column >= panels.dim(0) * kPanelColumns) {
      throw nb::value_error("column is not one of the panels'");
    }
    const EmbedColumn embed_column = embed_of(kernels_, format);
    if (embed_column == nullptr) throw nb::value_error("panels of f32 are not embedded from");
    embed_column({static_cast<const uint8_t*>(panels.memory()) + column / kPanelColumns * bytes,
                  static_cast<int>(column % kPanelColumns), out.dim(0), out.data()});
  }

  uint64_t read(nb::handle memory_object) {
    const Array memory(memory_object.ptr(), "memory", {Element::kU8}, Access::kRead);
    if (memory.size() % 512 != 0 || reinterpret_cast<uintptr_t>(memory.memory()) % 4 != 0) {
      raise_type_error("memory: expected a multiple of 512 bytes, aligned to 4");
    }
    uint64_t sum = 0;
    const ReadTask task{kernels_.roof_read, static_cast<const uint8_t*>(memory.memory()),
                        memory.size(), &sum};
    pool_.run(read_blocks, task, (memory.size() + kReadBlockBytes - 1) / kReadBlockBytes, 16);
    return sum;
  }

  int64_t spin(const std::string& kind, int64_t repeats) {
    const auto loop = choice_of<int64_t (*)(const uint8_t*, int64_t, float*)>(
        "kind of roof", kind,
        {{"int8", kernels_.roof_int8}, {"bf16", kernels_.roof_bf16}, {"f32", kernels_.roof_f32}});
    if (repeats < 1) throw nb::value_error("repeats must be at least 1");
    int64_t done = 0;
    const LoopTask task{loop, repeats, &done};
    pool_.run(run_loops, task, kLoopsPerThread * pool_.num_threads(), 1);
    return done;
  }

 private:
  // Aligned memory of at least so many bytes. Whoever uses it has the turn.
  uint8_t* room_of(int64_t bytes) {
    if (static_cast<int64_t>(room_.size()) < bytes + kAlignment) room_.resize(bytes + kAlignment);
    const auto at = reinterpret_cast<uintptr_t>(room_.data());
    return room_.data() + (padded(at, kAlignment) - at);
  }

  Pool& pool_;
  const InstructionSet& set_;
  KernelTable kernels_;
  Turn turn_;                  // callers of several threads share the room
  std::vector<Stage> stages_;  // of whoever has the turn
  std::vector<uint8_t> room_;  // likewise: scratch of the threads, then what they unpack
};

}  // namespace

void bind_products(nb::module_& module) {
  nb::class_<Products>(module, "Products")
      .def(nb::init<Pool&, const std::string&, bool>(), nb::arg("pool"),
           nb::arg("instruction_set") = "", nb::arg("emulates_tiles") = false,
           nb::keep_alive<1, 2>())
      .def_prop_ro("instruction_set", &Products::instruction_set)
      .def("pack", &Products::pack, nb::arg("format"), nb::arg("weights").none(),
           nb::arg("panels").none())
      .def("prepare", &Products::prepare, nb::arg("format"), nb::arg("x").none(),
           nb::arg("values").none(), nb::arg("scales") = nb::none(),
           nb::arg("corrections") = nb::none(), nb::arg("corrections_4") = nb::none())
      .def("multiply", &Products::multiply, nb::arg("format"), nb::arg("values").none(),
           nb::arg("scales").none(), nb::arg("corrections").none(), nb::arg("corrections_4").none(),
           nb::arg("panels").none(), nb::arg("out").none(), nb::arg("unpack") = nb::none())
      .def("embed", &Products::embed, nb::arg("format"), nb::arg("panels").none(),
           nb::arg("column"), nb::arg("out").none())
      .def("read", &Products::read, nb::arg("memory").none())
      .def("spin", &Products::spin, nb::arg("kind"), nb::arg("repeats"));
}

}  // namespace octavo
