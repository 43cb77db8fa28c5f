// How launchers of the bench come into its Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace mabm {

namespace py = pybind11;

// Arrays must be of the very type and contiguous: nothing is converted.
template <class Result, class... Args>
void define(py::module_& module, const char* name, Result (*function)(Args...)) {
  module.def(name, function, ((void)sizeof(Args), py::arg().noconvert())...);
}

// The launchers of bench_rows.cpp.
void define_rows(py::module_& module);

}  // namespace mabm
