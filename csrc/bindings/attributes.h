// Arrays that are attributes of Python objects: `batch.token_ids` is read here, not in Python.
#pragma once

#include <nanobind/nanobind.h>

#include <unordered_map>

#include "arrays.h"

namespace octavo {

// Names that Python has hashed once. They are string literals, known by their address.
class AttributeNames {
 public:
  nanobind::handle of(const char* literal) {
    nanobind::object& name = names_[literal];
    if (!name.is_valid()) {
      name = nanobind::steal<nanobind::object>(PyUnicode_InternFromString(literal));
    }
    return name;
  }

 private:
  std::unordered_map<const char*, nanobind::object> names_;
};

// One object's attributes.
class Attributes {
 public:
  Attributes(nanobind::handle object, AttributeNames& names) : object_(object), names_(names) {}

  nanobind::object get(const char* name) const {
    return nanobind::getattr(object_, names_.of(name));
  }

  template <typename T>
  ArrayOf<T> array(const char* name) const {
    return ArrayOf<T>(get(name).ptr(), name, Array::Access::kRead);
  }

 private:
  nanobind::handle object_;
  AttributeNames& names_;
};

}  // namespace octavo
