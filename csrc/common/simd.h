// One source, several instruction sets: a function marked MABM_CLONES is compiled for each of them
// and the loader picks the best at run time, so that one wheel works on every x86-64 machine.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define MABM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MABM_CLONES
#endif
