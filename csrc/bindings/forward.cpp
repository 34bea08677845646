// Steps of a program, without the GIL; and the one class of Python that builds it and runs them.
#include "bindings/forward.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "bindings/attributes.h"
#include "bindings/pool.h"
#include "bindings/program.h"
#include "bindings/sampler.h"
#include "bindings/step_arrays.h"
#include "bindings/turn.h"

namespace nb = nanobind;

namespace octavo {
namespace {

// Several threads may run steps, one after the other. score() and logits() are of the step that ran
// last, whoever ran it: between run() and score() of one batch no other thread may run.
class PyForward {
 public:
  PyForward(const PyForward&) = delete;
  PyForward& operator=(const PyForward&) = delete;
  PyForward(Pool& pool, const std::string& instruction_set, int64_t max_tokens, int64_t max_heads,
            int64_t max_model_len, bool joins_rows, bool finds_peaks)
      : pool_(pool),
        program_(pool, instruction_set, {max_tokens, max_heads, max_model_len}, joins_rows,
                 finds_peaks) {}

  Program& program() { return program_; }
  const char* instruction_set() const { return program_.instruction_set(); }

  int64_t run(nb::handle batch_object, NativeSampler& sampler, nb::handle tokens, nb::handle errors,
              nb::handle logprobs, nb::handle num_top, nb::handle top_ids,
              nb::handle top_logprobs) {
    const Attributes batch(batch_object, names_);
    const StepArrays arrays(batch, program_.bounds());
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
    const SamplingBatch draws(Attributes(sampling, names_), num_rows, program_.vocab_size());
    const SampledRows sampled(tokens, errors, logprobs, num_top, top_ids, top_logprobs,
                              draws.arrays.num_logprobs, num_rows, program_.vocab_size());
    run_released(arrays.step, head_rows.data(), num_rows, &sampler,
                 {&draws.arrays, nullptr, nullptr, sampled.arrays});
    return sampled.num_failed();
  }

  void compute(nb::handle batch) {
    const StepArrays arrays(Attributes(batch, names_), program_.bounds());
    run_released(arrays.step, nullptr, 0, nullptr, {});
  }

  void score(nb::handle head_rows_object, NativeSampler& sampler, nb::handle targets_object,
             nb::handle wanted, nb::handle errors, nb::handle logprobs, nb::handle num_top,
             nb::handle top_ids, nb::handle top_logprobs) {
    const Int32Array head_rows(head_rows_object.ptr(), "head_rows", Array::Access::kRead);
    const int64_t num_rows = head_rows.size();
    head_rows.require_shape(&num_rows, 1);
    check_sampler(sampler);
    const Targets targets(targets_object, wanted, num_rows, program_.vocab_size());
    const SampledRows scored(nb::handle(), errors, logprobs, num_top, top_ids, top_logprobs,
                             targets.wanted(), num_rows, program_.vocab_size());
    nb::gil_scoped_release released;
    const auto turn = turn_.take();
    check_heads(head_rows, num_tokens_);
    const auto turn_of_rows = sampler.take_turn();
    sampler.rows().begin({nullptr, targets.ids(), targets.wanted(), scored.arrays});
    program_.forward().run_heads(head_rows.data(), num_rows, &sampler.rows());
  }

  // Of at most max_heads rows: (rows, vocab), as they are until the next heads are computed.
  nb::ndarray<nb::numpy, float, nb::ndim<2>> logits(nb::handle self, nb::handle head_rows_object) {
    const Int32Array head_rows(head_rows_object.ptr(), "head_rows", Array::Access::kRead);
    const int64_t num_rows = head_rows.size();
    if (num_rows > program_.forward().limits().max_heads) {
      throw nb::value_error("head_rows: more than the program was compiled for");
    }
    head_rows.require_shape(&num_rows, 1);
    {
      nb::gil_scoped_release released;
      const auto turn = turn_.take();
      check_heads(head_rows, num_tokens_);
      program_.forward().run_heads(head_rows.data(), num_rows, nullptr);
    }
    const View view = program_.forward().logits();
    const size_t shape[] = {static_cast<size_t>(num_rows),
                            static_cast<size_t>(program_.vocab_size())};
    const int64_t strides[] = {view.stride, 1};
    return nb::ndarray<nb::numpy, float, nb::ndim<2>>(view.data, 2, shape, self, strides);
  }

  void profile(bool on) { program_.forward().profile(on); }

  nb::dict seconds() const {
    nb::dict found;
    for (const auto& [kind, seconds] : program_.forward().seconds()) found[kind.c_str()] = seconds;
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
      program_.forward().run(step, head_rows, num_rows, nullptr);
      return;
    }
    const auto turn_of_rows = sampler->take_turn();
    sampler->rows().begin(task);
    program_.forward().run(step, head_rows, num_rows, &sampler->rows());
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
    if (sampler.vocab_size() != program_.vocab_size() || &sampler.pool() != &pool_) {
      throw nb::value_error("sampler: made for another vocabulary or another pool");
    }
  }

  const Pool& pool_;
  Program program_;
  AttributeNames names_;  // of batches
  Turn turn_;
  int64_t num_tokens_ = 0;  // of the last step; of whoever has the turn
};

// What Python asks of a Forward and its program does.
template <typename Result, typename... Arguments>
auto of_program(Result (Program::*method)(Arguments...)) {
  return [method](PyForward& self, Arguments... arguments) -> Result {
    return (self.program().*method)(std::forward<Arguments>(arguments)...);
  };
}

}  // namespace

void bind_forward(nb::module_& module) {
  nb::class_<View>(module, "View").def("columns", [](View view, int64_t first) {
    return View{view.data + first, view.stride};
  });
  nb::class_<Operand>(module, "Operand");
  nb::class_<PyForward>(module, "Forward")
      .def(nb::init<Pool&, const std::string&, int64_t, int64_t, int64_t, bool, bool>(),
           nb::arg("pool"), nb::arg("instruction_set"), nb::arg("max_tokens"), nb::arg("max_heads"),
           nb::arg("max_model_len"), nb::arg("joins_rows"), nb::arg("finds_peaks"),
           nb::keep_alive<1, 2>())
      .def_prop_ro("instruction_set", &PyForward::instruction_set)
      .def("buffer", of_program(&Program::buffer), nb::arg("features"))
      .def("operand", of_program(&Program::operand), nb::arg("format"), nb::arg("depth"))
      .def("embed", of_program(&Program::embed), nb::arg("table").noconvert(),
           nb::arg("by_position"), nb::arg("out"))
      .def("embed_panels", of_program(&Program::embed_panels), nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("depth"), nb::arg("out"))
      .def("norm", of_program(&Program::norm), nb::arg("x"), nb::arg("out"),
           nb::arg("weight").noconvert(), nb::arg("bias").noconvert().none(), nb::arg("eps"),
           nb::arg("subtracts_mean"))
      .def("prepare", of_program(&Program::prepare), nb::arg("x"), nb::arg("features"),
           nb::arg("operand"), nb::arg("format"))
      .def("head_norm", of_program(&Program::head_norm), nb::arg("x"), nb::arg("num_heads"),
           nb::arg("weight").noconvert(), nb::arg("eps"))
      .def("rotate", of_program(&Program::rotate), nb::arg("x"), nb::arg("num_heads"),
           nb::arg("head_dim"), nb::arg("cosines").noconvert(), nb::arg("sines").noconvert())
      .def("add", of_program(&Program::add), nb::arg("a"), nb::arg("b"), nb::arg("out"),
           nb::arg("features"))
      .def("scale", of_program(&Program::scale), nb::arg("x"), nb::arg("factor"), nb::arg("out"),
           nb::arg("features"))
      .def("activate", of_program(&Program::activate), nb::arg("activation"), nb::arg("x"),
           nb::arg("factor").none(), nb::arg("out"), nb::arg("features"))
      .def("begin_heads", of_program(&Program::begin_heads))
      .def("end_heads", of_program(&Program::end_heads), nb::arg("logits"), nb::arg("vocab_size"))
      .def("take", of_program(&Program::take), nb::arg("x"), nb::arg("features"), nb::arg("out"))
      .def("pool", of_program(&Program::pool), nb::arg("pages").noconvert(), nb::arg("num_layers"),
           nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("format"))
      .def("write_kv", of_program(&Program::write_kv), nb::arg("pool"), nb::arg("layer"),
           nb::arg("keys"), nb::arg("values"))
      .def("attend", of_program(&Program::attend), nb::arg("pool"), nb::arg("layer"),
           nb::arg("heads_of_one"), nb::arg("window"), nb::arg("scale"), nb::arg("queries"),
           nb::arg("out"))
      .def("product", of_program(&Program::product), nb::arg("operand"), nb::arg("format"),
           nb::arg("panels").noconvert(), nb::arg("num_panels"), nb::arg("depth"),
           nb::arg("bias").noconvert().none(), nb::arg("out"))
      .def("product_added", of_program(&Program::product_added), nb::arg("operand"),
           nb::arg("format"), nb::arg("panels").noconvert(), nb::arg("num_panels"),
           nb::arg("depth"), nb::arg("bias").noconvert().none(), nb::arg("addend"), nb::arg("out"))
      .def("product_gated", of_program(&Program::product_gated), nb::arg("operand"),
           nb::arg("format"), nb::arg("panels").noconvert(), nb::arg("num_panels"),
           nb::arg("depth"), nb::arg("bias").noconvert().none(), nb::arg("activation"),
           nb::arg("out").none(), nb::arg("next").none(), nb::arg("next_format"),
           nb::arg("features"))
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
