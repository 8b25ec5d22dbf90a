// SPDX-License-Identifier: MIT
#include "dirigent/model/sandbox.h"

#include <vector>

#include "dirigent/base/text.h"

namespace dirigent {

namespace {

const std::vector<std::string> kStates{"placed", "starting", "ready", "draining", "stopping", "gone"};
const std::vector<std::string> kCauses{"none",          "requested", "start-failed",  "start-timeout", "exited",
                                       "out-of-memory", "node-lost", "image-missing", "no-capacity"};

// Row = from, column = to, in the order of SandboxState.
constexpr bool kTable[kSandboxStates][kSandboxStates] = {
    //               placed starting ready  draining stopping gone
    /* placed   */ {false, true, true, false, true, true},
    /* starting */ {false, false, true, false, true, true},
    /* ready    */ {false, false, false, true, true, true},
    /* draining */ {false, false, false, false, true, true},
    /* stopping */ {false, false, false, false, false, true},
    /* gone     */ {false, false, false, false, false, false},
};

template <class Enum>
Result<Enum> parse_word(std::string_view word, const std::vector<std::string>& words, std::string_view what) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == word) return static_cast<Enum>(i);
  }
  return failure(ErrorCode::invalid_argument, "unknown {} \"{}\"{}", what, word, did_you_mean_suffix(word, words));
}

}  // namespace

bool may_move(SandboxState from, SandboxState to) {
  return kTable[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)];
}
std::string_view to_string(SandboxState state) { return kStates[static_cast<std::size_t>(state)]; }
Result<SandboxState> parse_sandbox_state(std::string_view word) { return parse_word<SandboxState>(word, kStates, "sandbox state"); }
std::string_view to_string(EndCause cause) { return kCauses[static_cast<std::size_t>(cause)]; }
Result<EndCause> parse_end_cause(std::string_view word) { return parse_word<EndCause>(word, kCauses, "end cause"); }

}  // namespace dirigent
