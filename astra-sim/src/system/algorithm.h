#pragma once

#include <cstdint>
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

/// One step of a collective's way through the dimensions; the same for all streams of the collective.
struct Phase {
  const Algorithm* algorithm = nullptr;
  CollectiveKind kind = CollectiveKind::kAllReduce;
  Members members;
  bool clockwise = true;
  std::uint32_t queue = 0;
  Bytes bytes = 0;        ///< D: the data this NPU holds when the phase starts
  Time step_ns = 0;       ///< delay of a bus trip
  bool in_group = false;  ///< a group smaller than the system
};

/// Where a stream stands in its phase; what the counters mean is up to the algorithm.
struct Progress {
  std::int32_t sends_left = 0;
  std::int32_t inserts = 0;
  std::int32_t credit = 0;
  std::int32_t receives = 0;
};

/// What an algorithm can do: offered by the collective engine, for one stream at a time.
class StreamContext {
 public:
  StreamContext() = default;
  StreamContext(const StreamContext&) = delete;
  StreamContext& operator=(const StreamContext&) = delete;

  /// The phase the stream is in.
  [[nodiscard]] virtual const Phase& phase() const = 0;
  /// The algorithm's counters; zero when the phase starts.
  [[nodiscard]] virtual Progress& progress() = 0;
  /// Start a bus trip; with `reduced` >= 0 bytes it is followed by their reduction, -1: none.
  virtual void start_bus_trip(Bytes reduced) = 0;
  /// Send to one NPU of the members.
  virtual void send(NpuId destination, Bytes bytes) = 0;
  /// Post the receive of a message from one NPU of the members.
  virtual void receive(NpuId source, Bytes bytes) = 0;
  /// End the phase; nothing else may be done after this.
  virtual void finish_phase() = 0;

 protected:
  ~StreamContext() = default;
};

/// A collective algorithm: a state machine driven by ends of bus trips and arrivals of messages.
///
/// Holds no state of its own. A new algorithm is one file that implements this and one line in
/// algorithm_registry.cc.
class Algorithm {
 public:
  Algorithm() = default;
  Algorithm(const Algorithm&) = delete;
  Algorithm& operator=(const Algorithm&) = delete;
  virtual ~Algorithm() = default;

  /// The phase begins on this NPU.
  virtual void start(StreamContext& stream) const = 0;
  /// A bus trip, with its reduction if it had one, is over.
  virtual void on_bus_trip_end(StreamContext& stream) const = 0;
  /// A message whose receive was posted has landed.
  virtual void on_message(StreamContext& stream) const = 0;
};

/// The algorithm called `name` in system.json; throws std::invalid_argument if it is not supported (yet).
[[nodiscard]] const Algorithm& find_algorithm(const std::string& name);

}  // namespace astra
