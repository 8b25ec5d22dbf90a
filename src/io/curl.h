// SPDX-License-Identifier: MIT
//
// libcurl, loaded when it is first needed: with it come some thirty libraries, which every start of the program would pay
// for otherwise. Any thread; what it does blocks.
#pragma once

#include <curl/curl.h>

#include <string>

namespace dirigent::io {

struct Curl {
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_easy_init) easy_init = nullptr;
  decltype(&::curl_easy_setopt) easy_setopt = nullptr;
  decltype(&::curl_easy_perform) easy_perform = nullptr;
  decltype(&::curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&::curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&::curl_easy_strerror) easy_strerror = nullptr;
  decltype(&::curl_slist_append) slist_append = nullptr;
  decltype(&::curl_slist_free_all) slist_free_all = nullptr;
  std::string problem;  // not empty: it cannot be used, and why
};

const Curl& curl();

}  // namespace dirigent::io
