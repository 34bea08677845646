// What indexes memory is checked here, before anything is computed.
#include "bindings/step_arrays.h"

namespace nb = nanobind;

namespace octavo {

StepArrays::StepArrays(const Attributes& batch, const StepBounds& bounds)
    : token_ids_(batch.array<int32_t>("token_ids")),
      positions_(batch.array<int32_t>("positions")),
      row_starts_(batch.array<int32_t>("row_starts")) {
  for (const Int32Array* array : {&token_ids_, &positions_, &row_starts_}) {
    const int64_t size = array->size();
    array->require_shape(&size, 1);
  }
  step.token_ids = token_ids_.data();
  step.positions = positions_.data();
  step.row_starts = row_starts_.data();
  step.num_tokens = token_ids_.size();
  step.num_seqs = row_starts_.size() - 1;
  const nb::object tables = batch.get("page_tables");
  for (nb::handle object : tables) {
    const Int32Array& table =
        tables_.emplace_back(object.ptr(), "page_tables", Array::Access::kRead);
    if (table.num_dims() != 2 || table.dim(0) != step.num_seqs) {
      throw nb::value_error("tables: one row for each sequence is needed");
    }
    step.tables.push_back({table.data(), table.dim(1)});
  }
  require(bounds);
}

void StepArrays::require(const StepBounds& bounds) const {
  if (step.num_tokens > bounds.max_tokens) {
    throw nb::value_error("token_ids: more than the program was compiled for");
  }
  const int32_t* row_starts = step.row_starts;
  if (positions_.size() != step.num_tokens || step.num_seqs < 1 || row_starts[0] != 0 ||
      row_starts[step.num_seqs] != step.num_tokens ||
      step.tables.size() != bounds.num_pages.size()) {
    throw nb::value_error("the arrays of a step do not fit each other");
  }
  for (int64_t seq = 0; seq < step.num_seqs; ++seq) {
    if (row_starts[seq] > row_starts[seq + 1]) throw nb::value_error("row_starts: not ascending");
  }
  for (int64_t seq = 0; seq < step.num_seqs; ++seq) {
    for (int32_t row = row_starts[seq]; row < row_starts[seq + 1]; ++row) {
      if (!is_below(step.token_ids[row], bounds.num_entries)) {
        throw nb::value_error("token_ids: not in the vocabulary");
      }
      if (!is_below(step.positions[row], bounds.max_model_len)) {
        throw nb::value_error("positions: beyond the longest sequence");
      }
      // Attention, too, takes the first and the last row of a tile for its lowest and highest.
      if (row > row_starts[seq] && step.positions[row] < step.positions[row - 1]) {
        throw nb::value_error("positions: not ascending");
      }
    }
    if (row_starts[seq] == row_starts[seq + 1]) continue;
    const int64_t last_page = step.positions[row_starts[seq + 1] - 1] / kPageTokens;
    for (size_t pool = 0; pool < step.tables.size(); ++pool) {
      const PageTable& table = step.tables[pool];
      if (last_page >= table.width) throw nb::value_error("tables: too narrow for a position");
      const int32_t* pages = table.pages + seq * table.width;
      for (int64_t page = 0; page <= last_page; ++page) {
        if (!is_below(pages[page], bounds.num_pages[pool])) {
          throw nb::value_error("tables: a page that there is not");
        }
      }
    }
  }
}

}  // namespace octavo
