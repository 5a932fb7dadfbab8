// How the ranks of a run work together.
#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <utility>

#include "anneal/dist/bucket.h"

namespace anneal {
inline namespace v0 {

/// Base of strategies as objects. All train by data: each rank has the whole model and its share of each batch.
class Strategy {
 public:
  virtual ~Strategy() = default;
  /// One that TrainerOptions::strategy takes.
  virtual std::string name() const = 0;
  /// How the sums of gradients are cut into collectives.
  virtual dist::BucketOptions buckets() const { return {}; }
  /// Whether a step's gradients must be of the same parameters as the first step's: else Error.
  virtual bool static_graph() const { return false; }
};

/// `{.strategy = DDPStrategy({.bucket_bytes = 8 << 20})}`
class DDPStrategy : public Strategy {
 public:
  explicit DDPStrategy(dist::BucketOptions buckets = {}, bool static_graph = false)
      : buckets_(buckets), static_graph_(static_graph) {}
  std::string name() const override { return "ddp"; }
  dist::BucketOptions buckets() const override { return buckets_; }
  bool static_graph() const override { return static_graph_; }

 private:
  dist::BucketOptions buckets_;
  bool static_graph_;
};

/// A strategy by its name, or as an object.
class StrategyOption {
 public:
  template <std::convertible_to<std::string> Text>
  StrategyOption(Text name) : name_(std::move(name)) {}
  template <std::derived_from<Strategy> S>
  StrategyOption(S strategy) : StrategyOption(std::make_shared<S>(std::move(strategy))) {}
  template <std::derived_from<Strategy> S>
  StrategyOption(std::shared_ptr<S> strategy) : name_(strategy->name()), object_(std::move(strategy)) {}

  const std::string& name() const { return name_; }
  /// Null: it was given by name.
  const std::shared_ptr<const Strategy>& object() const { return object_; }

 private:
  std::string name_;
  std::shared_ptr<const Strategy> object_;
};

}  // namespace v0
}  // namespace anneal
