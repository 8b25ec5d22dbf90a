// SPDX-License-Identifier: MIT
//
// SHA-256 (FIPS 180-4), the digest by which images, manifests and layers are named.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace dirigent::sandbox {

class Sha256 {
 public:
  void update(std::string_view bytes);
  // "sha256:" and 64 hexadecimal digits. Ends the computation.
  [[nodiscard]] std::string digest();

 private:
  void block(const unsigned char* bytes);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> rest_{};
  std::size_t rest_size_ = 0;
  std::uint64_t size_ = 0;
};

std::string sha256_of(std::string_view bytes);
// "sha256:" followed by 64 lower-case hexadecimal digits and nothing else: safe as a file name behind the colon.
bool is_digest(std::string_view text);

}  // namespace dirigent::sandbox
