// Ctrl-C during an op: Python's signal handlers run while the op works, not after it.
//
// Signals reach only Python's main thread. An op called there asks Python about ten times a second
// whether one has come. Where its handler raises, what it raised is kept here, the op ends with an
// error, and mabm._core.extension.interruptible raises what was kept. In other threads and in a
// process that never imported mabm._C nothing is asked.
#pragma once

#include <Python.h>

#include <chrono>
#include <stdexcept>
#include <string>

namespace mabm {

class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// State of the module, guarded by Python's lock: the main thread (0 before the import), and the
// exception that interrupted an op and has not been taken yet.
inline unsigned long main_thread = 0;
inline PyObject* interruption = nullptr;

// Runs Python's handlers of pending signals, if this is the main thread and at least 100 ms have
// passed since the last time; throws Interrupted if one of them raised.
inline void check_interrupts() {
  using Clock = std::chrono::steady_clock;
  static Clock::time_point next;  // read and written on the main thread only
  if (main_thread == 0 || PyThread_get_thread_ident() != main_thread) {
    return;
  }
  const auto now = Clock::now();
  if (now < next) {
    return;
  }
  next = now + std::chrono::milliseconds(100);
  const PyGILState_STATE lock = PyGILState_Ensure();
  if (PyErr_CheckSignals() == 0) {
    PyGILState_Release(lock);
    return;
  }
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) {
    PyException_SetTraceback(value, traceback);
  }
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  Py_XDECREF(interruption);
  interruption = value;
  PyGILState_Release(lock);
  throw Interrupted("interrupted by a signal: what its handler raised is yet to be raised");
}

}  // namespace mabm
