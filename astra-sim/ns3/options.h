#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace astra_ns3 {

/// How data moves; the topology says where.
struct Transport {
  std::int64_t mtu_bytes = 4096;   ///< data in a full packet
  std::int64_t header_bytes = 82;  ///< on the wire with every packet, beside the data
  double window_bdp = 0.0;         ///< unacknowledged data of a pair in bandwidth-delay products; 0: no limit
  std::int64_t buffer_bytes = 0;   ///< waiting packets at an outgoing port of a forwarder; 0: no limit
};

/// The command line.
struct Options {
  std::string topology_file;
  Transport transport;
  bool show_version = false;
  bool show_help = false;
};

/// Parse flags of the form `--name value` or `--name=value`; throws std::runtime_error for what is wrong.
[[nodiscard]] Options parse_options(const std::vector<std::string>& arguments);

/// The text of --help.
[[nodiscard]] std::string help_text();

}  // namespace astra_ns3
