// Every op of the library: its schema and nothing else. The implementations are in ops/<backend>/,
// the fake kernels in mabm/_core/registrations.py, both under the same names.
//
// Rows of unequal length are CSR: indptr (N + 1) int64, indices (nnz) int32. An encoding adds
// weights (nnz) int32 in units of 2^-30 (common/fixed_point.h). The ops check shapes and dtypes
// everywhere. On the CPU they also check the values that address memory or could overflow, such as
// numbers of rows and groups (ops/arguments.h). On CUDA that would wait for the device: there
// values are for the callers to see to, as the public functions do.

#include <Python.h>  // in its limited form, by -DPy_LIMITED_API
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include "common/interrupts.h"

// What setup.py built with, empty for the CPU alone.
#if !defined(MABM_CUDA_VERSION)
#define MABM_CUDA_VERSION
#define MABM_CUDA_ARCHITECTURES
#endif
#define MABM_AS_WRITTEN(...) #__VA_ARGS__
#define MABM_TEXT(...) MABM_AS_WRITTEN(__VA_ARGS__)

STABLE_TORCH_LIBRARY(mabm, m) {
  // Adds one tile of scores, products + biases, to each row's running candidates, list by list.
  m.def(
      "collect_candidates_(Tensor products, Tensor biases, Tensor row_groups, Tensor "
      "column_groups, "
      "Tensor list_of_group, int first_column, Tensor(a!) candidate_scores, "
      "Tensor(b!) candidates, Tensor(c!) counts, Tensor(d!) thresholds) -> ()");
  // Rescores the candidates exactly; certified tells which rows are proven complete.
  m.def(
      "rank_candidates(Tensor features, Tensor rows, Tensor candidate_scores, Tensor candidates, "
      "Tensor counts, Tensor thresholds, Tensor error_bounds, int[] widths, bool euclidean) "
      "-> (Tensor ranks, Tensor scores, Tensor certified)");
  // Ranks whole rows by exact scores alone.
  m.def(
      "rank_exactly(Tensor features, Tensor rows, Tensor groups, Tensor list_of_group, "
      "int[] widths, bool euclidean) -> (Tensor ranks, Tensor scores)");
  m.def("reciprocal_mask(Tensor ranks) -> Tensor");
  m.def(
      "expand_neighbors(Tensor ranks, Tensor mask, Tensor? half_ranks, Tensor? half_mask) "
      "-> (Tensor indptr, Tensor indices)");
  m.def(
      "encode_neighbors(Tensor features, Tensor indptr, Tensor indices) "
      "-> (Tensor indptr, Tensor indices, Tensor weights)");
  m.def(
      "average_encodings(Tensor indptr, Tensor indices, Tensor weights, Tensor neighbors, "
      "Tensor neighbor_weights) -> (Tensor indptr, Tensor indices, Tensor weights)");
  m.def(
      "jaccard_distance(Tensor row_indptr, Tensor row_indices, Tensor row_weights, "
      "Tensor column_indptr, Tensor column_indices, Tensor column_weights, int num_samples) "
      "-> Tensor");
  m.def(
      "jaccard_graph(Tensor indptr, Tensor indices, Tensor weights, float max_distance) "
      "-> (Tensor indptr, Tensor indices, Tensor distances)");
  m.def(
      "dbscan(Tensor indptr, Tensor indices, Tensor distances, float eps, int min_samples) "
      "-> Tensor");
}

namespace {

// Hands out the exception that interrupted an op, once; None where there is none.
PyObject* take_interruption(PyObject*, PyObject*) {
  PyObject* taken = mabm::interruption;
  mabm::interruption = nullptr;
  return taken != nullptr ? taken : Py_BuildValue("");
}

// Remembers Python's main thread, to which signals go, whichever thread imports this.
bool find_main_thread() {
  PyObject* threading = PyImport_ImportModule("threading");
  PyObject* thread = threading ? PyObject_CallMethod(threading, "main_thread", nullptr) : nullptr;
  PyObject* ident = thread ? PyObject_GetAttrString(thread, "ident") : nullptr;
  if (ident != nullptr) {
    mabm::main_thread = PyLong_AsUnsignedLong(ident);
  }
  Py_XDECREF(ident);
  Py_XDECREF(thread);
  Py_XDECREF(threading);
  return PyErr_Occurred() == nullptr;
}

PyMethodDef methods[] = {{"take_interruption", take_interruption, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

// Importing mabm._C loads this library, and loading it registers the ops. The module itself tells
// how it was built, for mabm.build_info(), and what interrupted an op.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr || !find_main_thread() ||
      PyModule_AddStringConstant(module, "TORCH_VERSION", TORCH_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "CUDA_VERSION", MABM_TEXT(MABM_CUDA_VERSION)) != 0 ||
      PyModule_AddStringConstant(module, "CUDA_ARCHITECTURES",
                                 MABM_TEXT(MABM_CUDA_ARCHITECTURES)) != 0) {
    Py_XDECREF(module);
    return nullptr;
  }
  return module;
}
