// Reciprocity and expansion: from neighbor lists to neighbor sets (method steps 2 and 3).

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/row_blocks.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

// mask[b, m]: ranks[i, m] = j, i = rows[b], is present and i is in ranks[j]. R(i) = {j in N(i) : i
// in N(j)}.
Tensor reciprocal_mask(const Tensor& ranks, const std::optional<Tensor>& rows) {
  const ChosenRows chosen = check_reciprocal_mask(ranks, rows);
  const int64_t width = ranks.size(1);
  Tensor mask = make_tensor<bool>({chosen.count, width});
  const int64_t* rank = read<int64_t>(ranks);
  bool* out = write<bool>(mask);
  for_each_row(chosen.count, [&](int64_t number) {
    const int64_t row = chosen[number];
    for (int64_t column = 0; column < width; ++column) {
      const int64_t other = rank[row * width + column];
      const int64_t* list = rank + other * width;
      out[number * width + column] =
          other >= 0 && std::find(list, list + width, row) != list + width;
    }
  });
  return mask;
}

// Calls body(member) for every member of a row.
template <class Body>
void for_each_member(const MaskedRanks& lists, int64_t row, const Body& body) {
  for (int64_t column = row * lists.width; column < (row + 1) * lists.width; ++column) {
    if (lists.mask[column]) {
      body(lists.ranks[column]);
    }
  }
}

// E(i): R(i), and R_half(q) for each q in R(i) with |R_half(q) & R(i)| > 2/3 |R_half(q)|. With half
// lists, which all samples have, `ranks` may be those of fewer rows.
std::tuple<Tensor, Tensor> expand_neighbors(const Tensor& ranks, const Tensor& mask,
                                            const std::optional<Tensor>& half_ranks,
                                            const std::optional<Tensor>& half_mask) {
  const ListsToExpand given = check_expand_neighbors(ranks, mask, half_ranks, half_mask);
  const MaskedRanks& lists = given.lists;
  const MaskedRanks& half = given.half;
  // stamp[j] = 2 * row + 1 where j is in R(row), 2 * row + 2 where only the expansion adds it. A
  // thread takes its rows in ascending order, so what an earlier row stamped is smaller.
  const auto make_scratch = [&] { return std::vector<int64_t>(given.num_samples, 0); };
  auto rows = RaggedRows<int32_t>::build(
      given.num_rows, make_scratch,
      [&](int64_t row, std::vector<int32_t>& indices, std::vector<int32_t>&,
          std::vector<int64_t>& stamp) {
        const auto start = static_cast<int64_t>(indices.size());
        const int64_t original = 2 * row + 1;
        for_each_member(lists, row, [&](int64_t j) {
          if (stamp[j] < original) {
            stamp[j] = original;
            indices.push_back(static_cast<int32_t>(j));
          }
        });
        const auto num_reciprocal = static_cast<int64_t>(indices.size()) - start;
        for (int64_t slot = start; half.width > 0 && slot < start + num_reciprocal; ++slot) {
          const int64_t q = indices[slot];
          int64_t size = 0;
          int64_t common = 0;
          for_each_member(half, q, [&](int64_t j) {
            ++size;
            common += stamp[j] == original;
          });
          if (3 * common <= 2 * size) {
            continue;
          }
          for_each_member(half, q, [&](int64_t j) {
            if (stamp[j] < original) {
              stamp[j] = original + 1;
              indices.push_back(static_cast<int32_t>(j));
            }
          });
        }
        std::sort(indices.begin() + start, indices.end());
      });
  Tensor indices = make_tensor<int32_t>({rows.num_entries()});
  rows.pack(indices, nullptr);
  return {rows.indptr, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("reciprocal_mask", TORCH_BOX(&reciprocal_mask));
  m.impl("expand_neighbors", TORCH_BOX(&expand_neighbors));
}

}  // namespace mabm
