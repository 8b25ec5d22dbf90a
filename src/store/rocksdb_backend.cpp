// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <shared_mutex>
#include <sstream>
#include <system_error>

#include "dirigent/base/log.h"
#include "dirigent/base/text.h"
#include "log_backend.h"

namespace dirigent::store {

namespace {

// RocksDB would try to recover from a full disk on a thread of its own; commit() opens the database anew instead.
class ManualRecovery final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::Options make_options() {
  rocksdb::Options options;
  options.create_if_missing = true;
  // A record that was cut off at the very end of the log is what a crash in the middle of a write leaves; nobody was
  // told that it is durable. This mode accepts that and refuses everything else, above all a bad checksum. Of the
  // others, kAbsoluteConsistency would refuse to start after such a crash, and kPointInTimeRecovery would take a
  // flipped bit in the middle for the end and drop acknowledged records behind it without a word.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.paranoid_checks = true;
  // The catalog is small: thousands of records of some hundred bytes.
  options.write_buffer_size = 4 << 20;
  options.max_total_wal_size = 16 << 20;
  options.max_background_jobs = 1;
  options.compression = rocksdb::kNoCompression;
  options.bottommost_compression = rocksdb::kNoCompression;
  options.max_open_files = 64;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.keep_log_file_num = 2;
  options.max_log_file_size = 1 << 20;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.listeners.push_back(std::make_shared<ManualRecovery>());
  return options;
}

// "process 4711 (dirigent)", from the kernel's table of record locks. Asking with fcntl(F_GETLK) would need an open
// descriptor, and closing that would drop this process's own locks on the file.
std::string describe_lock_holder(const std::string& directory) {
  struct stat lock {};
  if (::stat((directory + "/LOCK").c_str(), &lock) != 0) return "another process";
  const std::string wanted = fmt::format("{:02x}:{:02x}:{}", major(lock.st_dev), minor(lock.st_dev), lock.st_ino);
  std::ifstream table("/proc/locks");
  std::string line;
  while (std::getline(table, line)) {
    std::istringstream words(line);
    std::string number, kind, mode, access, pid, place;
    words >> number >> kind >> mode >> access >> pid >> place;
    if (place != wanted) continue;
    std::ifstream comm("/proc/" + pid + "/comm");
    std::string name;
    std::getline(comm, name);
    return fmt::format("process {} ({})", pid, name);
  }
  return "another process";
}

ErrorCode code_of(const rocksdb::Status& status) {
  if (status.IsNoSpace()) return ErrorCode::exhausted;
  if (status.IsCorruption()) return ErrorCode::corrupt;
  if (status.IsBusy() || status.IsTimedOut() || status.IsTryAgain()) return ErrorCode::unavailable;
  return ErrorCode::internal;
}

std::string_view advice_for(ErrorCode code) {
  switch (code) {
    case ErrorCode::exhausted: return " (the disk is full: make room, and writing goes on by itself)";
    case ErrorCode::corrupt:
      return " (stored bytes are damaged: restore the directory from a backup, or move it away to start empty)";
    default: return "";
  }
}

tl::unexpected<Error> rocksdb_failure(const rocksdb::Status& status, std::string_view what) {
  const ErrorCode code = code_of(status);
  return failure(code, "{}: {}{}", what, status.ToString(), advice_for(code));
}

Result<std::unique_ptr<rocksdb::DB>> open_database(const std::string& directory) {
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(make_options(), directory, &raw);
  if (opened.ok()) return std::unique_ptr<rocksdb::DB>(raw);
  const std::string text = opened.ToString();
  // RocksDB has no code of its own for a held lock.
  if (text.find("lock hold by current process") != std::string::npos) {
    return failure(ErrorCode::already_exists, "the state directory {} is open in this process already", directory);
  }
  if (opened.IsIOError() && text.find("/LOCK:") != std::string::npos && !opened.IsNoSpace()) {
    return failure(ErrorCode::already_exists,
                   "the state directory {} is in use by {} (stop it, or choose another state_dir)", directory,
                   describe_lock_holder(directory));
  }
  return rocksdb_failure(opened, fmt::format("cannot open the state log in {}", directory));
}

class RocksdbBackend final : public LogBackend {
 public:
  RocksdbBackend(std::string directory, std::unique_ptr<rocksdb::DB> db)
      : directory_(std::move(directory)), db_(std::move(db)) {}

  ~RocksdbBackend() override { close(); }

  Status commit(const std::vector<const std::vector<Write>*>& batches) override {
    rocksdb::WriteBatch batch;
    for (const auto* writes : batches) {
      for (const Write& write : *writes) {
        const rocksdb::Status added = write.value ? batch.Put(write.key, *write.value) : batch.Delete(write.key);
        if (!added.ok()) return rocksdb_failure(added, "cannot write to " + directory_);
      }
    }
    if (Status ready = reopen_after_failure(); !ready) return ready;
    rocksdb::WriteOptions options;
    options.sync = true;
    const rocksdb::Status written = db_->Write(options, &batch);
    if (written.ok()) return {};
    failed_ = true;
    return rocksdb_failure(written, "cannot write to " + directory_);
  }

  Result<std::vector<std::pair<std::string, std::string>>> read_all(const std::string& prefix) override {
    const std::shared_lock lock(database_mutex_);
    if (!db_) {
      return failure(ErrorCode::unavailable, "cannot read {}: it is closed after a failed write (is the disk full?)",
                     directory_);
    }
    rocksdb::ReadOptions options;
    options.verify_checksums = true;
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> cursor(db_->NewIterator(options));
    std::vector<std::pair<std::string, std::string>> found;
    for (cursor->Seek(prefix); cursor->Valid() && cursor->key().starts_with(prefix); cursor->Next()) {
      found.emplace_back(cursor->key().ToString(), cursor->value().ToString());
    }
    if (!cursor->status().ok()) return rocksdb_failure(cursor->status(), "cannot read " + directory_);
    return found;
  }

 private:
  // After a failed write RocksDB refuses all others until its Resume(), which waits for ever for a flush while the
  // disk is full, and otherwise may keep the log file that failed. Opening anew is what a restart would do: it reads
  // the log, drops the record that was cut off, and starts another file. The batch that failed was not acknowledged;
  // whether it is found afterwards is open. The database is small, so that this takes milliseconds, and it is done
  // once a batch.
  Status reopen_after_failure() {
    if (!failed_) return {};
    const std::unique_lock lock(database_mutex_);
    close();
    auto opened = open_database(directory_);
    if (!opened) return failure(opened.error());
    db_ = std::move(*opened);
    failed_ = false;
    log_info("store", "writing to {} goes on", directory_);
    return {};
  }

  void close() {
    if (!db_) return;
    const rocksdb::Status closed = db_->Close();
    if (!closed.ok()) log_warn("store", "closing {}: {}", directory_, closed.ToString());
    db_.reset();
  }

  std::string directory_;
  std::shared_mutex database_mutex_;  // readers against reopening; only the writer thread changes db_
  std::unique_ptr<rocksdb::DB> db_;   // null while a reopening has failed
  bool failed_ = false;               // the writer thread's
};

Status make_directory(const std::string& directory) {
  if (directory.empty()) return failure(ErrorCode::invalid_argument, "the state directory has no name (set state_dir)");
  std::error_code error;
  const auto parent = std::filesystem::absolute(directory, error).lexically_normal().parent_path();
  if (!error) std::filesystem::create_directories(parent, error);
  if (error) {
    return errno_failure(error.value(), fmt::format("cannot make {} for the state log", parent.string()));
  }
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_failure(errno, fmt::format("cannot make the state directory {}", directory));
  }
  struct stat there {};
  if (::stat(directory.c_str(), &there) != 0) {
    return errno_failure(errno, fmt::format("cannot look at the state directory {}", directory));
  }
  if (!S_ISDIR(there.st_mode)) {
    return failure(ErrorCode::invalid_argument, "the state directory {} is not a directory (choose another state_dir)",
                   directory);
  }
  if (::access(directory.c_str(), R_OK | W_OK | X_OK) != 0) {
    return errno_failure(errno, fmt::format("cannot write in the state directory {} (run as the user who owns it, or "
                                            "choose another state_dir)", directory));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<LogBackend>> open_rocksdb_backend(const std::string& directory) {
  if (Status made = make_directory(directory); !made) return failure(made.error());
  auto database = open_database(directory);
  if (!database) return failure(database.error());
  return std::make_unique<RocksdbBackend>(directory, std::move(*database));
}

}  // namespace dirigent::store
