// Python builds a program call by call, then runs steps without the GIL. Arrays are checked for
// type, dimensions and contiguity by nanobind, never converted; sizes of weights are the Python
// side's, which has them from the program (octavo/backends/native.py).
#include "bindings/forward.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "bindings/attributes.h"
#include "bindings/pool.h"
#include "bindings/sampler.h"
#include "bindings/step_arrays.h"
#include "bindings/turn.h"
#include "executor/formats.h"
#include "executor/forward.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename Choice>
Choice choice_of(const std::string& name,
                 std::initializer_list<std::pair<const char*, Choice>> all) {
  for (const auto& [known, choice] : all) {
    if (name == known) return choice;
  }
  throw nb::value_error(("unknown name '" + name + "'").c_str());
}

Format format_of(const std::string& name) {
  return choice_of<Format>(
      name,
      {{"f32", Format::kF32}, {"bf16", Format::kBf16}, {"w8", Format::kW8}, {"w4", Format::kW4}});
}

Activation activation_of(const std::string& name) {
  return choice_of<Activation>(name, {{"silu", Activation::kSilu},
                                      {"gelu_tanh", Activation::kGeluTanh},
                                      {"relu", Activation::kRelu}});
}

// A program and the Python arrays that it points into. Several threads may run steps, one after the
// other. score() and logits() are of the step that ran last, whoever ran it: between run() and
// score() of one batch no other thread may run.
class PyForward {
  template <typename Array>
  const float* keep(const Array& array) {
    kept_.push_back(nb::cast(array));
    return array.data();
  }
  const float* keep(const std::optional<Floats1>& array) { return array ? keep(*array) : nullptr; }

 public:
  PyForward(const PyForward&) = delete;
  PyForward& operator=(const PyForward&) = delete;
  PyForward(Pool& pool, const std::string& instruction_set, int64_t max_tokens, int64_t max_heads,
            int64_t max_model_len, bool joins_rows)
      : pool_(pool),
        set_(choose_instruction_set(instruction_set)),
        forward_(pool.threads(), *set_.kernels, {max_tokens, max_heads, max_model_len}, joins_rows),
        bounds_{max_tokens, max_model_len} {}

  const char* instruction_set() const { return set_.name; }

  View buffer(int64_t features) { return forward_.add_buffer(features); }
  Operand operand(const std::string& format, int64_t depth) {
    return forward_.add_operand(format_of(format), depth);
  }

  void embed(Floats2 table, bool by_position, View out) {
    auto rows = std::make_unique<EmbedRows>();
    rows->table = keep(table);
    rows->features = static_cast<int64_t>(table.shape(1));
    if (!by_position) {
      bounds_.num_entries = std::min(bounds_.num_entries, static_cast<int64_t>(table.shape(0)));
    }
    rows->by_position = by_position;
    rows->out = out;
    forward_.add_rows(std::move(rows));
  }

  void embed_panels(const std::string& format, Bytes panels, int64_t depth, View out) {
    const Format kind = format_of(format);
    auto rows = std::make_unique<EmbedColumns>();
    rows->embed = embed_of(*set_.kernels, kind);
    if (rows->embed == nullptr) throw nb::value_error("format: float32 tables are rows");
    kept_.push_back(nb::cast(panels));
    rows->panels = panels.data();
    rows->bytes_of_panel = panel_bytes(kind, padded(depth, depth_unit(kind)));
    bounds_.num_entries = std::min(bounds_.num_entries, static_cast<int64_t>(panels.shape(0)) /
                                                            rows->bytes_of_panel * kPanelColumns);
    rows->features = depth;
    rows->out = out;
    forward_.add_rows(std::move(rows));
  }

  void norm(View x, View out, Floats1 weight, std::optional<Floats1> bias, float eps,
            bool subtracts_mean) {
    auto rows = std::make_unique<NormRows>();
    rows->kernels = set_.kernels;
    rows->x = x;
    rows->out = out;
    rows->features = static_cast<int64_t>(weight.shape(0));
    rows->weight = keep(weight);
    rows->bias = keep(bias);
    rows->eps = eps;
    rows->subtracts_mean = subtracts_mean;
    forward_.add_rows(std::move(rows));
  }

  void prepare(View x, int64_t features, Operand operand, const std::string& format) {
    auto rows = std::make_unique<PrepareRows>();
    rows->prepare = prepare_of(*set_.kernels, format_of(format));
    rows->x = x;
    rows->features = features;
    rows->to = operand;
    forward_.add_rows(std::move(rows));
  }

  void head_norm(View x, int64_t num_heads, Floats1 weight, float eps) {
    auto rows = std::make_unique<HeadNormRows>();
    rows->kernels = set_.kernels;
    rows->x = x;
    rows->num_heads = num_heads;
    rows->head_dim = static_cast<int64_t>(weight.shape(0));
    rows->weight = keep(weight);
    rows->eps = eps;
    forward_.add_rows(std::move(rows));
  }

  void rotate(View x, int64_t num_heads, int64_t head_dim, Floats2 cosines, Floats2 sines) {
    auto rows = std::make_unique<RotateRows>();
    rows->kernels = set_.kernels;
    rows->x = x;
    rows->num_heads = num_heads;
    rows->head_dim = head_dim;
    rows->num_pairs = static_cast<int64_t>(cosines.shape(1));
    rows->cosines = keep(cosines);
    rows->sines = keep(sines);
    forward_.add_rows(std::move(rows));
  }

  void add(View a, View b, View out, int64_t features) {
    auto rows = std::make_unique<AddRows>();
    rows->kernels = set_.kernels;
    rows->a = a;
    rows->b = b;
    rows->out = out;
    rows->features = features;
    forward_.add_rows(std::move(rows));
  }

  void scale(View x, float factor, View out, int64_t features) {
    auto rows = std::make_unique<ScaleRows>();
    rows->kernels = set_.kernels;
    rows->x = x;
    rows->out = out;
    rows->features = features;
    rows->factor = factor;
    forward_.add_rows(std::move(rows));
  }

  void activate(const std::string& activation, View x, std::optional<View> factor, View out,
                int64_t features) {
    auto rows = std::make_unique<ActivateRows>();
    rows->kernels = set_.kernels;
    rows->activation = activation_of(activation);
    rows->x = x;
    rows->factor = factor.value_or(View{});
    rows->out = out;
    rows->features = features;
    forward_.add_rows(std::move(rows));
  }

  void begin_heads() { forward_.begin_heads(); }
  void end_heads(View logits, int64_t vocab_size) {
    forward_.end_heads(logits);
    vocab_size_ = vocab_size;
  }

  void take(View x, int64_t features, View out) {
    auto rows = std::make_unique<TakeRows>();
    rows->x = x;
    rows->out = out;
    rows->features = features;
    forward_.add_rows(std::move(rows));
  }

  int pool(WritableBytes pages, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
           const std::string& format) {
    kept_.push_back(nb::cast(pages));
    const KvFormat kv = choice_of<KvFormat>(
        format, {{"f32", KvFormat::kF32}, {"bf16", KvFormat::kBf16}, {"int8", KvFormat::kInt8}});
    const PagePool pool{pages.data(), num_layers, num_kv_heads, head_dim, kv};
    bounds_.num_pages.push_back(static_cast<int64_t>(pages.shape(0)) / pool.page_bytes());
    return forward_.add_pool(pool);
  }

  void write_kv(int pool, int64_t layer, View keys, View values) {
    forward_.add_write_kv(pool, layer, keys, values);
  }

  void attend(int pool, int64_t layer, int64_t heads_of_one, int64_t window, float scale,
              View queries, View out) {
    forward_.add_attend(pool, layer, heads_of_one, window, scale, queries, out);
  }

  void product(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
               int64_t depth, std::optional<Floats1> bias, View out) {
    ProductFinish finish;
    finish.out = out;
    forward_.add_product(operand, weights_of(format, panels, num_panels, depth, bias), finish);
  }

  void product_added(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
                     int64_t depth, std::optional<Floats1> bias, View addend, View out) {
    ProductFinish finish;
    finish.kind = Finish::kAdd;
    finish.addend = addend;
    finish.out = out;
    forward_.add_product(operand, weights_of(format, panels, num_panels, depth, bias), finish);
  }

  void product_gated(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
                     int64_t depth, std::optional<Floats1> bias, const std::string& activation,
                     std::optional<View> out, std::optional<Operand> next,
                     const std::string& next_format, int64_t features) {
    ProductFinish finish;
    finish.kind = Finish::kGate;
    finish.activation = activation_of(activation);
    finish.out = out.value_or(View{});
    finish.features = features;
    if (next) {
      finish.operand = *next;
      finish.prepare = prepare_of(*set_.kernels, format_of(next_format));
    }
    forward_.add_product(operand, weights_of(format, panels, num_panels, depth, bias), finish);
  }

  int64_t run(nb::handle batch_object, NativeSampler& sampler, nb::handle tokens, nb::handle errors,
              nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
              nb::handle top_logprobs) {
    const Attributes batch(batch_object, names_);
    const StepArrays arrays(batch, bounds_);
    const auto head_rows = batch.array<int32_t>("sample_rows");
    const int64_t num_rows = head_rows.size();
    if (num_rows == 0) {
      run_released(arrays.step, nullptr, 0, nullptr, {});
      return 0;
    }
    head_rows.require_shape(&num_rows, 1);
    check_heads(head_rows, arrays.step.num_tokens);
    check_sampler(sampler);
    const nb::object sampling = batch.get("sampling");
    const SamplingBatch draws(Attributes(sampling, names_), num_rows, vocab_size_);
    const SampledRows sampled(tokens, errors, logprobs, num_top, top_ids, top_logprobs,
                              draws.arrays.num_logprobs, num_rows, vocab_size_);
    run_released(arrays.step, head_rows.data(), num_rows, &sampler,
                 {&draws.arrays, nullptr, nullptr, sampled.arrays});
    return sampled.num_failed();
  }

  void compute(nb::handle batch) {
    const StepArrays arrays(Attributes(batch, names_), bounds_);
    run_released(arrays.step, nullptr, 0, nullptr, {});
  }

  void score(nb::handle head_rows_object, NativeSampler& sampler, nb::handle targets_object,
             nb::handle wanted, nb::handle errors, nb::handle logprobs, nb::handle num_top,
             nb::handle top_ids, nb::handle top_logprobs) {
    const Int32Array head_rows(head_rows_object.ptr(), "head_rows", Array::Access::kRead);
    const int64_t num_rows = head_rows.size();
    head_rows.require_shape(&num_rows, 1);
    check_sampler(sampler);
    const Targets targets(targets_object, wanted, num_rows, vocab_size_);
    const SampledRows scored(nb::handle(), errors, logprobs, num_top, top_ids, top_logprobs,
                             targets.wanted(), num_rows, vocab_size_);
    nb::gil_scoped_release released;
    const auto turn = turn_.take();
    check_heads(head_rows, num_tokens_);
    const auto turn_of_rows = sampler.take_turn();
    sampler.rows().begin({nullptr, targets.ids(), targets.wanted(), scored.arrays});
    forward_.run_heads(head_rows.data(), num_rows, &sampler.rows());
  }

  // Of at most max_heads rows: (rows, vocab), as they are until the next heads are computed.
  nb::ndarray<nb::numpy, float, nb::ndim<2>> logits(nb::handle self, nb::handle head_rows_object) {
    const Int32Array head_rows(head_rows_object.ptr(), "head_rows", Array::Access::kRead);
    const int64_t num_rows = head_rows.size();
    if (num_rows > forward_.limits().max_heads) {
      throw nb::value_error("head_rows: more than the program was compiled for");
    }
    head_rows.require_shape(&num_rows, 1);
    {
      nb::gil_scoped_release released;
      const auto turn = turn_.take();
      check_heads(head_rows, num_tokens_);
      forward_.run_heads(head_rows.data(), num_rows, nullptr);
    }
    const View view = forward_.logits();
    const size_t shape[] = {static_cast<size_t>(num_rows), static_cast<size_t>(vocab_size_)};
    const int64_t strides[] = {view.stride, 1};
    return nb::ndarray<nb::numpy, float, nb::ndim<2>>(view.data, 2, shape, self, strides);
  }

  void profile(bool on) { forward_.profile(on); }

  nb::dict seconds() const {
    nb::dict found;
    for (const auto& [kind, seconds] : forward_.seconds()) found[kind.c_str()] = seconds;
    return found;
  }

 private:
  // Computes a step, and with a sampler does `task` with the logits of the rows.
  void run_released(const Step& step, const int32_t* head_rows, int64_t num_rows,
                    NativeSampler* sampler, const SamplerTask& task) {
    nb::gil_scoped_release released;
    const auto turn = turn_.take();
    num_tokens_ = step.num_tokens;
    if (sampler == nullptr) {
      forward_.run(step, head_rows, num_rows, nullptr);
      return;
    }
    const auto turn_of_rows = sampler->take_turn();
    sampler->rows().begin(task);
    forward_.run(step, head_rows, num_rows, &sampler->rows());
  }

  // Needs no GIL.
  static void check_heads(const Int32Array& head_rows, int64_t num_tokens) {
    for (int64_t i = 0; i < head_rows.size(); ++i) {
      if (!is_below(head_rows.data()[i], num_tokens)) {
        throw nb::value_error("head_rows: not a row of the step");
      }
    }
  }

  void check_sampler(const NativeSampler& sampler) const {
    if (sampler.vocab_size() != vocab_size_ || &sampler.pool() != &pool_) {
      throw nb::value_error("sampler: made for another vocabulary or another pool");
    }
  }

  ProductWeights weights_of(const std::string& format, const Bytes& panels, int64_t num_panels,
                            int64_t depth, const std::optional<Floats1>& bias) {
    const Format kind = format_of(format);
    const int64_t whole = padded(depth, depth_unit(kind));
    if (static_cast<int64_t>(panels.shape(0)) != num_panels * panel_bytes(kind, whole)) {
      throw nb::value_error("panels: not the bytes of that many panels");
    }
    kept_.push_back(nb::cast(panels));
    return ProductWeights{kind, panels.data(), num_panels, whole, keep(bias)};
  }

  const Pool& pool_;
  const InstructionSet& set_;
  Forward forward_;
  AttributeNames names_;  // of batches
  std::vector<nb::object> kept_;
  StepBounds bounds_;
  int64_t vocab_size_ = 0;
  Turn turn_;
  int64_t num_tokens_ = 0;  // of the last step; of whoever has the turn
};

}  // namespace

void bind_forward(nb::module_& module) {
  nb::class_<View>(module, "View").def("columns", [](View view, int64_t first) {
    return View{view.data + first, view.stride};
  });
  nb::class_<Operand>(module, "Operand");
  nb::class_<PyForward>(module, "Forward")
      .def(nb::init<Pool&, const std::string&, int64_t, int64_t, int64_t, bool>(), nb::arg("pool"),
           nb::arg("instruction_set"), nb::arg("max_tokens"), nb::arg("max_heads"),
           nb::arg("max_model_len"), nb::arg("joins_rows"), nb::keep_alive<1, 2>())
      .def_prop_ro("instruction_set", &PyForward::instruction_set)
      .def("buffer", &PyForward::buffer, nb::arg("features"))
      .def("operand", &PyForward::operand, nb::arg("format"), nb::arg("depth"))
      .def("embed", &PyForward::embed, nb::arg("table").noconvert(), nb::arg("by_position"),
           nb::arg("out"))
      .def("embed_panels", &PyForward::embed_panels, nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("depth"), nb::arg("out"))
      .def("norm", &PyForward::norm, nb::arg("x"), nb::arg("out"), nb::arg("weight").noconvert(),
           nb::arg("bias").noconvert().none(), nb::arg("eps"), nb::arg("subtracts_mean"))
      .def("prepare", &PyForward::prepare, nb::arg("x"), nb::arg("features"), nb::arg("operand"),
           nb::arg("format"))
      .def("head_norm", &PyForward::head_norm, nb::arg("x"), nb::arg("num_heads"),
           nb::arg("weight").noconvert(), nb::arg("eps"))
      .def("rotate", &PyForward::rotate, nb::arg("x"), nb::arg("num_heads"), nb::arg("head_dim"),
           nb::arg("cosines").noconvert(), nb::arg("sines").noconvert())
      .def("add", &PyForward::add, nb::arg("a"), nb::arg("b"), nb::arg("out"), nb::arg("features"))
      .def("scale", &PyForward::scale, nb::arg("x"), nb::arg("factor"), nb::arg("out"),
           nb::arg("features"))
      .def("activate", &PyForward::activate, nb::arg("activation"), nb::arg("x"),
           nb::arg("factor").none(), nb::arg("out"), nb::arg("features"))
      .def("begin_heads", &PyForward::begin_heads)
      .def("end_heads", &PyForward::end_heads, nb::arg("logits"), nb::arg("vocab_size"))
      .def("take", &PyForward::take, nb::arg("x"), nb::arg("features"), nb::arg("out"))
      .def("pool", &PyForward::pool, nb::arg("pages").noconvert(), nb::arg("num_layers"),
           nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("format"))
      .def("write_kv", &PyForward::write_kv, nb::arg("pool"), nb::arg("layer"), nb::arg("keys"),
           nb::arg("values"))
      .def("attend", &PyForward::attend, nb::arg("pool"), nb::arg("layer"), nb::arg("heads_of_one"),
           nb::arg("window"), nb::arg("scale"), nb::arg("queries"), nb::arg("out"))
      .def("product", &PyForward::product, nb::arg("operand"), nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("num_panels"), nb::arg("depth"),
           nb::arg("bias").noconvert().none(), nb::arg("out"))
      .def("product_added", &PyForward::product_added, nb::arg("operand"), nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("num_panels"), nb::arg("depth"),
           nb::arg("bias").noconvert().none(), nb::arg("addend"), nb::arg("out"))
      .def("product_gated", &PyForward::product_gated, nb::arg("operand"), nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("num_panels"), nb::arg("depth"),
           nb::arg("bias").noconvert().none(), nb::arg("activation"), nb::arg("out").none(),
           nb::arg("next").none(), nb::arg("next_format"), nb::arg("features"))
      .def("run", &PyForward::run, nb::arg("batch"), nb::arg("sampler"), nb::arg("tokens").none(),
           nb::arg("errors").none(), nb::arg("logprobs").none(), nb::arg("num_top").none(),
           nb::arg("top_ids").none(), nb::arg("top_logprobs").none())
      .def("compute", &PyForward::compute, nb::arg("batch"))
      .def("score", &PyForward::score, nb::arg("head_rows").none(), nb::arg("sampler"),
           nb::arg("targets").none(), nb::arg("wanted").none(), nb::arg("errors").none(),
           nb::arg("logprobs").none(), nb::arg("num_top").none(), nb::arg("top_ids").none(),
           nb::arg("top_logprobs").none())
      .def(
          "logits",
          [](nb::handle self, nb::handle head_rows) {
            return nb::cast<PyForward&>(self).logits(self, head_rows);
          },
          nb::arg("head_rows").none())
      .def("profile", &PyForward::profile, nb::arg("on"))
      .def("seconds", &PyForward::seconds);
}

}  // namespace octavo
