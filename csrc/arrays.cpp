// Checks of array arguments. Messages name the argument, what it is and what it should be.
#include "arrays.h"

#include <nanobind/nanobind.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

namespace octavo {
namespace {

std::string shape_text(const int64_t* shape, int num_dims) {
  std::string text = "(";
  for (int i = 0; i < num_dims; ++i) {
    text += std::to_string(shape[i]);
    if (i + 1 < num_dims || num_dims == 1) text += num_dims == 1 ? "," : ", ";
  }
  return text + ")";
}

struct Traits {
  const char* name;
  const char* formats;  // of the buffer protocol, one letter each
  int size;
};

Traits traits(Element element) {
  switch (element) {
    case Element::kF32:
      return {"float32", "f", 4};
    case Element::kF16:
      return {"float16", "e", 2};
    case Element::kU16:
      return {"uint16", "H", 2};
    case Element::kU8:
      return {"uint8", "B", 1};
    case Element::kI8:
      return {"int8", "b", 1};
    case Element::kI32:
      return {"int32", "il", 4};
    case Element::kU32:
      return {"uint32", "IL", 4};
    case Element::kI64:
      return {"int64", "lq", 8};
    case Element::kU64:
      return {"uint64", "LQ", 8};
  }
  return {};
}

std::string names_of(std::initializer_list<Element> elements) {
  std::string names;
  for (const Element element : elements) {
    if (!names.empty()) names += " or ";
    names += traits(element).name;
  }
  return names;
}

bool is_contiguous(const Py_buffer& view) {
  if (view.len == 0) return true;
  Py_ssize_t expected = view.itemsize;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

}  // namespace

void raise_type_error(const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  PyErr_SetString(PyExc_TypeError, message);
  throw nanobind::python_error();
}

Array::Array(PyObject* object, const char* name, std::initializer_list<Element> elements,
             Access access)
    : name_(name), element_(*elements.begin()) {
  // Ask without PyBUF_WRITABLE and look at `readonly` afterwards: the message is then ours.
  if (PyObject_GetBuffer(object, &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    raise_type_error("%s: expected a %s array", name, names_of(elements).c_str());
  }
  const char* format = view_.format == nullptr ? "B" : view_.format;
  bool fits = false;
  for (const Element element : elements) {
    if (std::strlen(format) != 1 || !std::strchr(traits(element).formats, *format)) continue;
    element_ = element;
    fits = true;
  }
  std::string problem;
  if (!fits || view_.itemsize != traits(element_).size) {
    problem = "dtype is not " + names_of(elements) + " in native byte order";
  } else if (!is_contiguous(view_)) {
    problem = "array is not C-contiguous";
  } else if (reinterpret_cast<uintptr_t>(view_.buf) % traits(element_).size != 0) {
    problem = "array is not aligned to " + std::to_string(traits(element_).size) + " bytes";
  } else if (access == Access::kWrite && view_.readonly) {
    problem = "array is read-only";
  }
  if (!problem.empty()) {
    const std::string format_copy(format);
    PyBuffer_Release(&view_);
    raise_type_error("%s: %s (buffer format '%s')", name, problem.c_str(), format_copy.c_str());
  }
}

void Array::require_shape(const int64_t* shape, int num_dims) const {
  bool equal = num_dims == view_.ndim;
  for (int i = 0; equal && i < num_dims; ++i) equal = view_.shape[i] == shape[i];
  if (equal) return;
  int64_t own[PyBUF_MAX_NDIM];
  for (int i = 0; i < view_.ndim; ++i) own[i] = view_.shape[i];
  raise_type_error("%s: shape is %s, expected %s", name_, shape_text(own, view_.ndim).c_str(),
                   shape_text(shape, num_dims).c_str());
}

void Array::require_apart_from(const Array& other, bool same_is_fine) const {
  const char* begin = static_cast<const char*>(view_.buf);
  const char* other_begin = static_cast<const char*>(other.view_.buf);
  if (same_is_fine && begin == other_begin && view_.len == other.view_.len) return;
  if (begin < other_begin + other.view_.len && other_begin < begin + view_.len) {
    const std::string message = std::string(name_) + ": shares memory with " + other.name_;
    PyErr_SetString(PyExc_ValueError, message.c_str());
    throw nanobind::python_error();
  }
}

}  // namespace octavo
