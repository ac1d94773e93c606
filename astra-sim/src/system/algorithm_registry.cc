#include <charconv>
#include <stdexcept>
#include <string_view>

#include "system/algorithm.h"
#include "system/direct_algorithm.h"
#include "system/double_binary_tree.h"
#include "system/halving_doubling_algorithm.h"
#include "system/ring_algorithm.h"

namespace astra {
namespace {

constexpr std::string_view kKnown =
    "ring, direct, direct with a window (direct4), halvingDoubling, doubleBinaryTree, oneRing, oneDirect or "
    "oneHalvingDoubling";

// The number after a name such as direct4; 0 without one, -1 if it is not a number above 0.
std::int32_t window_of(std::string_view digits) {
  if (digits.empty()) return 0;
  std::int32_t window = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), window);
  return error == std::errc() && end == digits.data() + digits.size() && window > 0 ? window : -1;
}

std::unique_ptr<Algorithm> make_named(std::string_view name) {
  if (name == "ring") return std::make_unique<RingAlgorithm>();
  if (name == "halvingDoubling") return std::make_unique<HalvingDoublingAlgorithm>();
  if (name == "doubleBinaryTree") return std::make_unique<DoubleBinaryTree>();
  if (name.starts_with("direct")) {
    const std::int32_t window = window_of(name.substr(6));
    if (window >= 0) return std::make_unique<DirectAlgorithm>(window);
  }
  return nullptr;
}

}  // namespace

NamedAlgorithm make_algorithm(const std::string& name) {
  std::string plain = name;
  const bool flattens = plain.size() > 3 && plain.starts_with("one");
  if (flattens) {
    plain.erase(0, 3);
    plain[0] = static_cast<char>(plain[0] - 'A' + 'a');
  }
  NamedAlgorithm made{make_named(plain), flattens};
  if (made.algorithm == nullptr || (flattens && plain == "doubleBinaryTree")) {
    throw std::invalid_argument("'" + name + "' is not a collective algorithm; use " + std::string(kKnown));
  }
  return made;
}

}  // namespace astra
