// astra_ns3: a packet network in ns-3, driven by another program over standard input and output.
//
// SPDX-License-Identifier: MIT
// This source is under the MIT license of LLMServingSim-HoL. The program made of it is linked with ns-3,
// which is under the GNU General Public License, version 2; the program as a whole may be passed on under
// that license only.

#include <ns3/nstime.h>
#include <ns3/simulator.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "clock.h"
#include "link_map.h"
#include "options.h"
#include "packet_network.h"
#include "protocol.h"

#ifndef ASTRA_NS3_VERSION
#define ASTRA_NS3_VERSION "of unknown version"  // build.sh knows it; packages of ns-3 do not say it reliably
#endif

namespace astra_ns3 {
namespace {

std::int32_t npu(const LinkMap& map, const std::string& role, std::int64_t number) {
  if (number < 0 || number >= map.npus()) {
    throw std::runtime_error(role + " " + std::to_string(number) +
                             " does not exist: the topology has NPUs 0 to " + std::to_string(map.npus() - 1));
  }
  return static_cast<std::int32_t>(number);
}

void check_time(std::int64_t time_ns, std::int64_t last_ns) {
  if (time_ns < Clock::now_ns() || time_ns > last_ns) {
    throw std::runtime_error("time " + std::to_string(time_ns) + " ns: expected " +
                             std::to_string(Clock::now_ns()) + " to " + std::to_string(last_ns));
  }
}

void start(PacketNetwork& network, const LinkMap& map, const Request& request) {
  const std::int32_t source = npu(map, "source", request.source);
  const std::int32_t destination = npu(map, "destination", request.destination);
  check_time(request.time_ns, Clock::kLastNs);
  if (request.bytes < 0) throw std::runtime_error("a message cannot have a negative size");
  if (source == destination) throw std::runtime_error("a message from an NPU to itself never leaves it");
  if (!network.connected(source, destination)) {
    throw std::runtime_error("no path leads from NPU " + std::to_string(source) + " to NPU " +
                             std::to_string(destination));
  }
  if (request.time_ns == Clock::now_ns()) {
    network.send(request.id, source, destination, request.bytes);
  } else {
    ns3::Simulator::Schedule(Clock::from_ns(request.time_ns) - ns3::Simulator::Now(), &PacketNetwork::send,
                             &network, request.id, source, destination, request.bytes);
  }
}

void serve(const Options& options) {
  const LinkMap map = LinkMap::read(options.topology_file);
  Clock clock;
  PacketNetwork network(map, options.transport, clock);
  RequestReader reader;
  while (const std::optional<Request> request = reader.next()) {
    switch (request->kind) {
      case RequestKind::kSend:
        start(network, map, *request);
        break;
      case RequestKind::kAdvance:
        check_time(request->time_ns, INT64_MAX);
        write_reply(clock.advance(request->time_ns));
        break;
      default:
        throw std::runtime_error("request of unknown kind " +
                                 std::to_string(static_cast<std::int64_t>(request->kind)));
    }
  }
  ns3::Simulator::Destroy();
}

void show_version() {
  std::cout
      << "astra_ns3 with ns-3 " << ASTRA_NS3_VERSION << "\n"
      << "transport: raw packets, store and forward, lossless unless --buffer is given, no rate control,\n"
      << "  optional window; completion when the last byte is at the receiver\n";
}

int run(const std::vector<std::string>& arguments) {
  const Options options = parse_options(arguments);
  if (options.show_version) {
    show_version();
  } else if (options.show_help) {
    std::cout << help_text();
  } else {
    serve(options);
  }
  return 0;
}

}  // namespace
}  // namespace astra_ns3

int main(int count, char** words) {
  ns3::Time::SetResolution(ns3::Time::PS);  // a packet of 4 KiB takes 81.92 ns at 400 Gb/s
  std::signal(SIGPIPE, SIG_IGN);            // a reader that has gone is an error of write
  try {
    return astra_ns3::run({words + 1, words + count});
  } catch (const std::exception& error) {
    std::cerr << "astra_ns3: error: " << error.what() << "\n";
    return 2;
  }
}
