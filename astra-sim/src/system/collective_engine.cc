#include "system/collective_engine.h"

namespace astra {
namespace {

constexpr double kBytesPerGb = 1e9;
constexpr double kNsPerSecond = 1e9;
constexpr std::uint64_t kStreamNumbers = 500'000'000;

}  // namespace

/// The view of one stream that its algorithm works through.
class CollectiveEngine::Context final : public StreamContext {
 public:
  Context(CollectiveEngine& engine, Handle handle)
      : engine_(engine),
        handle_(handle),
        stream_(engine.streams_[handle]),
        collective_(engine.collectives_[stream_.collective]),
        phase_(collective_.plan.phases[stream_.phase]) {}

  [[nodiscard]] const Phase& phase() const override { return phase_; }
  [[nodiscard]] Progress& progress() override { return stream_.progress; }

  void start_bus_trip(Bytes reduced) override {
    What what = What::kBusTrip;
    if (reduced >= 0) {
      what = What::kBusTripThenReduction;
      const double rate = engine_.system_.local_mem_bw_gbps * kBytesPerGb;
      stream_.reduction_ns = 3 * static_cast<Time>(static_cast<double>(reduced) / rate * kNsPerSecond);
    }
    wake_in(phase_.step_ns, what);
  }

  void send(NpuId destination, Bytes bytes) override {
    engine_.bytes_sent_ += bytes;
    engine_.mailbox_.send(engine_.key(stream_, npu(), destination, bytes), {});
  }

  void receive(NpuId source, Bytes bytes) override {
    engine_.mailbox_.receive(engine_.key(stream_, source, npu(), bytes),
                             {&engine_, pack(handle_, What::kMessage)});
  }

  void finish_phase() override { engine_.finish_phase(handle_); }

  /// Call the algorithm for what has happened to the stream.
  void advance(What what) {
    if (what == What::kBusTripThenReduction) {
      wake_in(stream_.reduction_ns, What::kReduction);
    } else if (what == What::kMessage) {
      phase_.algorithm->on_message(*this);
    } else {
      phase_.algorithm->on_bus_trip_end(*this);
    }
  }

 private:
  [[nodiscard]] NpuId npu() const { return collective_.request.npu; }

  void wake_in(Time delay_ns, What what) {
    NpuClock& clock = *engine_.clocks_[static_cast<std::size_t>(npu())];
    clock.schedule(engine_.queue_.now() + delay_ns, {&engine_, pack(handle_, what)});
  }

  CollectiveEngine& engine_;
  Handle handle_;
  Stream& stream_;
  Collective& collective_;
  const Phase& phase_;
};

CollectiveEngine::CollectiveEngine(const SystemSpec& system, const Topology& topology, EventQueue& queue,
                                   NpuClocks& clocks, Mailbox& mailbox)
    : system_(system),
      queue_(queue),
      clocks_(clocks),
      mailbox_(mailbox),
      planner_(system, topology),
      queues_per_npu_(static_cast<std::uint32_t>(topology.rank())),
      running_limit_(system.active_chunks),
      queues_(static_cast<std::size_t>(topology.npus()) * topology.rank()) {}

void CollectiveEngine::start(const CollectiveRequest& request) {
  const Handle handle = collectives_.take();
  Collective& collective = collectives_[handle];
  collective.request = request;
  planner_.plan(request, collective.plan);
  collective.streams_left = collective.plan.streams;
  for (std::int64_t made = 0; made < collective.plan.streams; ++made) {
    const Handle stream = streams_.take();
    streams_[stream] = {.collective = handle,
                        .phase = 0,
                        .number = (*request.next_stream)++,
                        .progress = {},
                        .reduction_ns = 0,
                        .next = kNone};
    enqueue(stream);
    start_waiting(queue_of(request.npu, collective.plan.phases[0].queue));
  }
}

void CollectiveEngine::handle(std::uint64_t argument) {
  Context(*this, static_cast<Handle>(argument >> 2)).advance(static_cast<What>(argument & 3));
}

Callback CollectiveEngine::owner_of(std::uint64_t receive_argument) const {
  const Stream& stream = streams_[static_cast<Handle>(receive_argument >> 2)];
  return collectives_[stream.collective].request.done;
}

void CollectiveEngine::enqueue(Handle handle) {
  Stream& stream = streams_[handle];
  const Collective& collective = collectives_[stream.collective];
  Queue& queue = queue_of(collective.request.npu, collective.plan.phases[stream.phase].queue);
  stream.next = kNone;
  if (queue.first == kNone) {
    queue.first = handle;
  } else {
    streams_[queue.last].next = handle;
  }
  queue.last = handle;
}

void CollectiveEngine::start_waiting(Queue& queue) {
  while (queue.running < running_limit_ && queue.first != kNone) {
    const Handle handle = queue.first;
    Stream& stream = streams_[handle];
    queue.first = stream.next;
    ++queue.running;
    stream.progress = {};
    Context context(*this, handle);
    context.phase().algorithm->start(context);
  }
}

// The last phase of the last stream completes the collective, and with it may start the next one, before
// the place in the queue is free again.
void CollectiveEngine::finish_phase(Handle handle) {
  Stream& stream = streams_[handle];
  Collective& collective = collectives_[stream.collective];
  const NpuId npu = collective.request.npu;
  Queue& old_queue = queue_of(npu, collective.plan.phases[stream.phase].queue);
  ++stream.phase;
  if (stream.phase < collective.plan.phase_count) {
    --old_queue.running;
    enqueue(handle);
    start_waiting(old_queue);
    start_waiting(queue_of(npu, collective.plan.phases[stream.phase].queue));
    return;
  }
  if (--collective.streams_left == 0) {
    const Callback done = collective.request.done;
    collectives_.give_back(stream.collective);
    done();
  }
  streams_.give_back(handle);
  --old_queue.running;
  start_waiting(old_queue);
}

CollectiveEngine::Queue& CollectiveEngine::queue_of(NpuId npu, std::uint32_t queue) {
  return queues_[static_cast<std::size_t>(npu) * queues_per_npu_ + queue];
}

MessageKey CollectiveEngine::key(const Stream& stream, NpuId source, NpuId destination, Bytes bytes) const {
  const CollectiveRequest& request = collectives_[stream.collective].request;
  return {.ticket = request.ticket,
          .tag = stream.number % kStreamNumbers,
          .channel = request.channel,
          .source = source,
          .destination = destination,
          .bytes = bytes};
}

}  // namespace astra
