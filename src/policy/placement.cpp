// SPDX-License-Identifier: MIT
#include "dirigent/policy/placement.h"

#include <fmt/format.h>

#include <algorithm>

#include "dirigent/base/text.h"
#include "policy/node_table.h"
#include "policy/scores.h"

namespace dirigent::policy {

namespace {

const std::vector<std::string> kNames{"random", "round-robin", "kubernetes", "best-fit", "dominant-resource"};

// The buckets hand out the best nodes first, so scoring more than these gains nothing that can be measured.
constexpr std::size_t kScoredMax = 128;
constexpr std::size_t kScoredByImageMax = 32;

// Keeps the best node seen. Equal scores: fewer sandboxes being started there (they would wait for each other), then
// chance.
class Best {
 public:
  explicit Best(Rng& rng) : rng_(rng) {}
  void offer(NodeSlot slot, double score, std::uint32_t pending) {
    if (found_ && (score < score_ || (score == score_ && pending > pending_))) return;
    if (found_ && score == score_ && pending == pending_) {
      ++ties_;
      if (rng_.below(ties_) != 0) return;
    } else {
      ties_ = 1;
    }
    found_ = true;
    slot_ = slot;
    score_ = score;
    pending_ = pending;
  }
  [[nodiscard]] bool found() const { return found_; }
  [[nodiscard]] NodeSlot slot() const { return slot_; }
  [[nodiscard]] double score() const { return score_; }

 private:
  Rng& rng_;
  bool found_ = false;
  NodeSlot slot_ = 0;
  double score_ = 0;
  std::uint32_t pending_ = 0;
  std::uint64_t ties_ = 1;
};

// What all policies share: the table, the error paths, and the walk over a bucket.
class TableIndex : public NodeIndex {
 public:
  TableIndex(PlacementKind kind, NodeTable::BucketKey key) : kind_(kind), table_(key) {}

  void upsert(const NodeView& node) override { table_.upsert(node); }
  void remove(const NodeId& id) override { table_.remove(id); }
  void set_load(const NodeId& id, const Resources& reserved, std::uint32_t sandboxes, std::uint32_t pending) override {
    table_.set_load(id, reserved, sandboxes, pending);
  }
  [[nodiscard]] std::size_t size() const override { return table_.size(); }

  Result<PlacementDecision> choose(const PlacementRequest& request, Rng& rng) override {
    if (table_.size() == 0) return failure(ErrorCode::unavailable, "no node has joined the cluster: start a worker");
    auto filter = table_.prepare(request);
    if (!filter) return failure(std::move(filter).error());
    PlacementDecision decision;
    decision.kind = kind_;
    const auto slot = pick(request, *filter, rng, decision);
    if (!slot) return failure(explain_exhaustion(table_, request, *filter));
    decision.node = table_.view(*slot).id;
    return decision;
  }

 protected:
  virtual std::optional<NodeSlot> pick(const PlacementRequest& request, const PlacementFilter& filter, Rng& rng,
                                       PlacementDecision& decision) = 0;

  // Calls visit(slot) for nodes of a bucket that fit, from a random one on, until `left` are visited.
  template <class Visit>
  void walk_bucket(std::size_t bucket, const PlacementFilter& filter, Rng& rng, std::size_t& left,
                   PlacementDecision& decision, const Visit& visit) const {
    const auto& members = table_.bucket(bucket);
    if (members.empty()) return;
    std::size_t at = members.size() == 1 ? 0 : static_cast<std::size_t>(rng.below(members.size()));
    for (std::size_t tried = 0; tried < members.size() && left > 0;
         ++tried, at = at + 1 == members.size() ? 0 : at + 1) {
      ++decision.considered;
      if (!table_.fits(members[at], filter)) continue;
      --left;
      visit(members[at]);
    }
  }

  PlacementKind kind_;
  NodeTable table_;
};

class RandomIndex final : public TableIndex {
 public:
  RandomIndex() : TableIndex(PlacementKind::random, NodeTable::BucketKey::mean_share) {}

 private:
  std::optional<NodeSlot> pick(const PlacementRequest&, const PlacementFilter& filter, Rng& rng,
                               PlacementDecision& decision) override {
    decision.note = "any node that fits";
    const std::size_t slots = table_.slots();
    // Hitting a node that fits by chance is uniform; counting them all is needed only when few do.
    for (int probe = 0; probe < 16; ++probe) {
      const auto slot = static_cast<NodeSlot>(rng.below(slots));
      ++decision.considered;
      if (table_.fits(slot, filter)) return slot;
    }
    Best best(rng);
    for (NodeSlot slot = 0; slot < slots; ++slot) {
      if (table_.fits(slot, filter)) best.offer(slot, 0, 0);
    }
    decision.considered += static_cast<std::uint32_t>(slots);
    return best.found() ? std::optional(best.slot()) : std::nullopt;
  }
};

class RoundRobinIndex final : public TableIndex {
 public:
  RoundRobinIndex() : TableIndex(PlacementKind::round_robin, NodeTable::BucketKey::mean_share) {}

 private:
  std::optional<NodeSlot> pick(const PlacementRequest&, const PlacementFilter& filter, Rng&,
                               PlacementDecision& decision) override {
    const auto& order = table_.in_name_order();
    // By name and not by position: nodes that come and go in between do not make it skip or repeat one.
    const auto after = std::upper_bound(order.begin(), order.end(), last_,
                                        [&](const NodeId& id, NodeSlot slot) { return id < table_.view(slot).id; });
    auto at = static_cast<std::size_t>(after - order.begin());
    for (std::size_t tried = 0; tried < order.size(); ++tried, ++at) {
      const NodeSlot slot = order[at % order.size()];
      ++decision.considered;
      if (!table_.fits(slot, filter)) continue;
      decision.note = last_.empty() ? "first node in order" : fmt::format("next node in order after {}", last_);
      last_ = table_.view(slot).id;
      return slot;
    }
    return std::nullopt;
  }

  NodeId last_;
};

class KubernetesIndex final : public TableIndex {
 public:
  KubernetesIndex() : TableIndex(PlacementKind::kubernetes, NodeTable::BucketKey::mean_share) {}

 private:
  struct Score {
    std::int64_t least;
    std::int64_t balanced;
    std::int64_t image;
    [[nodiscard]] std::int64_t total() const { return least + balanced + image; }
  };
  [[nodiscard]] Score score(NodeSlot slot, const Resources& asked, std::int64_t image) const {
    const Resources capacity = table_.capacity(slot);
    const Resources used = table_.reserved(slot) + asked;
    return {least_allocated(capacity, used), balanced_allocation(capacity, used), image};
  }

  std::optional<NodeSlot> pick(const PlacementRequest& request, const PlacementFilter& filter, Rng& rng,
                               PlacementDecision& decision) override {
    const NodeSet* having = request.image.empty() ? nullptr : table_.nodes_with_image(request.image);
    const std::int64_t image = having == nullptr ? 0 : image_locality(true, having->nodes.size(), table_.size());
    const auto image_score = [&](NodeSlot slot) {
      return image > 0 && having->has(slot) ? image : 0;
    };
    Best best(rng);
    const auto offer = [&](NodeSlot slot) {
      best.offer(slot, static_cast<double>(score(slot, request.resources, image_score(slot)).total()),
                 table_.pending(slot));
    };
    if (image > 0) offer_some_of(having->nodes, filter, rng, decision, offer);
    std::size_t left = std::min(nodes_to_score(table_.size()), kScoredMax);
    for (std::size_t bucket = 0; bucket < NodeTable::kBuckets && left > 0; ++bucket) {
      // A node of this bucket or a fuller one can have at most this: free percentage, perfect balance, the image.
      const double bound =
          100.0 * (1.0 - static_cast<double>(bucket) / NodeTable::kBuckets) + 100 + static_cast<double>(image);
      if (best.found() && best.score() > bound) break;
      walk_bucket(bucket, filter, rng, left, decision, offer);
    }
    if (!best.found()) return std::nullopt;
    const Score parts = score(best.slot(), request.resources, image_score(best.slot()));
    decision.score = best.score();
    decision.note =
        fmt::format("least allocated {} + balanced {} + image {}", parts.least, parts.balanced, parts.image);
    return best.slot();
  }

  // The nodes with the image may lie in fuller buckets than the walk reaches.
  template <class Offer>
  void offer_some_of(const std::vector<NodeSlot>& nodes, const PlacementFilter& filter, Rng& rng,
                     PlacementDecision& decision, const Offer& offer) const {
    std::size_t at = static_cast<std::size_t>(rng.below(nodes.size()));
    for (std::size_t tried = 0; tried < std::min(nodes.size(), kScoredByImageMax); ++tried) {
      ++decision.considered;
      if (table_.fits(nodes[at], filter)) offer(nodes[at]);
      at = at + 1 == nodes.size() ? 0 : at + 1;
    }
  }
};

class BestFitIndex final : public TableIndex {
 public:
  BestFitIndex() : TableIndex(PlacementKind::best_fit, NodeTable::BucketKey::mean_share) {}

 private:
  std::optional<NodeSlot> pick(const PlacementRequest& request, const PlacementFilter& filter, Rng& rng,
                               PlacementDecision& decision) override {
    Best best(rng);
    for (std::size_t bucket = NodeTable::kBuckets; bucket-- > 0 && !best.found();) {
      std::size_t left = kScoredMax;
      walk_bucket(bucket, filter, rng, left, decision, [&](NodeSlot slot) {
        best.offer(slot, mean_share(table_.capacity(slot), table_.reserved(slot) + request.resources),
                   table_.pending(slot));
      });
    }
    if (!best.found()) return std::nullopt;
    decision.score = best.score() * 100;
    decision.note = fmt::format("fullest that fits: {:.0f} % used after it", decision.score);
    return best.slot();
  }
};

class DominantResourceIndex final : public TableIndex {
 public:
  DominantResourceIndex() : TableIndex(PlacementKind::dominant_resource, NodeTable::BucketKey::dominant_share) {}

 private:
  std::optional<NodeSlot> pick(const PlacementRequest& request, const PlacementFilter& filter, Rng& rng,
                               PlacementDecision& decision) override {
    Best best(rng);
    std::size_t left = kScoredMax;
    for (std::size_t bucket = 0; bucket < NodeTable::kBuckets && left > 0; ++bucket) {
      // Nothing in a fuller bucket can end below what it has before placing.
      const double bound = static_cast<double>(bucket) / NodeTable::kBuckets;
      if (best.found() && 1 - best.score() < bound) break;
      walk_bucket(bucket, filter, rng, left, decision, [&](NodeSlot slot) {
        best.offer(slot, 1 - dominant_share(table_.capacity(slot), table_.reserved(slot) + request.resources),
                   table_.pending(slot));
      });
    }
    if (!best.found()) return std::nullopt;
    decision.score = best.score() * 100;
    decision.note = fmt::format("least dominant share: {:.0f} % after it", 100 - decision.score);
    return best.slot();
  }
};

}  // namespace

const std::vector<std::string>& placement_names() { return kNames; }
std::string_view to_string(PlacementKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

Result<PlacementKind> parse_placement(std::string_view word) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == word) return static_cast<PlacementKind>(i);
  }
  return failure(ErrorCode::invalid_argument,
                 "unknown placement \"{}\": use random, round-robin, kubernetes, best-fit or dominant-resource{}", word,
                 did_you_mean_suffix(word, kNames));
}

std::unique_ptr<NodeIndex> make_node_index(PlacementKind kind) {
  switch (kind) {
    case PlacementKind::random: return std::make_unique<RandomIndex>();
    case PlacementKind::round_robin: return std::make_unique<RoundRobinIndex>();
    case PlacementKind::kubernetes: return std::make_unique<KubernetesIndex>();
    case PlacementKind::best_fit: return std::make_unique<BestFitIndex>();
    case PlacementKind::dominant_resource: break;
  }
  return std::make_unique<DominantResourceIndex>();
}

}  // namespace dirigent::policy
