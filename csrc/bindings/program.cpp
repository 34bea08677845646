// What Python says of each call, as the executor wants it.
#include "bindings/program.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "bindings/names.h"
#include "executor/formats.h"

namespace nb = nanobind;

namespace octavo {

Program::Program(Pool& pool, const std::string& instruction_set, ForwardLimits limits,
                 bool joins_rows, bool finds_peaks)
    : set_(choose_instruction_set(instruction_set)),
      forward_(pool.threads(), *set_.kernels, limits, joins_rows, finds_peaks),
      bounds_{limits.max_tokens, limits.max_model_len} {}

Operand Program::operand(const std::string& format, int64_t depth) {
  return forward_.add_operand(format_of(format), depth);
}

void Program::embed(Floats2 table, bool by_position, View out) {
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

void Program::embed_panels(const std::string& format, Bytes panels, int64_t depth, View out) {
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

void Program::norm(View x, View out, Floats1 weight, std::optional<Floats1> bias, float eps,
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

void Program::prepare(View x, int64_t features, Operand operand, const std::string& format) {
  auto rows = std::make_unique<PrepareRows>();
  rows->prepare = prepare_of(*set_.kernels, format_of(format));
  rows->x = x;
  rows->features = features;
  rows->to = operand;
  forward_.add_rows(std::move(rows));
}

void Program::head_norm(View x, int64_t num_heads, Floats1 weight, float eps) {
  auto rows = std::make_unique<HeadNormRows>();
  rows->kernels = set_.kernels;
  rows->x = x;
  rows->num_heads = num_heads;
  rows->head_dim = static_cast<int64_t>(weight.shape(0));
  rows->weight = keep(weight);
  rows->eps = eps;
  forward_.add_rows(std::move(rows));
}

void Program::rotate(View x, int64_t num_heads, int64_t head_dim, Floats2 cosines, Floats2 sines) {
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

void Program::add(View a, View b, View out, int64_t features) {
  auto rows = std::make_unique<AddRows>();
  rows->kernels = set_.kernels;
  rows->a = a;
  rows->b = b;
  rows->out = out;
  rows->features = features;
  forward_.add_rows(std::move(rows));
}

void Program::scale(View x, float factor, View out, int64_t features) {
  auto rows = std::make_unique<ScaleRows>();
  rows->kernels = set_.kernels;
  rows->x = x;
  rows->out = out;
  rows->features = features;
  rows->factor = factor;
  forward_.add_rows(std::move(rows));
}

void Program::activate(const std::string& activation, View x, std::optional<View> factor, View out,
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

void Program::end_heads(View logits, int64_t vocab_size) {
  forward_.end_heads(logits, vocab_size);
  vocab_size_ = vocab_size;
}

void Program::take(View x, int64_t features, View out) {
  auto rows = std::make_unique<TakeRows>();
  rows->x = x;
  rows->out = out;
  rows->features = features;
  forward_.add_rows(std::move(rows));
}

int Program::pool(WritableBytes pages, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
                  const std::string& format) {
  kept_.push_back(nb::cast(pages));
  const PagePool pool{pages.data(), num_layers, num_kv_heads, head_dim, kv_format_of(format)};
  bounds_.num_pages.push_back(static_cast<int64_t>(pages.shape(0)) / pool.page_bytes());
  return forward_.add_pool(pool);
}

void Program::write_kv(int pool, int64_t layer, View keys, View values) {
  forward_.add_write_kv(pool, layer, keys, values);
}

void Program::attend(int pool, int64_t layer, int64_t heads_of_one, int64_t window, float scale,
                     View queries, View out) {
  forward_.add_attend(pool, layer, heads_of_one, window, scale, queries, out);
}

void Program::product(Operand operand, const std::string& format, Bytes panels, int64_t num_panels,
                      int64_t depth, std::optional<Floats1> bias, View out) {
  ProductFinish finish;
  finish.out = out;
  forward_.add_product(operand, weights_of(format, panels, num_panels, depth, bias), finish);
}

void Program::product_added(Operand operand, const std::string& format, Bytes panels,
                            int64_t num_panels, int64_t depth, std::optional<Floats1> bias,
                            View addend, View out) {
  ProductFinish finish;
  finish.kind = Finish::kAdd;
  finish.addend = addend;
  finish.out = out;
  forward_.add_product(operand, weights_of(format, panels, num_panels, depth, bias), finish);
}

void Program::product_gated(Operand operand, const std::string& format, Bytes panels,
                            int64_t num_panels, int64_t depth, std::optional<Floats1> bias,
                            const std::string& activation, std::optional<View> out,
                            std::optional<Operand> next, const std::string& next_format,
                            int64_t features) {
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

ProductWeights Program::weights_of(const std::string& format, const Bytes& panels,
                                   int64_t num_panels, int64_t depth,
                                   const std::optional<Floats1>& bias) {
  const Format kind = format_of(format);
  const int64_t whole = padded(depth, depth_unit(kind));
  if (static_cast<int64_t>(panels.shape(0)) != num_panels * panel_bytes(kind, whole)) {
    throw nb::value_error("panels: not the bytes of that many panels");
  }
  kept_.push_back(nb::cast(panels));
  return ProductWeights{kind, panels.data(), num_panels, whole, keep(bias)};
}

}  // namespace octavo
