// octavo._native: what Python sees of the thread pool and the kernels. Arguments are checked here
// and nowhere below; the GIL is released while kernels run.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "arrays.h"
#include "bindings/attention.h"
#include "bindings/forward.h"
#include "bindings/pool.h"
#include "bindings/products.h"
#include "bindings/sampler.h"
#include "cpu_features.h"
#include "kernels/dispatch.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Access = FloatArray::Access;

// Work below these sizes costs less than waking a worker.
constexpr int64_t kElementsOfABlock = 8192;
constexpr int64_t kProductsWorthSharing = 32768;
constexpr int64_t kMaxRowBlock = 192;
constexpr int64_t kMinColumnBlock = 64;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Kernels {
 public:
  Kernels(Pool& pool, const std::string& instruction_set)
      : pool_(pool), set_(choose_instruction_set(instruction_set)) {}

  const char* instruction_set() const { return set_.name; }

  void product(nb::handle a_object, nb::handle b_object, nb::handle out_object,
               nb::handle bias_object) {
    const FloatArray a(a_object.ptr(), "a", Access::kRead);
    const FloatArray b(b_object.ptr(), "b", Access::kRead);
    const FloatArray out(out_object.ptr(), "out", Access::kWrite);
    const int dims = a.num_dims();
    if (dims != 2 && dims != 3) raise_type_error("a: has %d dimensions, expected 2 or 3", dims);
    if (b.num_dims() != dims) {
      raise_type_error("b: has %d dimensions, expected %d like a", b.num_dims(), dims);
    }
    ProductTask task{};
    const int64_t batch = dims == 3 ? a.dim(0) : 1;
    task.m = a.dim(dims - 2);
    task.k = a.dim(dims - 1);
    task.n = b.dim(dims - 1);
    const int64_t b_shape[] = {batch, task.k, task.n};
    const int64_t out_shape[] = {batch, task.m, task.n};
    b.require_shape(b_shape + 3 - dims, dims);
    out.require_shape(out_shape + 3 - dims, dims);
    out.require_apart_from(a, false);
    out.require_apart_from(b, false);
    task.a = a.data();
    task.b = b.data();
    task.out = out.data();
    if (bias_object.is_none()) {
      run_product(task, batch);
      return;
    }
    if (dims == 3) raise_type_error("bias: expected None with three-dimensional operands");
    const FloatArray bias(bias_object.ptr(), "bias", Access::kRead);
    const int64_t bias_shape[] = {task.n};
    bias.require_shape(bias_shape, 1);
    out.require_apart_from(bias, false);
    task.bias = bias.data();
    run_product(task, batch);
  }

  void row_sums(nb::handle x, nb::handle out) { run_rows(set_.kernels->row_sums, x, out); }
  void row_sums_of_squares(nb::handle x, nb::handle out) {
    run_rows(set_.kernels->row_sums_of_squares, x, out);
  }
  void exp(nb::handle x, nb::handle out) { run_elements(set_.kernels->exp, x, out); }
  void log(nb::handle x, nb::handle out) { run_elements(set_.kernels->log, x, out); }
  void tanh(nb::handle x, nb::handle out) { run_elements(set_.kernels->tanh, x, out); }
  void sigmoid(nb::handle x, nb::handle out) { run_elements(set_.kernels->sigmoid, x, out); }

 private:
  void run_product(ProductTask& task, int64_t batch) {
    if (batch == 0 || task.m == 0 || task.n == 0) return;
    // Blocks for the caches and for sharing; no value depends on them.
    task.row_block = task.m < kMaxRowBlock ? task.m : kMaxRowBlock;
    task.num_row_blocks = ceil_divide(task.m, task.row_block);
    const int64_t wanted = 4 * pool_.num_threads();
    task.column_block = kMaxColumnBlock;
    while (task.column_block > kMinColumnBlock &&
           batch * task.num_row_blocks * ceil_divide(task.n, task.column_block) < wanted) {
      task.column_block /= 2;
    }
    task.num_column_blocks = ceil_divide(task.n, task.column_block);
    const int64_t num_items = batch * task.num_row_blocks * task.num_column_blocks;
    const int64_t item_products = task.row_block * task.column_block * (task.k + 1);
    const int64_t block = ceil_divide(kProductsWorthSharing, item_products);
    pool_.run(set_.kernels->product, task, num_items, block);
  }

  void run_rows(void (*kernel)(const RowsTask&, int64_t, int64_t), nb::handle x_object,
                nb::handle out_object) {
    const FloatArray x(x_object.ptr(), "x", Access::kRead);
    const FloatArray out(out_object.ptr(), "out", Access::kWrite);
    if (x.num_dims() != 2) raise_type_error("x: has %d dimensions, expected 2", x.num_dims());
    const int64_t rows = x.dim(0);
    const int64_t out_shape[] = {rows};
    out.require_shape(out_shape, 1);
    out.require_apart_from(x, false);
    const RowsTask task{x.data(), out.data(), x.dim(1)};
    pool_.run(kernel, task, rows, ceil_divide(kElementsOfABlock, task.row_length + 1));
  }

  void run_elements(void (*kernel)(const ElementsTask&, int64_t, int64_t), nb::handle x_object,
                    nb::handle out_object) {
    const FloatArray x(x_object.ptr(), "x", Access::kRead);
    const FloatArray out(out_object.ptr(), "out", Access::kWrite);
    int64_t shape[PyBUF_MAX_NDIM];
    for (int i = 0; i < x.num_dims(); ++i) shape[i] = x.dim(i);
    out.require_shape(shape, x.num_dims());
    out.require_apart_from(x, true);
    const ElementsTask task{x.data(), out.data()};
    pool_.run(kernel, task, x.size(), kElementsOfABlock);
  }

  Pool& pool_;
  const InstructionSet& set_;
};

nb::dict cpu_features_dict() {
  nb::dict features;
  int count = 0;
  const CpuFeature* list = cpu_features(&count);
  for (int i = 0; i < count; ++i) features[list[i].name] = list[i].present;
  return features;
}

// None: this machine; else a collection of names.
HasFeature features_of(nb::handle names) {
  if (names.is_none()) return cpu_has;
  return [names](const char* name) { return nb::cast<bool>(names.attr("__contains__")(name)); };
}

nb::list usable_instruction_sets(nb::handle features) {
  nb::list names;
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  for (int i = 0; i < count; ++i) {
    if (missing_feature(sets[i], features_of(features)) == nullptr) names.append(sets[i].name);
  }
  return names;
}

const char* best_of(nb::handle features) {
  return best_instruction_set(features_of(features)).name;
}

nb::list instruction_sets_only_by_name() {
  nb::list names;
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  for (int i = 0; i < count; ++i) {
    if (sets[i].only_by_name) names.append(sets[i].name);
  }
  return names;
}

}  // namespace
}  // namespace octavo

// Docstrings are in octavo/_native.pyi, where editors and type checkers find them.
NB_MODULE(_native, module) {
  using octavo::Kernels;
  using octavo::Pool;

  module.def("cpu_features", &octavo::cpu_features_dict);
  module.def("request_tiles", &octavo::request_tiles);
  module.def("instruction_sets", &octavo::usable_instruction_sets,
             nb::arg("features") = nb::none());
  module.def("best_instruction_set", &octavo::best_of, nb::arg("features") = nb::none());
  module.def("instruction_sets_only_by_name", &octavo::instruction_sets_only_by_name);

  nb::class_<Pool>(module, "ThreadPool")
      .def(nb::init<int>(), nb::arg("num_threads"))
      .def_prop_ro("num_threads", &Pool::num_threads);

  // none(): a None reaches our own check, whose message names the argument.
  nb::class_<Kernels>(module, "Kernels")
      .def(nb::init<Pool&, const std::string&>(), nb::arg("pool"), nb::arg("instruction_set") = "",
           nb::keep_alive<1, 2>())
      .def_prop_ro("instruction_set", &Kernels::instruction_set)
      .def("product", &Kernels::product, nb::arg("a").none(), nb::arg("b").none(),
           nb::arg("out").none(), nb::arg("bias") = nb::none())
      .def("row_sums", &Kernels::row_sums, nb::arg("x").none(), nb::arg("out").none())
      .def("row_sums_of_squares", &Kernels::row_sums_of_squares, nb::arg("x").none(),
           nb::arg("out").none())
      .def("exp", &Kernels::exp, nb::arg("x").none(), nb::arg("out").none())
      .def("log", &Kernels::log, nb::arg("x").none(), nb::arg("out").none())
      .def("tanh", &Kernels::tanh, nb::arg("x").none(), nb::arg("out").none())
      .def("sigmoid", &Kernels::sigmoid, nb::arg("x").none(), nb::arg("out").none());

  octavo::bind_forward(module);
  octavo::bind_products(module);
  octavo::bind_attention(module);
  octavo::bind_sampler(module);
}
