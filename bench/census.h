// SPDX-License-Identifier: MIT
//
// Everything of the machine that a sandbox could leave behind, by name, so that what is left can be said and not only
// counted. Looks at the whole of the process and network namespace that it runs in: bench/runtimes.sh gives it new
// ones.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

namespace dirigent::bench {

// Category ("processes", "mounts", ...) -> what there is of it.
using Census = std::map<std::string, std::multiset<std::string>>;

// `containerd`: address of its socket, or "" = there is none. `directories`: whose files count. `cgroup`: whose
// directories count, below every mounted hierarchy. Takes some 100 ms and starts programs (ip, nft, ctr).
Census take_census(const std::string& containerd, const std::vector<std::string>& directories,
                   const std::string& cgroup);

// "processes=5 mounts=31 ...".
std::string to_text(const Census& census);

// What `after` has and `before` has not, at most `most` names, each with its category. Empty: nothing.
std::vector<std::string> left_over(const Census& before, const Census& after, std::size_t most);

}  // namespace dirigent::bench
