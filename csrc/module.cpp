// The Python module mabm._C. Importing it loads this library, which registers the ops; the module
// itself reports how it was built, for mabm.build_info(), and what interrupted an op.

#include <Python.h>  // in its limited form, by -DPy_LIMITED_API
#include <torch/headeronly/version.h>

#include "common/interrupts.h"
#include "common/screening.h"

// What setup.py built with, empty for CPU only.
#if !defined(MABM_CUDA_VERSION)
#define MABM_CUDA_VERSION
#define MABM_CUDA_ARCHITECTURES
#endif
#define MABM_AS_WRITTEN(...) #__VA_ARGS__
#define MABM_TEXT(...) MABM_AS_WRITTEN(__VA_ARGS__)

namespace {

// Returns the exception that interrupted an op, once; None if there is none.
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

// Instruction sets of screening: the one used for float32, the one that the processor has for int8,
// and the one used for int8.
PyObject* screen_kernels(PyObject*, PyObject*) {
  return Py_BuildValue("(sss)", mabm::float_kernel().name, mabm::supported_quantized_kernel().name,
                       mabm::quantized_kernel().name);
}

PyMethodDef methods[] = {{"take_interruption", take_interruption, METH_NOARGS, nullptr},
                         {"screen_kernels", screen_kernels, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

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
