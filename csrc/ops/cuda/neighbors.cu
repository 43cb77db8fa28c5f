// Reciprocity and expansion on the GPU.

#include <optional>
#include <tuple>

#include "kernels/neighbors.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

Tensor reciprocal_mask(const Tensor& ranks) {
  check_ranks(ranks, "ranks");
  const OnDevice on(ranks);
  Tensor mask = on.make<bool>({ranks.size(0), ranks.size(1)}, "the reciprocal mask");
  on.check(launch_reciprocal_mask(read<int64_t>(ranks), ranks.size(0), ranks.size(1),
                                  write<bool>(mask), on.stream()),
           "reciprocity");
  return mask;
}

std::tuple<Tensor, Tensor> expand_neighbors(const Tensor& ranks, const Tensor& mask,
                                            const std::optional<Tensor>& half_ranks,
                                            const std::optional<Tensor>& half_mask) {
  const MaskedRanks lists = read_masked(ranks, mask, "ranks");
  const MaskedRanks half = read_half(ranks, half_ranks, half_mask);
  const int64_t num_rows = ranks.size(0);
  const OnDevice on(ranks);
  Tensor accepted = on.make<bool>({num_rows, lists.width}, "the accepted expansions");
  const auto pass = [&](const RowCounts& rows, const int64_t* starts, int32_t* indices,
                        const TableScratch* scratch) {
    return launch_expand_neighbors(lists, half, num_rows, write<bool>(accepted), rows, starts,
                                   indices, scratch, on.stream());
  };
  const GatheredRows sets = gather_rows<false>(
      on, num_rows,
      [&](const RowCounts& rows, const TableScratch* scratch) {
        return pass(rows, nullptr, nullptr, scratch);
      },
      [&](const RowCounts& rows, const int64_t* starts, int32_t* indices, int32_t*,
          const TableScratch* scratch) { return pass(rows, starts, indices, scratch); });
  return {sets.indptr, sets.indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("reciprocal_mask", TORCH_BOX(&reciprocal_mask));
  m.impl("expand_neighbors", TORCH_BOX(&expand_neighbors));
}

}  // namespace mabm
