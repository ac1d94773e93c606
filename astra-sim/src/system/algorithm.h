#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/types.h"
#include "system/system_spec.h"

namespace astra {

/// The NPUs among which one phase of a collective runs, in ring order.
struct Members {
  const NpuId* listed = nullptr;  ///< members of a group; null: base + position * stride
  NpuId base = 0;
  std::int32_t stride = 1;
  std::int32_t count = 1;
  std::int32_t me = 0;  ///< position of the NPU that runs the phase

  /// The NPU at a position from 0 to count - 1.
  [[nodiscard]] NpuId at(std::int32_t position) const {
    return listed != nullptr ? listed[position] : base + position * stride;
  }
};

class Algorithm;

/// Which of a dimension's queues a phase uses.
enum class LaneUse : std::uint8_t { kAny, kLowerHalf, kUpperHalf };

/// One step of a collective's way through the dimensions; the same for all streams of the collective.
struct Phase {
  Algorithm* algorithm = nullptr;
  CollectiveKind kind = CollectiveKind::kAllReduce;
  Members members;
  std::size_t dimension = 0;  ///< logical dimension, whose queues the phase uses
  Bytes bytes = 0;            ///< D: the data this NPU holds when the phase starts
  Time step_ns = 0;           ///< delay of a bus trip
  bool in_group = false;      ///< a group smaller than the system
  LaneUse queues = LaneUse::kAny;
};

/// What differs between the streams that go through one phase.
struct Lane {
  std::uint16_t queue = 0;   ///< queue of the NPU
  bool clockwise = true;     ///< direction of ring and direct
  bool second_tree = false;  ///< which of its two trees doubleBinaryTree uses
};

/// Where a stream stands in its phase; what the counters mean is up to the algorithm.
struct Progress {
  std::int32_t sends_left = 0;
  std::int32_t inserts = 0;
  std::int32_t credit = 0;
  std::int32_t receives = 0;
  std::uint32_t run = 0;  ///< a handle of the algorithm's own
};

/// What an algorithm can do: offered by the collective engine, for one stream at a time.
class StreamContext {
 public:
  StreamContext() = default;
  StreamContext(const StreamContext&) = delete;
  StreamContext& operator=(const StreamContext&) = delete;

  /// The phase the stream is in.
  [[nodiscard]] virtual const Phase& phase() const = 0;
  /// The stream's own way through the phase.
  [[nodiscard]] virtual const Lane& lane() const = 0;
  /// The algorithm's counters; zero when the phase starts.
  [[nodiscard]] virtual Progress& progress() = 0;
  /// Start a bus trip; with `reduced` >= 0 bytes it is followed by their reduction, -1: none.
  virtual void start_bus_trip(Bytes reduced) = 0;
  /// Send to one NPU of the members.
  virtual void send(NpuId destination, Bytes bytes) = 0;
  /// Post the receive of a message from one NPU of the members.
  virtual void receive(NpuId source, Bytes bytes) = 0;
  /// Send with a tag of the trace's own; `on_node_end(node)` is called when the data has landed.
  virtual void send_node(NpuId destination, Bytes bytes, std::uint64_t tag, std::uint32_t node) = 0;
  /// Post a receive with a tag of the trace's own; `on_node_end(node)` is called when it is met.
  virtual void receive_node(NpuId source, Bytes bytes, std::uint64_t tag, std::uint32_t node) = 0;
  /// Call `on_node_end(node)` after `duration_ns`.
  virtual void compute_node(Time duration_ns, std::uint32_t node) = 0;
  /// End the phase; nothing else may be done after this.
  virtual void finish_phase() = 0;

 protected:
  ~StreamContext() = default;
};

/// A collective algorithm: a state machine driven by ends of bus trips and arrivals of messages.
///
/// A new algorithm is one file that implements this and one line in algorithm_registry.cc.
class Algorithm {
 public:
  Algorithm() = default;
  Algorithm(const Algorithm&) = delete;
  Algorithm& operator=(const Algorithm&) = delete;
  virtual ~Algorithm() = default;

  /// Throw std::invalid_argument if the algorithm cannot run such a phase among `members` NPUs.
  virtual void check(CollectiveKind kind, std::int32_t members, bool in_group) const {
    static_cast<void>(kind);
    static_cast<void>(members);
    static_cast<void>(in_group);
  }

  /// Bytes that an NPU holds after a phase that it entered with `bytes`.
  [[nodiscard]] virtual Bytes bytes_after(CollectiveKind kind, std::int32_t members, Bytes bytes) const {
    if (kind == CollectiveKind::kAllGather) return bytes * members;
    return kind == CollectiveKind::kReduceScatter ? bytes / members : bytes;
  }

  /// Whether such a phase makes reductions, which take their time from the local memory bandwidth.
  [[nodiscard]] virtual bool makes_reductions(CollectiveKind kind) const {
    return kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter;
  }

  /// Whether the streams of an NPU take turns between two trees (Lane::second_tree).
  [[nodiscard]] virtual bool takes_turns() const { return false; }

  /// The phase begins on this NPU.
  virtual void start(StreamContext& stream) = 0;
  /// A bus trip, with its reduction if it had one, is over.
  virtual void on_bus_trip_end(StreamContext& stream) = 0;
  /// A message whose receive was posted has landed.
  virtual void on_message(StreamContext& stream) = 0;
  /// A send, receive or computation that was started for `node` has ended.
  virtual void on_node_end(StreamContext& stream, std::uint32_t node) {
    static_cast<void>(stream);
    static_cast<void>(node);
  }
};

/// An algorithm as system.json names it, and whether it makes one logical dimension of all NPUs (oneRing,
/// ...).
struct NamedAlgorithm {
  std::unique_ptr<Algorithm> algorithm;
  bool flattens = false;
};

/// Make the algorithm called `name` in system.json; throws std::invalid_argument if there is none.
[[nodiscard]] NamedAlgorithm make_algorithm(const std::string& name);

}  // namespace astra
