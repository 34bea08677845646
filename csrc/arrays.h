// The strict boundary between Python arrays and kernels: what an argument must be, said once.
#pragma once

#include <Python.h>

#include <cstdint>

namespace octavo {

// Borrows the memory of an argument through the buffer protocol for the length of one call.
// Nothing is converted or copied: an argument that does not fit raises TypeError with its name.
class FloatArray {
 public:
  enum class Access { kRead, kWrite };

  // Throws nanobind::python_error (TypeError) unless `object` is a C-contiguous float32 array in
  // native byte order, aligned to 4 bytes and, for kWrite, writable.
  FloatArray(PyObject* object, const char* name, Access access);
  ~FloatArray() { PyBuffer_Release(&view_); }
  FloatArray(const FloatArray&) = delete;
  FloatArray& operator=(const FloatArray&) = delete;

  const char* name() const { return name_; }
  int num_dims() const { return view_.ndim; }
  int64_t dim(int index) const { return view_.shape[index]; }
  int64_t size() const { return view_.len / 4; }
  float* data() const { return static_cast<float*>(view_.buf); }

  // Throws TypeError unless the shape is the one given.
  void require_shape(const int64_t* shape, int num_dims) const;

  // Throws ValueError if the two share a byte; with `same_is_fine`, one and the same memory passes.
  void require_apart_from(const FloatArray& other, bool same_is_fine) const;

 private:
  const char* name_;
  Py_buffer view_;
};

[[noreturn]] void raise_type_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace octavo
