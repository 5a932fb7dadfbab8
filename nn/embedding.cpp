#include "anneal/nn/embedding.h"

#include "anneal/nn/init.h"

namespace anneal {
inline namespace v0 {
namespace nn {
namespace {

Tensor new_table(std::int64_t rows, std::int64_t dim, std::int64_t padding) {
  check(padding < rows, "Embedding: padding_idx {} is not a row of {}", padding, rows);
  Tensor table = init::normal_(empty({rows, dim}));
  if (padding >= 0) table.select(0, padding).zero_();
  return table;
}

}  // namespace

Embedding::Embedding(Slot at, std::int64_t rows, std::int64_t dim, EmbeddingOptions options)
    : Module(at), weight({this, "weight"}, new_table(rows, dim, options.padding_idx)), options_(options) {}

}  // namespace nn
}  // namespace v0
}  // namespace anneal
