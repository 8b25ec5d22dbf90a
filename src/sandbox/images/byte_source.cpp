// SPDX-License-Identifier: MIT
#include "sandbox/images/byte_source.h"

#include <unistd.h>
#include <zlib.h>
#if DIRIGENT_ZSTD
#include <zstd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace dirigent::sandbox {

namespace {

constexpr std::size_t kBufferBytes = 128 * 1024;
constexpr std::uint64_t kRatioFreeBytes = std::uint64_t{256} << 20;

// What was looked at to choose the format, then the rest.
class PeekedSource final : public ByteSource {
 public:
  PeekedSource(std::string peeked, ByteSource& inner) : peeked_(std::move(peeked)), inner_(inner) {}
  Result<std::size_t> read(char* buffer, std::size_t size) override {
    if (used_ == peeked_.size()) return inner_.read(buffer, size);
    const std::size_t taken = std::min(size, peeked_.size() - used_);
    std::memcpy(buffer, peeked_.data() + used_, taken);
    used_ += taken;
    return taken;
  }

 private:
  std::string peeked_;
  std::size_t used_ = 0;
  ByteSource& inner_;
};

class Unpacking : public ByteSource {
 protected:
  explicit Unpacking(std::unique_ptr<ByteSource> inner) : inner_(std::move(inner)), buffer_(kBufferBytes) {}

  // Reads more packed bytes into the buffer; their number.
  Result<std::size_t> more() {
    auto got = inner_->read(buffer_.data(), buffer_.size());
    if (got) packed_ += *got;
    return got;
  }
  Status count(std::size_t unpacked) {
    unpacked_ += unpacked;
    if (unpacked_ > kRatioFreeBytes && unpacked_ > packed_ * kRatioMax)
      return failure(ErrorCode::exhausted, "cannot decompress it: it unpacks to more than {} times its size", kRatioMax);
    return {};
  }

  std::unique_ptr<ByteSource> inner_;
  std::vector<char> buffer_;

 private:
  std::uint64_t packed_ = 0;
  std::uint64_t unpacked_ = 0;
};

class GzipSource final : public Unpacking {
 public:
  explicit GzipSource(std::unique_ptr<ByteSource> inner) : Unpacking(std::move(inner)) {
    usable_ = ::inflateInit2(&stream_, 15 + 16) == Z_OK;
  }
  ~GzipSource() override { ::inflateEnd(&stream_); }

  Result<std::size_t> read(char* buffer, std::size_t size) override {
    if (!usable_) return failure(ErrorCode::exhausted, "cannot decompress it: no memory for zlib");
    stream_.next_out = reinterpret_cast<Bytef*>(buffer);
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(size, 1u << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted && !ended_) {
      if (stream_.avail_in == 0) {
        auto got = more();
        if (!got) return got;
        if (*got == 0) {
          if (between_members_) {
            ended_ = true;
            break;
          }
          return failure(ErrorCode::corrupt, "cannot decompress it: the gzip stream ends too early");
        }
        stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
        stream_.avail_in = static_cast<uInt>(*got);
      }
      // A gzip file may be several members in a row.
      if (between_members_) ::inflateReset(&stream_);
      between_members_ = false;
      const int result = ::inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) between_members_ = true;
      else if (result != Z_OK)
        return failure(ErrorCode::corrupt, "cannot decompress it: {}", stream_.msg != nullptr ? stream_.msg : "bad gzip data");
    }
    const std::size_t made = wanted - stream_.avail_out;
    if (Status counted = count(made); !counted) return failure(counted.error());
    return made;
  }

 private:
  z_stream stream_{};
  bool usable_ = false;
  bool between_members_ = false;
  bool ended_ = false;
};

#if DIRIGENT_ZSTD
class ZstdSource final : public Unpacking {
 public:
  explicit ZstdSource(std::unique_ptr<ByteSource> inner) : Unpacking(std::move(inner)), stream_(::ZSTD_createDStream()) {
    // 128 MiB is what the format's own tools accept without being asked to.
    if (stream_ != nullptr) ::ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, 27);
  }
  ~ZstdSource() override { ::ZSTD_freeDStream(stream_); }

  Result<std::size_t> read(char* buffer, std::size_t size) override {
    if (stream_ == nullptr) return failure(ErrorCode::exhausted, "cannot decompress it: no memory for zstd");
    ZSTD_outBuffer out{buffer, size, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        auto got = more();
        if (!got) return got;
        if (*got == 0) {
          if (between_frames_) return 0;
          return failure(ErrorCode::corrupt, "cannot decompress it: the zstd stream ends too early");
        }
        in_ = {buffer_.data(), *got, 0};
      }
      const std::size_t result = ::ZSTD_decompressStream(stream_, &out, &in_);
      if (::ZSTD_isError(result))
        return failure(ErrorCode::corrupt, "cannot decompress it: {}", ::ZSTD_getErrorName(result));
      between_frames_ = result == 0;
    }
    if (Status counted = count(out.pos); !counted) return failure(counted.error());
    return out.pos;
  }

 private:
  ZSTD_DStream* stream_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool between_frames_ = false;
};
#endif

}  // namespace

Status ByteSource::skip(std::uint64_t size) {
  std::vector<char> buffer(std::min<std::uint64_t>(size, kBufferBytes));
  while (size > 0) {
    auto got = read(buffer.data(), std::min<std::uint64_t>(size, buffer.size()));
    if (!got) return failure(got.error());
    if (*got == 0) return failure(ErrorCode::corrupt, "it ends too early");
    size -= *got;
  }
  return {};
}

Result<std::size_t> FileSource::read(char* buffer, std::size_t size) {
  const std::size_t wanted = std::min<std::uint64_t>(size, left_);
  if (wanted == 0) return 0;
  ssize_t got = 0;
  do {
    got = ::pread(fd_, buffer, wanted, static_cast<off_t>(offset_));
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno_failure(errno, "cannot read it");
  offset_ += static_cast<std::uint64_t>(got);
  left_ -= static_cast<std::uint64_t>(got);
  return static_cast<std::size_t>(got);
}

Status FileSource::skip(std::uint64_t size) {
  if (size > left_) return failure(ErrorCode::corrupt, "it ends too early");
  offset_ += size;
  left_ -= size;
  return {};
}

Result<std::size_t> HashingSource::read(char* buffer, std::size_t size) {
  auto got = inner_.read(buffer, size);
  if (got) sum_.update({buffer, *got});
  return got;
}

Result<std::unique_ptr<ByteSource>> decompress(ByteSource& inner) {
  std::string first(4, '\0');
  std::size_t size = 0;
  while (size < first.size()) {
    auto got = inner.read(first.data() + size, first.size() - size);
    if (!got) return failure(got.error());
    if (*got == 0) break;
    size += *got;
  }
  first.resize(size);
  const bool is_gzip = first.starts_with("\x1f\x8b");
  const bool is_zstd = first == "\x28\xb5\x2f\xfd";
  std::unique_ptr<ByteSource> whole = std::make_unique<PeekedSource>(std::move(first), inner);
  if (is_gzip) return std::make_unique<GzipSource>(std::move(whole));
  if (is_zstd) {
#if DIRIGENT_ZSTD
    return std::make_unique<ZstdSource>(std::move(whole));
#else
    return failure(ErrorCode::unsupported, "it is compressed with zstd, which this build cannot read (build with libzstd-dev)");
#endif
  }
  return whole;
}

}  // namespace dirigent::sandbox
