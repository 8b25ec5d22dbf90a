// SPDX-License-Identifier: MIT
#include "io/curl.h"

#include <dlfcn.h>

namespace dirigent::io {

const Curl& curl() {
  static const Curl loaded = [] {
    Curl table;
    void* library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      table.problem = "libcurl.so.4 is not on this machine (install libcurl4)";
      return table;
    }
    const auto load = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      if (function == nullptr) table.problem = std::string("libcurl has no ") + name;
    };
    load(table.global_init, "curl_global_init");
    load(table.easy_init, "curl_easy_init");
    load(table.easy_setopt, "curl_easy_setopt");
    load(table.easy_perform, "curl_easy_perform");
    load(table.easy_getinfo, "curl_easy_getinfo");
    load(table.easy_cleanup, "curl_easy_cleanup");
    load(table.easy_strerror, "curl_easy_strerror");
    load(table.slist_append, "curl_slist_append");
    load(table.slist_free_all, "curl_slist_free_all");
    if (table.problem.empty() && table.global_init(CURL_GLOBAL_DEFAULT) != 0) table.problem = "libcurl cannot be started";
    return table;
  }();
  return loaded;
}

}  // namespace dirigent::io
