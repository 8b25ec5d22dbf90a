// SPDX-License-Identifier: MIT
#include "roles/data/address_counts.h"

#include <functional>
#include <string_view>

#include "dirigent/base/assert.h"

namespace dirigent::roles {

std::size_t AddressCounts::Hash::operator()(const Address& address) const {
  return std::hash<std::string_view>()({reinterpret_cast<const char*>(address.data()), address.size()});
}

bool AddressCounts::try_add(const Address& address, std::uint32_t limit) {
  const std::lock_guard lock(mutex_);
  std::uint32_t& count = counts_[address];
  if (count >= limit) return false;
  ++count;
  return true;
}

void AddressCounts::remove(const Address& address) {
  const std::lock_guard lock(mutex_);
  const auto known = counts_.find(address);
  ASSERT(known != counts_.end());
  if (--known->second == 0) counts_.erase(known);
}

}  // namespace dirigent::roles
