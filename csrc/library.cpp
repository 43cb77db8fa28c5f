// Every op of the library: only its schema. The implementations are in ops/<backend>/,
// the fake kernels in mabm/_core/registrations.py, both under the same names.
//
// Rows of unequal length are CSR: indptr (N + 1) int64, indices (nnz) int32. An encoding adds
// weights (nnz) int32 in units of 2^-30 (common/fixed_point.h). The ops check shapes and dtypes
// everywhere. On the CPU they also check the values that address memory or could overflow, such as
// numbers of rows and groups (ops/arguments.h). On CUDA that would wait for the device: there
// values are for the callers to see to, as the public functions do.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mabm, m) {
  // Adds every pair of rows and columns that may be neighbors to the lists of the row and, if
  // mirrored, to those of the column; one pair once where both are the same block. Thresholds rise
  // while lists are collected, or in a call of their own before. What the arguments are:
  // mabm/distance/rungs.py (Rung), ops/screening_arguments.h.
  m.def(
      "screen_pairs_(Tensor operands, Tensor? center, float unit, Tensor biases, Tensor margins, "
      "Tensor residuals, Tensor slacks, Tensor? scales, Tensor? lost, Tensor? lengths, "
      "Tensor groups, Tensor list_of_group, int[] widths, Tensor rows, Tensor columns, "
      "Tensor places, bool mirrored, bool raises, bool collects, Tensor(a!) bounds, "
      "Tensor(b!) candidates, Tensor(c!) counts, Tensor(d!) lower_bounds, "
      "Tensor(e!) thresholds) -> ()");
  // Drops the candidates below the threshold of their list.
  m.def(
      "cut_candidates_(Tensor(a!) bounds, Tensor(b!) candidates, Tensor(c!) counts, "
      "Tensor thresholds) -> ()");
  // Mean, least and greatest number of each column: (3, D). The mean is of float64 sums.
  m.def("measure_columns(Tensor features) -> Tensor");
  // Squared lengths of the rows, of the centered rows, and their products with the center.
  m.def("measure_rows(Tensor features, Tensor center) -> Tensor");
  // Centered rows times a power of two in float16, rows and columns padded with zeros to multiples
  // of 64, and the length of what each row lost by that, in units of the features.
  m.def("halve_rows(Tensor features, Tensor center, Tensor scale) -> (Tensor halves, Tensor lost)");
  // Writes (B, P) int8 in [-127, 127], the rows (B, D) less the center divided by a scale for each,
  // and zeros beyond D. Returns (3, B) float32: the inverses of the scales, and the lengths of what
  // is left by rounding and of the rows, in units of the scales. A row that is not finite becomes
  // zeros, with the inverse 0 and infinite lengths.
  m.def("round_rows_(Tensor rows, Tensor? center, Tensor(a!) integers) -> Tensor");
  // Adds one tile of scores to each row's running candidates, list by list, and drops what is
  // proven to be none of the list's first `width` (common/rows.h). A tile has float32 products, or
  // int32 ones with scales of the rows and columns; transposed, it has the columns in its rows.
  // What it has beyond its rows and columns, to fill up the tile of a matrix product, is not read.
  m.def(
      "collect_candidates_(Tensor products, Tensor biases, Tensor row_groups, "
      "Tensor column_groups, Tensor list_of_group, int first_column, Tensor gaps, int[] widths, "
      "bool last, bool transposed, Tensor? row_scales, Tensor? column_scales, "
      "Tensor(a!) candidate_scores, Tensor(b!) candidates, Tensor(c!) counts, "
      "Tensor(d!) thresholds) -> ()");
  // Orders lists that contain all that may belong to them by exact scores. Lists of count -1 come
  // back empty. With bounds, candidates are scored from the greatest bound down, and no further
  // than needed: a score s is at most (bound + offset of the row) / area.
  m.def(
      "rank_candidates(Tensor features, Tensor rows, Tensor candidates, Tensor counts, "
      "int[] widths, bool euclidean, Tensor? bounds=None, Tensor? offsets=None, "
      "Tensor? area=None) -> (Tensor ranks, Tensor scores)");
  // Ranks whole rows by exact scores only.
  m.def(
      "rank_exactly(Tensor features, Tensor rows, Tensor groups, Tensor list_of_group, "
      "int[] widths, bool euclidean) -> (Tensor ranks, Tensor scores)");
  // Of all rows, or of some of them.
  m.def("reciprocal_mask(Tensor ranks, Tensor? rows=None) -> Tensor");
  m.def(
      "expand_neighbors(Tensor ranks, Tensor mask, Tensor? half_ranks, Tensor? half_mask) "
      "-> (Tensor indptr, Tensor indices)");
  // products: the exact inner products of the rows with their ranks, which need not be computed.
  m.def(
      "encode_neighbors(Tensor features, Tensor indptr, Tensor indices, Tensor? ranks, "
      "Tensor? products) -> (Tensor indptr, Tensor indices, Tensor weights)");
  // The weights of encode_neighbors from known products of the entries. A row without entries
  // becomes one-hot at first_row and its number; indices are not limited to the number of rows.
  m.def(
      "weigh_products(Tensor indptr, Tensor indices, Tensor products, int first_row) "
      "-> (Tensor indptr, Tensor indices, Tensor weights)");
  m.def(
      "average_encodings(Tensor indptr, Tensor indices, Tensor weights, Tensor neighbors, "
      "Tensor neighbor_weights) -> (Tensor indptr, Tensor indices, Tensor weights)");
  m.def(
      "jaccard_distance(Tensor row_indptr, Tensor row_indices, Tensor row_weights, "
      "Tensor column_indptr, Tensor column_indices, Tensor column_weights, int num_samples) "
      "-> Tensor");
  m.def(
      "jaccard_graph(Tensor indptr, Tensor indices, Tensor weights, float max_distance, "
      "int? num_samples=None) "
      "-> (Tensor indptr, Tensor indices, Tensor distances)");
  // jaccard_distance pruned to what is within max_distance.
  m.def(
      "near_rows(Tensor row_indptr, Tensor row_indices, Tensor row_weights, Tensor column_indptr, "
      "Tensor column_indices, Tensor column_weights, int num_samples, float max_distance) "
      "-> (Tensor indptr, Tensor indices, Tensor distances)");
  m.def(
      "dbscan(Tensor indptr, Tensor indices, Tensor distances, float eps, int min_samples) "
      "-> Tensor");
  // Joins the sets of samples first[m] and second[m]. parents (N,) int32 has a parent for each
  // sample, itself or a smaller one, and -1 for a sample that is in no set; on return the parent of
  // every sample is the smallest one of its set.
  m.def("join_samples_(Tensor(a!) parents, Tensor first, Tensor second) -> ()");
}
