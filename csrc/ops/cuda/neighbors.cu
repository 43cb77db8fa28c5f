// Reciprocity and expansion on the GPU.

#include <optional>
#include <tuple>

#include "kernels/neighbors.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

Tensor reciprocal_mask(const Tensor& ranks, const std::optional<Tensor>& rows) {
  const ChosenRows chosen = check_reciprocal_mask(ranks, rows);
  const OnDevice on(ranks);
  Tensor mask = on.make<bool>({chosen.count, ranks.size(1)}, "the reciprocal mask");
  on.check(launch_reciprocal_mask(read<int64_t>(ranks), chosen, ranks.size(1), write<bool>(mask),
                                  on.stream()),
           "reciprocity");
  return mask;
}

std::tuple<Tensor, Tensor> expand_neighbors(const Tensor& ranks, const Tensor& mask,
                                            const std::optional<Tensor>& half_ranks,
                                            const std::optional<Tensor>& half_mask) {
  const ListsToExpand given = check_expand_neighbors(ranks, mask, half_ranks, half_mask);
  const OnDevice on(ranks);
  const size_t shared_bytes = on.most_shared();
  Tensor accepted = on.make<bool>({given.num_rows, given.lists.width}, "the accepted expansions");
  on.check(launch_accept_halves(given, shared_bytes, write<bool>(accepted), on.stream()),
           "accepting expansions");
  Tensor counts = on.make<int32_t>({given.num_rows}, "the counts of rows");
  const auto pass = [&](const int64_t* starts, int32_t* indices) {
    return launch_expand_neighbors(given, shared_bytes, read<bool>(accepted),
                                   write<int32_t>(counts), starts, indices, on.stream());
  };
  on.check(pass(nullptr, nullptr), "counting neighbors");
  Tensor starts = starts_of(on, counts);
  Tensor indices = on.make<int32_t>({read_total(on, starts)}, "the sets of neighbors");
  on.check(pass(read<int64_t>(starts), write<int32_t>(indices)), "writing neighbors");
  return {starts, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("reciprocal_mask", TORCH_BOX(&reciprocal_mask));
  m.impl("expand_neighbors", TORCH_BOX(&expand_neighbors));
}

}  // namespace mabm
