// SPDX-License-Identifier: MIT
//
// Header fields as nghttp2 wants them, from the lines of an HTTP/1.1 head. One list per thread, used up within one
// call: nghttp2 copies what it is given.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace dirigent::roles {

// Not of HTTP/2: said in another way there, or a matter of one connection.
inline bool is_left_out(std::string_view name) {
  return name == "host" || name == "connection" || name == "transfer-encoding" || name == "upgrade" ||
         name == "keep-alive" || name == "proxy-connection" || name == "sec-websocket-accept";
}

class FieldList {
 public:
  static FieldList& fresh() {
    thread_local FieldList list;
    list.fields_.clear();
    return list;
  }
  void add(std::string_view name, std::string_view value) {
    fields_.push_back(nghttp2_nv{bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  }
  // The lines "Name: value" of `text`, names made lower case in place. Returns the value of Host.
  std::string_view add_lines(char* text, std::size_t size) {
    std::string_view host;
    for (std::size_t at = 0; at < size;) {
      const char* newline = static_cast<const char*>(std::memchr(text + at, '\n', size - at));
      const std::size_t next = newline == nullptr ? size : static_cast<std::size_t>(newline - text) + 1;
      const std::size_t end = newline == nullptr ? size : next - 2;
      std::size_t colon = at;
      for (; colon < end && text[colon] != ':'; ++colon) text[colon] = lower(text[colon]);
      if (colon < end) {
        const std::string_view name(text + at, colon - at);
        std::string_view value(text + colon + 1, end - colon - 1);
        if (value.starts_with(' ')) value.remove_prefix(1);
        if (name == "host") host = value;
        if (!is_left_out(name)) add(name, value);
      }
      at = next;
    }
    return host;
  }
  void set_value(std::size_t index, std::string_view value) {
    fields_[index].value = bytes(value);
    fields_[index].valuelen = value.size();
  }
  [[nodiscard]] nghttp2_nv* data() { return fields_.data(); }
  [[nodiscard]] std::size_t size() const { return fields_.size(); }

 private:
  static char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }
  // nghttp2 does not write through it.
  static std::uint8_t* bytes(std::string_view text) {
    return const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(text.data()));
  }
  std::vector<nghttp2_nv> fields_;
};

}  // namespace dirigent::roles
