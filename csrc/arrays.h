// The strict boundary between Python arrays and kernels: what an argument must be, said once.
#pragma once

#include <Python.h>

#include <cstdint>
#include <initializer_list>

namespace octavo {

// What one element of an array is. bfloat16 has no name in the buffer protocol: its bits are kU16.
enum class Element { kF32, kF16, kI8, kU8, kU16, kI32, kU32, kI64, kU64 };

// Borrows the memory of an argument through the buffer protocol for the length of one call.
// Nothing is converted or copied: an argument that does not fit raises TypeError with its name.
class Array {
 public:
  enum class Access { kRead, kWrite };

  // Throws nanobind::python_error (TypeError) unless `object` is a C-contiguous array of one of
  // `elements` in native byte order, aligned to their size and, for kWrite, writable.
  Array(PyObject* object, const char* name, std::initializer_list<Element> elements, Access access);
  ~Array() { PyBuffer_Release(&view_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  const char* name() const { return name_; }
  Element element() const { return element_; }
  int num_dims() const { return view_.ndim; }
  int64_t dim(int index) const { return view_.shape[index]; }
  int64_t size() const { return view_.len / view_.itemsize; }
  void* memory() const { return view_.buf; }

  // Throws TypeError unless the shape is the one given.
  void require_shape(const int64_t* shape, int num_dims) const;

  // Throws ValueError if the two share a byte; with `same_is_fine`, one and the same memory passes.
  void require_apart_from(const Array& other, bool same_is_fine) const;

 private:
  const char* name_;
  Element element_;
  Py_buffer view_;
};

template <typename T>
inline constexpr Element kElementOf = Element::kF32;
template <>
inline constexpr Element kElementOf<int8_t> = Element::kI8;
template <>
inline constexpr Element kElementOf<uint8_t> = Element::kU8;
template <>
inline constexpr Element kElementOf<uint16_t> = Element::kU16;
template <>
inline constexpr Element kElementOf<int32_t> = Element::kI32;
template <>
inline constexpr Element kElementOf<uint32_t> = Element::kU32;
template <>
inline constexpr Element kElementOf<int64_t> = Element::kI64;
template <>
inline constexpr Element kElementOf<uint64_t> = Element::kU64;

template <typename T>
class ArrayOf : public Array {
 public:
  ArrayOf(PyObject* object, const char* name, Access access)
      : Array(object, name, {kElementOf<T>}, access) {}
  T* data() const { return static_cast<T*>(memory()); }
};

using FloatArray = ArrayOf<float>;
using Int8Array = ArrayOf<int8_t>;
using Uint8Array = ArrayOf<uint8_t>;
using Uint16Array = ArrayOf<uint16_t>;
using Int32Array = ArrayOf<int32_t>;

[[noreturn]] void raise_type_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace octavo
