// Paged attention by itself, for its tests and benchmarks: queries, pages and units of the formats
// bf16 and int8. The executor calls the same functions of the kernel table.
#include "bindings/attention.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "arrays.h"
#include "bindings/pool.h"

namespace nb = nanobind;

namespace octavo {
namespace {

constexpr Array::Access kRead = Array::Access::kRead;
constexpr Array::Access kWrite = Array::Access::kWrite;

int64_t checked_head_dim(int64_t head_dim) {
  if (head_dim < 2 || head_dim > kMaxHeadDim || head_dim % 2 != 0) {
    throw nb::value_error("head_dim must be even and between 2 and 256");
  }
  return head_dim;
}

int checked_height(int64_t height) {
  if (height < 1 || height > kMaxTileRows) {
    throw nb::value_error("a unit has between 1 and 12 rows");
  }
  return static_cast<int>(height);
}

int64_t checked_num_pages(int64_t num_pages) {
  if (num_pages > kChunkPages) throw nb::value_error("a chunk has at most 16 pages");
  return num_pages;
}

void require_dims(const Array& array, int num_dims) {
  if (array.num_dims() == num_dims) return;
  raise_type_error("%s: has %d dimensions, expected %d", array.name(), array.num_dims(), num_dims);
}

// Units that lie one after the other in arrays.
struct Units {
  void (*attend)(const ChunkTask& task);
  ChunkTask first;
  int64_t query_bytes;           // of one unit
  const uint8_t* const* keys;    // (units, pages of a chunk)
  const uint8_t* const* values;  // likewise
  int64_t num_pages;
  int64_t num_units;

  static void run(const Units& units, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ChunkTask task = units.first;
      const int64_t row = i * task.height;
      task.queries = static_cast<const uint8_t*>(task.queries) + i * units.query_bytes;
      if (task.query_scales != nullptr) {
        task.query_scales += row;
        task.corrections += row;
      }
      task.keys = units.keys + i * units.num_pages;
      task.values = units.values + i * units.num_pages;
      if (i + 1 < units.num_units) {
        task.next_keys = task.keys + units.num_pages;
        task.num_next_keys = static_cast<int>(units.num_pages);
      }
      task.first += row;
      task.last += row;
      task.peaks += row;
      task.sums += row;
      task.out += row * task.head_dim;
      units.attend(task);
    }
  }
};

// The arrays of a call that both formats have.
struct CallArrays {
  Uint8Array keys, values;
  Int32Array page_table, first, last;
  FloatArray peaks, sums, out;
};

class AttentionKernels {
 public:
  AttentionKernels(Pool& pool, const std::string& instruction_set)
      : pool_(pool), set_(choose_instruction_set(instruction_set)) {}

  void exp_nonpositive(nb::handle x_object, nb::handle out_object) {
    const FloatArray x(x_object.ptr(), "x", kRead);
    const FloatArray out(out_object.ptr(), "out", kWrite);
    require_dims(x, 1);
    const int64_t shape[] = {x.dim(0)};
    out.require_shape(shape, 1);
    out.require_apart_from(x, true);
    const ElementsTask task{x.data(), out.data()};
    pool_.run(set_.kernels->exp_nonpositive, task, x.size(), 8192);
  }

  void queries_bf16(nb::handle x_object, nb::handle queries_object) {
    const FloatArray x(x_object.ptr(), "x", kRead);
    const Uint16Array queries(queries_object.ptr(), "queries", kWrite);
    QueriesTask task = queries_task(x);
    const int64_t shape[] = {task.head_dim / 2, task.height, 2};
    queries.require_shape(shape, 3);
    task.queries = queries.data();
    prepare(x, task, set_.kernels->queries_bf16);
  }

  void queries_int8(nb::handle x_object, nb::handle queries_object, nb::handle scales_object,
                    nb::handle corrections_object) {
    const FloatArray x(x_object.ptr(), "x", kRead);
    const Int8Array queries(queries_object.ptr(), "queries", kWrite);
    const FloatArray scales(scales_object.ptr(), "scales", kWrite);
    const Int32Array corrections(corrections_object.ptr(), "corrections", kWrite);
    QueriesTask task = queries_task(x);
    const int64_t shape[] = {padded(task.head_dim, 4) / 4, task.height, 4};
    const int64_t rows[] = {task.height};
    queries.require_shape(shape, 3);
    scales.require_shape(rows, 1);
    corrections.require_shape(rows, 1);
    task.queries = queries.data();
    task.scales = scales.data();
    task.corrections = corrections.data();
    prepare(x, task, set_.kernels->queries_int8);
  }

  void write_kv_bf16(nb::handle key, nb::handle value, int slot, nb::handle key_page,
                     nb::handle value_page) {
    write(KvFormat::kBf16, set_.kernels->write_kv_bf16, key, value, slot, key_page, value_page);
  }

  void write_kv_int8(nb::handle key, nb::handle value, int slot, nb::handle key_page,
                     nb::handle value_page) {
    write(KvFormat::kInt8, set_.kernels->write_kv_int8, key, value, slot, key_page, value_page);
  }

  void attend_bf16(nb::handle queries_object, nb::handle keys, nb::handle values,
                   nb::handle page_table, nb::handle first, nb::handle last, float scale,
                   bool values_are_finite, nb::handle peaks, nb::handle sums, nb::handle out) {
    const Uint16Array queries(queries_object.ptr(), "queries", kRead);
    require_dims(queries, 4);
    const CallArrays arrays = call_arrays(keys, values, page_table, first, last, peaks, sums, out);
    const int64_t shape[] = {queries.dim(0), queries.dim(1), queries.dim(2), 2};
    queries.require_shape(shape, 4);
    Units units{};
    units.attend = set_.kernels->attend_bf16;
    units.first.queries = queries.data();
    units.first.scale = scale;
    units.first.values_are_finite = values_are_finite;
    units.query_bytes = queries.dim(1) * queries.dim(2) * 4;
    run(KvFormat::kBf16, queries, 2 * queries.dim(1), arrays, units);
  }

  void attend_int8(nb::handle queries_object, nb::handle scales_object,
                   nb::handle corrections_object, nb::handle keys, nb::handle values,
                   nb::handle page_table, nb::handle first, nb::handle last, float scale,
                   nb::handle peaks, nb::handle sums, nb::handle out_object) {
    const Int8Array queries(queries_object.ptr(), "queries", kRead);
    const FloatArray scales(scales_object.ptr(), "scales", kRead);
    const Int32Array corrections(corrections_object.ptr(), "corrections", kRead);
    require_dims(queries, 4);
    const CallArrays arrays =
        call_arrays(keys, values, page_table, first, last, peaks, sums, out_object);
    require_dims(arrays.out, 3);
    const int64_t head_dim = arrays.out.dim(2);
    const int64_t shape[] = {queries.dim(0), padded(head_dim, 4) / 4, queries.dim(2), 4};
    queries.require_shape(shape, 4);
    const int64_t rows[] = {queries.dim(0), queries.dim(2)};
    scales.require_shape(rows, 2);
    corrections.require_shape(rows, 2);
    Units units{};
    units.attend = set_.kernels->attend_int8;
    units.first.queries = queries.data();
    units.first.query_scales = scales.data();
    units.first.corrections = corrections.data();
    units.first.scale = scale;
    units.query_bytes = queries.dim(1) * queries.dim(2) * 4;
    run(KvFormat::kInt8, queries, head_dim, arrays, units);
  }

 private:
  static CallArrays call_arrays(nb::handle keys, nb::handle values, nb::handle page_table,
                                nb::handle first, nb::handle last, nb::handle peaks,
                                nb::handle sums, nb::handle out) {
    return CallArrays{{keys.ptr(), "keys", kRead},
                      {values.ptr(), "values", kRead},
                      {page_table.ptr(), "page_table", kRead},
                      {first.ptr(), "first", kRead},
                      {last.ptr(), "last", kRead},
                      {peaks.ptr(), "peaks", kWrite},
                      {sums.ptr(), "sums", kWrite},
                      {out.ptr(), "out", kWrite}};
  }

  static QueriesTask queries_task(const FloatArray& x) {
    require_dims(x, 2);
    QueriesTask task{};
    task.height = checked_height(x.dim(0));
    task.head_dim = checked_head_dim(x.dim(1));
    return task;
  }

  static void prepare(const FloatArray& x, QueriesTask& task, void (*kernel)(const QueriesTask&)) {
    const float* rows[kMaxTileRows];
    for (int r = 0; r < task.height; ++r) rows[r] = x.data() + r * task.head_dim;
    task.rows = rows;
    kernel(task);
  }

  static void write(KvFormat format, void (*kernel)(const KvWriteTask&), nb::handle key_object,
                    nb::handle value_object, int slot, nb::handle key_page_object,
                    nb::handle value_page_object) {
    const FloatArray key(key_object.ptr(), "key", kRead);
    const FloatArray value(value_object.ptr(), "value", kRead);
    const Uint8Array key_page(key_page_object.ptr(), "key_page", kWrite);
    const Uint8Array value_page(value_page_object.ptr(), "value_page", kWrite);
    require_dims(key, 1);
    const int64_t head_dim = checked_head_dim(key.dim(0));
    const int64_t dims[] = {head_dim};
    const int64_t bytes[] = {kv_bytes(format, head_dim)};
    value.require_shape(dims, 1);
    key_page.require_shape(bytes, 1);
    value_page.require_shape(bytes, 1);
    key_page.require_apart_from(value_page, false);
    if (slot < 0 || slot >= kPageTokens) throw nb::value_error("slot must be between 0 and 15");
    const KvWriteTask task{key.data(), value.data(),    head_dim,
                           slot,       key_page.data(), value_page.data()};
    kernel(task);
  }

  void run(KvFormat format, const Array& queries, int64_t head_dim, const CallArrays& arrays,
           Units& units) {
    const int64_t num_units = queries.dim(0);
    const int64_t height = checked_height(queries.dim(2));
    require_dims(arrays.keys, 2);
    require_dims(arrays.page_table, 2);
    const int64_t num_pool_pages = arrays.keys.dim(0);
    units.num_pages = checked_num_pages(arrays.page_table.dim(1));
    const int64_t pool_shape[] = {num_pool_pages, kv_bytes(format, checked_head_dim(head_dim))};
    const int64_t table_shape[] = {num_units, units.num_pages};
    const int64_t row_shape[] = {num_units, height};
    const int64_t out_shape[] = {num_units, height, head_dim};
    arrays.keys.require_shape(pool_shape, 2);
    arrays.values.require_shape(pool_shape, 2);
    arrays.page_table.require_shape(table_shape, 2);
    arrays.first.require_shape(row_shape, 2);
    arrays.last.require_shape(row_shape, 2);
    arrays.peaks.require_shape(row_shape, 2);
    arrays.sums.require_shape(row_shape, 2);
    arrays.out.require_shape(out_shape, 3);
    std::vector<const uint8_t*> keys(num_units * units.num_pages, nullptr);
    std::vector<const uint8_t*> values(keys.size(), nullptr);
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t page = arrays.page_table.data()[i];
      if (page >= num_pool_pages) throw nb::value_error("page_table: there is no such page");
      if (page < 0) continue;
      keys[i] = arrays.keys.data() + page * pool_shape[1];
      values[i] = arrays.values.data() + page * pool_shape[1];
    }
    check_ranges(arrays, num_units, height, units.num_pages);
    units.num_units = num_units;
    units.keys = keys.data();
    units.values = values.data();
    units.first.height = static_cast<int>(height);
    units.first.head_dim = head_dim;
    units.first.first = arrays.first.data();
    units.first.last = arrays.last.data();
    units.first.peaks = arrays.peaks.data();
    units.first.sums = arrays.sums.data();
    units.first.out = arrays.out.data();
    pool_.run(Units::run, units, num_units, 1);
  }

  // Throws ValueError unless every token that a row sees lies in a page.
  static void check_ranges(const CallArrays& arrays, int64_t num_units, int64_t height,
                           int64_t num_pages) {
    for (int64_t i = 0; i < num_units * height; ++i) {
      const int64_t first = arrays.first.data()[i];
      const int64_t last = arrays.last.data()[i];
      if (first >= last) continue;
      if (first < 0 || last > num_pages * kPageTokens) {
        throw nb::value_error("first, last: outside of the chunk's pages");
      }
      const int32_t* const table = arrays.page_table.data() + i / height * num_pages;
      for (int64_t page = first / kPageTokens; page * kPageTokens < last; ++page) {
        if (table[page] < 0)
          throw nb::value_error("page_table: a row sees a page that is not there");
      }
    }
  }

  Pool& pool_;
  const InstructionSet& set_;
};

}  // namespace

void bind_attention(nb::module_& module) {
  using K = AttentionKernels;
  nb::class_<K>(module, "AttentionKernels")
      .def(nb::init<Pool&, const std::string&>(), nb::arg("pool"), nb::arg("instruction_set") = "",
           nb::keep_alive<1, 2>())
      .def("exp_nonpositive", &K::exp_nonpositive, nb::arg("x").none(), nb::arg("out").none())
      .def("queries_bf16", &K::queries_bf16, nb::arg("x").none(), nb::arg("queries").none())
      .def("queries_int8", &K::queries_int8, nb::arg("x").none(), nb::arg("queries").none(),
           nb::arg("scales").none(), nb::arg("corrections").none())
      .def("write_kv_bf16", &K::write_kv_bf16, nb::arg("key").none(), nb::arg("value").none(),
           nb::arg("slot"), nb::arg("key_page").none(), nb::arg("value_page").none())
      .def("write_kv_int8", &K::write_kv_int8, nb::arg("key").none(), nb::arg("value").none(),
           nb::arg("slot"), nb::arg("key_page").none(), nb::arg("value_page").none())
      .def("attend_bf16", &K::attend_bf16, nb::arg("queries").none(), nb::arg("keys").none(),
           nb::arg("values").none(), nb::arg("page_table").none(), nb::arg("first").none(),
           nb::arg("last").none(), nb::arg("scale"), nb::arg("values_are_finite"),
           nb::arg("peaks").none(), nb::arg("sums").none(), nb::arg("out").none())
      .def("attend_int8", &K::attend_int8, nb::arg("queries").none(), nb::arg("scales").none(),
           nb::arg("corrections").none(), nb::arg("keys").none(), nb::arg("values").none(),
           nb::arg("page_table").none(), nb::arg("first").none(), nb::arg("last").none(),
           nb::arg("scale"), nb::arg("peaks").none(), nb::arg("sums").none(),
           nb::arg("out").none());
}

}  // namespace octavo
