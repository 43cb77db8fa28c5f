// Checks kernels of screening without PyTorch: the products, the bounds and the hits of a tile. The
// tests compile it for processors that this one is not, and run it in an emulator.
//
// KERNELS is a macro, the file with the kernels. A line for each kernel says what is wrong; the
// last one is "N kernels checked, N wrong".

#include KERNELS

#include <cstdio>
#include <limits>
#include <vector>

namespace mabm {
namespace {

// Depths: a step or few, and more than what a kernel multiplies at a time.
constexpr int64_t kFloatDepths[] = {1, 387};
constexpr int64_t kQuantizedDepths[] = {4, 100};
constexpr int64_t kLongDepth = 1540;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Random {
 public:
  // Uniform in [low, high).
  float between(float low, float high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * static_cast<float>(state_ >> 40) * 0x1p-24f;
  }

 private:
  uint64_t state_ = 1;
};

// One side of a tile: entries, packed entries, and terms.
template <class Entry>
struct Side {
  std::vector<Entry> entries;
  std::vector<Entry> packed;
  std::vector<int32_t> starts;
  std::vector<float> biases, residuals, scales, lost, lengths;

  Side(Random& random, const ScreenKernel& kernel, int64_t depth, int width, int offset)
      : entries(kTile * depth),
        packed(kTile * depth),
        starts(kTile),
        biases(kTile),
        residuals(kTile),
        scales(kTile),
        lost(kTile),
        lengths(kTile) {
    for (int sample = 0; sample < kTile; ++sample) {
      biases[sample] = random.between(-1, 1);
      residuals[sample] = random.between(0, 1);
      scales[sample] = random.between(0.001f, 0.01f);
      lost[sample] = random.between(0, 0.1f);
      lengths[sample] = random.between(0, 2);
      for (int64_t k = 0; k < depth; ++k) {
        const float entry = random.between(-127, 128);
        entries[sample * depth + k] = static_cast<Entry>(entry);
        starts[sample] -= static_cast<int32_t>(kernel.offset * entries[sample * depth + k]);
        packed[sample / width * width * depth +
               (k / kStep<Entry> * width + sample % width) * kStep<Entry> + k % kStep<Entry>] =
            static_cast<Entry>(entries[sample * depth + k] + static_cast<Entry>(offset));
      }
    }
  }

  BlockTerms terms() const {
    return {biases.data(), residuals.data(), scales.data(),
            lost.data(),   lengths.data(),   starts.data()};
  }
};

double magnitude(double value) { return value < 0 ? -value : value; }

template <class Entry>
int count_wrong(const ScreenKernel& kernel, int64_t depth) {
  constexpr bool kIsQuantized = sizeof(Entry) == 1;
  Random random;
  Side<Entry> left(random, kernel, depth, kernel.rows, kernel.offset);
  Side<Entry> right(random, kernel, depth, kernel.columns, 0);
  std::vector<float> lowest(kTile, -kInfinity);
  std::vector<float> sums(kTile * kTile);
  std::vector<Hit> hits(kTile * kTile);
  std::vector<float> bounds(kTile * kTile, std::numeric_limits<float>::quiet_NaN());
  Tile tile{left.packed.data(),
            right.packed.data(),
            depth,
            left.terms(),
            right.terms(),
            lowest.data(),
            0,
            lowest.data(),
            0,
            sums.data(),
            hits.data()};
  // Everything exceeds the lowest thresholds, and comes once.
  int num_wrong = 0;
  int num_hits = kernel.scan(tile);
  num_wrong += num_hits != kTile * kTile;
  for (int at = 0; at < num_hits; ++at) {
    float& bound = bounds[hits[at].row * kTile + hits[at].column];
    num_wrong += bound == bound || !hits[at].hit_row || !hits[at].hit_column;
    bound = hits[at].bound;
  }
  for (int row = 0; row < kTile; row += 7) {  // which takes every place in a panel
    for (int column = 0; column < kTile; ++column) {
      double product = 0;
      double size = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double term = static_cast<double>(left.entries[row * depth + k]) *
                            static_cast<double>(right.entries[column * depth + k]);
        product += term;
        size += magnitude(term);
      }
      double expected = product;
      double tolerance = size * static_cast<double>(depth + 4) * 0x1p-24;
      if (kIsQuantized) {
        const double scale = static_cast<double>(left.scales[row]) * right.scales[column];
        expected = product * scale + static_cast<double>(left.lost[row]) * right.lengths[column] +
                   static_cast<double>(left.lengths[row]) * right.lost[column];
        tolerance = magnitude(product) * scale * 0x1p-22;
      }
      expected += static_cast<double>(left.residuals[row]) * right.residuals[column];
      const double bound = bounds[row * kTile + column];
      num_wrong += !(magnitude(bound - expected) <= tolerance + 0x1p-20);
    }
  }
  // Any thresholds, a row of them for each panel of the other side; and what is not a number hits.
  std::vector<float> row_thresholds(kTile * kTile), column_thresholds(kTile * kTile);
  const float reach = bounds[0] == 0 ? 1 : 2 * static_cast<float>(magnitude(bounds[0]));
  for (auto* thresholds : {&row_thresholds, &column_thresholds}) {
    for (float& threshold : *thresholds) {
      threshold = random.between(0, 1) < 0.1f ? kInfinity : random.between(-reach, 2 * reach);
    }
  }
  left.biases[7] = right.biases[11] = std::numeric_limits<float>::quiet_NaN();
  left.biases[5] = right.biases[kTile - 1] = -kInfinity;
  tile.row_thresholds = row_thresholds.data();
  tile.column_thresholds = column_thresholds.data();
  tile.row_stride = tile.column_stride = kTile;
  for (const bool scans_columns : {true, false}) {
    if (!scans_columns) {
      tile.column_thresholds = nullptr;
    }
    std::vector<int> found(kTile * kTile);
    num_hits = kernel.scan(tile);
    for (int at = 0; at < num_hits; ++at) {
      const int pair = hits[at].row * kTile + hits[at].column;
      num_wrong += found[pair] != 0 || hits[at].bound != bounds[pair];
      found[pair] = (hits[at].hit_row ? 1 : 0) + (hits[at].hit_column ? 2 : 0);
    }
    for (int row = 0; row < kTile; ++row) {
      for (int column = 0; column < kTile; ++column) {
        const float bound = bounds[row * kTile + column];
        const float of_row = row_thresholds[column / kernel.columns * kTile + row];
        const float of_column = column_thresholds[row / kernel.rows * kTile + column];
        const bool hits_row = !(bound + right.biases[column] <= of_row);
        const bool hits_column = scans_columns && !(bound + left.biases[row] <= of_column);
        const int expected = (hits_row ? 1 : 0) + (hits_column ? 2 : 0);
        num_wrong += found[row * kTile + column] != expected;
      }
    }
  }
  return num_wrong;
}

struct Results {
  int num_checked = 0;
  int num_wrong = 0;

  void check(const ScreenKernel& kernel, const char* operands, bool is_quantized) {
    int num_wrong = 0;
    for (const int64_t depth : is_quantized ? kQuantizedDepths : kFloatDepths) {
      num_wrong +=
          is_quantized ? count_wrong<int8_t>(kernel, depth) : count_wrong<float>(kernel, depth);
    }
    if (is_quantized) {
      num_wrong += !multiplies_exactly(kernel, kLongDepth);
    }
    std::printf("%s %s: %d wrong\n", operands, kernel.name, num_wrong);
    ++this->num_checked;
    this->num_wrong += num_wrong != 0;
  }
};

}  // namespace
}  // namespace mabm

int main() {
  using namespace mabm;
  Results results;
  results.check(portable_float_kernel(), "float32", false);
  results.check(portable_quantized_kernel(), "int8", true);
#if MABM_X86
  // Where instructions are functions that imitate them, no processor needs to have them.
#if defined(IMITATED)
  const bool has_512 = true, has_512_vnni = true, has_vnni = true, has_2 = true;
#else
  const bool has_512 = __builtin_cpu_supports("avx512f");
  const bool has_512_vnni = __builtin_cpu_supports("avx512vnni");
  const bool has_vnni = __builtin_cpu_supports("avxvnni");
  const bool has_2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  if (has_2) {
    results.check(avx2::kFloat, "float32", false);
  }
  if (has_512) {
    results.check(avx512::kFloat, "float32", false);
  }
  if (has_512_vnni) {
    results.check(avx512_vnni::kQuantized, "int8", true);
  }
#if __GNUC__ >= 11
  if (has_vnni) {
    results.check(avx_vnni::kQuantized, "int8", true);
  }
#endif
#elif MABM_ARM
  results.check(neon::kFloat, "float32", false);
#if MABM_ARM_DOT
  if (&quantized_kernel() == &neon_dot::kQuantized) {
    results.check(neon_dot::kQuantized, "int8", true);
  }
#endif
#endif
  std::printf("chosen: float32 %s, int8 %s\n", float_kernel().name, quantized_kernel().name);
  std::printf("%d kernels checked, %d wrong\n", results.num_checked, results.num_wrong);
  return results.num_wrong != 0;
}
