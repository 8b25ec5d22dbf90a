// SPDX-License-Identifier: MIT
#include "sandbox/network/firewall.h"

#include <fmt/format.h>

#include "dirigent/base/log.h"

#if DIRIGENT_NFTABLES
#include <nftables/libnftables.h>
#endif

namespace dirigent::sandbox {

Firewall::Tables Firewall::names(std::uint32_t range, bool publish) {
  return {fmt::format("dirigent_{:02x}", range), publish ? fmt::format("dirigent_{:02x}_published", range) : ""};
}

#if DIRIGENT_NFTABLES

namespace {

class NftFirewall final : public Firewall {
 public:
  NftFirewall(Tables tables, nft_ctx* context) : tables_(std::move(tables)), context_(context) {}
  ~NftFirewall() override { ::nft_ctx_free(context_); }

  Status run(const std::string& commands) {
    const std::lock_guard lock(mutex_);
    if (::nft_run_cmd_from_buffer(context_, commands.c_str()) == 0) return {};
    const char* text = ::nft_ctx_get_error_buffer(context_);
    std::string first = text != nullptr ? text : "";
    first = first.substr(0, first.find('\n'));
    return failure(ErrorCode::unsupported, "nf_tables refused a rule: {}", first);
  }

  Status publish(std::uint16_t port, const std::string& address, std::uint16_t inner_port) override {
    return run(fmt::format("add element ip {} ports {{ {} : {} . {} }}", tables_.publish, port, address, inner_port));
  }

  void unpublish(std::uint16_t port) override {
    if (Status status = run(fmt::format("delete element ip {} ports {{ {} }}", tables_.publish, port)); !status) {
      log_warn("sandbox", "cannot take back published port {}: {}", port, status.error().message);
    }
  }

  void close() override {
    static_cast<void>(run("delete table inet " + tables_.filter));
    if (!tables_.publish.empty()) static_cast<void>(run("delete table ip " + tables_.publish));
  }

 private:
  Tables tables_;
  nft_ctx* context_;
  std::mutex mutex_;
};

// Filtering needs no connection tracking, which would cost every packet of the host: what a sandbox sends in answer to
// a connection bears ACK or RST, what opens one does not.
std::string filter_commands(const std::string& table, const std::string& link_prefix) {
  return fmt::format(
      "add table inet {0}\n"
      "delete table inet {0}\n"
      "table inet {0} {{\n"
      "  chain from_sandbox {{\n"
      "    meta l4proto tcp tcp flags & (ack | rst) != 0x0 return\n"
      "    drop\n"
      "  }}\n"
      "  chain source {{\n"
      "    type filter hook prerouting priority -310;\n"
      "    iifname \"{1}*\" fib saddr . iif oif missing drop\n"
      "  }}\n"
      "  chain input {{\n"
      "    type filter hook input priority -10;\n"
      "    iifname \"{1}*\" jump from_sandbox\n"
      "  }}\n"
      "  chain forward {{\n"
      "    type filter hook forward priority -10;\n"
      "    iifname \"{1}*\" jump from_sandbox\n"
      "    iifname \"dg*\" oifname \"{1}*\" drop\n"
      "  }}\n"
      "}}\n",
      table, link_prefix);
}

std::string publish_commands(const std::string& table, const std::vector<Firewall::Published>& published) {
  std::string elements;
  for (const auto& one : published)
    elements += fmt::format("{}{} : {} . {}", elements.empty() ? "" : ", ", one.port, one.address, one.inner_port);
  if (!elements.empty()) elements = " elements = { " + elements + " };";
  return fmt::format(
      "add table ip {0}\n"
      "delete table ip {0}\n"
      "table ip {0} {{\n"
      "  map ports {{ type inet_service : ipv4_addr . inet_service;{1} }}\n"
      "  chain prerouting {{\n"
      "    type nat hook prerouting priority -100;\n"
      "    fib daddr type local dnat ip to tcp dport map @ports\n"
      "  }}\n"
      "  chain output {{\n"
      "    type nat hook output priority -100;\n"
      "    fib daddr type local dnat ip to tcp dport map @ports\n"
      "  }}\n"
      "}}\n",
      table, elements);
}

}  // namespace

Result<std::unique_ptr<Firewall>> Firewall::open(const Tables& tables, const std::string& link_prefix,
                                                 const std::vector<Published>& published) {
  nft_ctx* context = ::nft_ctx_new(NFT_CTX_DEFAULT);
  if (context == nullptr) return failure(ErrorCode::unsupported, "libnftables cannot be started");
  ::nft_ctx_buffer_error(context);
  ::nft_ctx_buffer_output(context);
  auto firewall = std::make_unique<NftFirewall>(tables, context);
  if (Status status = firewall->run(filter_commands(tables.filter, link_prefix)); !status)
    return failure(status.error());
  if (!tables.publish.empty()) {
    if (Status status = firewall->run(publish_commands(tables.publish, published)); !status) {
      firewall->close();
      return failure(status.error());
    }
  }
  return std::unique_ptr<Firewall>(std::move(firewall));
}

#else

Result<std::unique_ptr<Firewall>> Firewall::open(const Tables&, const std::string&, const std::vector<Published>&) {
  return failure(ErrorCode::unsupported, "this build has no libnftables");
}

#endif

}  // namespace dirigent::sandbox
