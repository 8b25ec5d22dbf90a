// SPDX-License-Identifier: MIT
//
// The Core with a clock, a disk and a transport. Two halves, one on each thread, which only post to each other:
//
//   home loop: ReplicaImpl        own loop: Engine                       writer thread of the state log
//     propose, hand_over  ---->     Core, Transport, timer   ---->          append
//     apply, changed      <----       effects                <----          done
#include "dirigent/consensus/replica.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "consensus/core.h"
#include "consensus/durable.h"
#include "consensus/transport.h"
#include "dirigent/base/assert.h"
#include "dirigent/base/fault_point.h"
#include "dirigent/base/log.h"
#include "dirigent/io/task.h"

namespace dirigent::consensus {

namespace {

// Proposals that wait for their commit. A leader that is slower than its clients must say so.
constexpr std::size_t kWaitingMax = 10'000;
// A disk that refuses a write gets another chance so often.
constexpr Duration kDiskRetry = 200ms;
// How old the figures of a view may be.
constexpr Duration kViewInterval = 100ms;

// What the engine tells the home loop, in one turn.
struct Report {
  std::optional<std::string> restore;
  std::vector<Entry> apply;
  std::vector<std::pair<std::uint64_t, Result<Index>>> answers;  // by the number of the question
  std::optional<GroupView> view;
  bool changed = false;
  bool wants_snapshot = false;
  std::uint64_t elections = 0;
};
using Reporter = std::function<void(Report)>;

enum class Question { propose, add, remove };

// Everything on the replica's own thread.
class Engine {
 public:
  Engine(io::Loop& loop, ReplicaOptions options, Stored stored, Durable durable, std::unique_ptr<store::StateLog> log,
         std::unique_ptr<Transport> transport, Reporter report)
      : loop_(loop), options_(std::move(options)), durable_(std::move(durable)), log_(std::move(log)), transport_(std::move(transport)),
        report_(std::move(report)), core_(core_options(), stored, io::Loop::now()), timer_(loop, [this] { tick(); }),
        view_timer_(loop, [this] { refresh_view(); }), retry_timer_(loop, [this] { retry_write(); }) {}

  void start() {
    TransportHooks hooks;
    hooks.received = [this](Message message) {
      core_.receive(message, io::Loop::now());
      settle();
    };
    hooks.found = [this](MemberId peer, std::string note) {
      notes_[peer] = std::move(note);
      core_.peer_found(peer, io::Loop::now());
      must_show_ = true;
      settle();
    };
    hooks.lost = [this](MemberId peer, const std::string&) {
      core_.peer_lost(peer, io::Loop::now());
      settle();
    };
    transport_->start(std::move(hooks));
    transport_->follow(core_.log().members());
    must_show_ = true;
    settle();
  }

  // Everything on its way is dropped or finished; afterwards nothing of the engine runs any more.
  void stop() {
    timer_.arm(std::nullopt);
    view_timer_.arm(std::nullopt);
    retry_timer_.arm(std::nullopt);
    transport_->close();
    transport_.reset();
    log_.reset();  // waits for the writer
    stopped_ = true;
  }

  void ask(std::uint64_t number, Question question, std::string command, Member member) {
    const Instant now = io::Loop::now();
    Result<std::pair<Index, Term>> where = question == Question::propose ? core_.propose(std::move(command), now)
                                           : question == Question::add   ? core_.add_member(std::move(member), now)
                                                                         : core_.remove_member(member.id, now);
    if (where) {
      waiting_.emplace(*where, number);
    } else {
      pending_.answers.emplace_back(number, failure(where.error()));
    }
    settle();
  }

  void hand_over(std::uint64_t number) {
    if (auto begun = core_.hand_over(io::Loop::now()); !begun) {
      pending_.answers.emplace_back(number, failure(begun.error()));
    } else {
      DIRIGENT_FAULT_POINT("consensus.handing_over");
      handing_over_.push_back(number);
    }
    settle();
  }

  void take_snapshot(Index index, std::string state) {
    is_asking_for_snapshot_ = false;
    core_.compact(index, std::move(state));
    DIRIGENT_FAULT_POINT("consensus.before_snapshot");
    settle();
  }

 private:
  CoreOptions core_options() const {
    CoreOptions core;
    core.self = options_.self;
    core.heartbeat = options_.heartbeat;
    core.election_timeout = options_.election_timeout;
    core.seed = entropy_seed();
    return core;
  }

  void tick() {
    core_.tick(io::Loop::now());
    settle();
  }

  // Does what the core asks for, and reports.
  void settle() {
    if (stopped_) return;
    Effects effects = core_.take();
    for (auto& write : effects.writes) write_down(write);
    for (auto& message : effects.messages) {
      if (message.kind == MessageKind::vote_reply && !message.refused) DIRIGENT_FAULT_POINT("consensus.vote");
      if (message.kind == MessageKind::append_reply && !message.refused) DIRIGENT_FAULT_POINT("consensus.append_answer");
      transport_->send(std::move(message));
    }
    if (effects.restore) {
      pending_.restore = *effects.restore->bytes;
      pending_.apply.clear();
      applied_ = effects.restore->index;
      bytes_since_snapshot_ = 0;
    }
    for (auto& entry : effects.apply) {
      applied_ = entry.index;
      bytes_since_snapshot_ += sizeof(Entry) + entry.data.size();
      if (const auto ours = waiting_.find({entry.index, entry.term}); ours != waiting_.end()) {
        DIRIGENT_FAULT_POINT("consensus.committed");
        pending_.answers.emplace_back(ours->second, entry.index);
        waiting_.erase(ours);
      }
      if (entry.kind == EntryKind::members) note_removal();
      if (entry.kind == EntryKind::command) pending_.apply.push_back(std::move(entry));
    }
    if (effects.changed) {
      transport_->follow(core_.log().members());
      pending_.changed = must_show_ = true;
      give_up_questions();
    }
    ask_for_snapshot();
    show();
    timer_.arm(core_.next_wakeup());
  }

  void note_removal() {
    const auto& members = core_.log().members();
    const bool is_member = std::any_of(members.begin(), members.end(), [&](const Member& member) { return member.id == options_.self; });
    if (is_member || std::exchange(was_told_removal_, true)) return;
    log_warn("consensus", "member {} has been removed from the group: it asks for no votes and waits (stop it; an id is never used again)", options_.self);
  }

  // Whoever does not lead cannot know what becomes of the proposals.
  void give_up_questions() {
    const bool leads = core_.leads();
    if (leads && !was_leader_) ++pending_.elections;
    if (!leads) {
      for (const auto& [where, number] : std::exchange(waiting_, {})) {
        pending_.answers.emplace_back(number, failure(ErrorCode::unavailable, "the leadership was lost before the change was acknowledged: it may have been made or not (look, and try again)"));
      }
    }
    was_leader_ = leads;
    if (handing_over_.empty() || (leads && core_.is_handing_over())) return;
    for (const auto number : std::exchange(handing_over_, {})) {
      if (!leads) {
        pending_.answers.emplace_back(number, core_.commit());
      } else {
        pending_.answers.emplace_back(number, failure(ErrorCode::timed_out, "leadership was not taken over within {}", format_duration(options_.election_timeout)));
      }
    }
  }

  void ask_for_snapshot() {
    if (is_asking_for_snapshot_) return;
    if (applied_ < core_.snapshot_index() + options_.snapshot_entries && bytes_since_snapshot_ < options_.snapshot_bytes) return;
    if (applied_ <= core_.snapshot_index()) return;
    is_asking_for_snapshot_ = pending_.wants_snapshot = true;
    bytes_since_snapshot_ = 0;
  }

  GroupView view() {
    GroupView view = core_.view(io::Loop::now());
    if (view.leader == options_.self) {
      view.leader_note = options_.note;
    } else if (const auto note = notes_.find(view.leader); note != notes_.end()) {
      view.leader_note = note->second;
    }
    return view;
  }

  void show() {
    const bool has_news = pending_.restore || !pending_.apply.empty() || !pending_.answers.empty() || pending_.wants_snapshot || must_show_;
    if (!has_news) {
      if (!view_due_) view_timer_.arm(io::Loop::now() + kViewInterval);
      view_due_ = true;
      return;
    }
    must_show_ = false;
    pending_.view = view();
    report_(std::exchange(pending_, {}));
  }

  void refresh_view() {
    view_due_ = false;
    must_show_ = true;
    if (!stopped_) show();
  }

  // --- disk
  // One batch at a time is with the state log, and what comes meanwhile makes the next one: were there two, the first one
  // could fail and the second one succeed, and the disk would hold a log that never was.
  void write_down(const DiskWrite& write) {
    unwritten_.push_back({write.number, durable_.records(write), write.snapshot.has_value()});
    if (!is_writing_) append();
  }

  struct Unwritten {
    std::uint64_t number;
    std::vector<store::Write> records;
    bool has_snapshot;
  };

  void append() {
    if (unwritten_.empty()) return;
    DIRIGENT_FAULT_POINT("consensus.before_write");
    is_writing_ = true;
    std::vector<store::Write> batch;
    for (const auto& write : unwritten_) batch.insert(batch.end(), write.records.begin(), write.records.end());
    log_->append(std::move(batch), [this, number = unwritten_.back().number](Status status) {
      // On the writer thread. The engine outlives the log.
      loop_.post([this, number, status = std::move(status)] { written(number, status); });
    });
  }

  void written(std::uint64_t number, const Status& status) {
    if (stopped_) return;
    if (!status) {
      if (!std::exchange(is_failed_, true)) {
        log_error("consensus", "member {} cannot write and does not lead meanwhile: {}", options_.self, status.error().message);
        core_.disk_works(false, io::Loop::now());
        settle();
      }
      retry_timer_.arm(io::Loop::now() + kDiskRetry);
      return;
    }
    DIRIGENT_FAULT_POINT("consensus.written");
    while (!unwritten_.empty() && unwritten_.front().number <= number) {
      if (unwritten_.front().has_snapshot) DIRIGENT_FAULT_POINT("consensus.snapshot_written");
      unwritten_.pop_front();
    }
    if (std::exchange(is_failed_, false)) {
      log_info("consensus", "member {} can write again", options_.self);
      core_.disk_works(true, io::Loop::now());
      settle();
    }
    is_writing_ = false;
    append();
    core_.durable(number, io::Loop::now());
    settle();
  }

  void retry_write() {
    if (!stopped_) append();
  }

  io::Loop& loop_;
  ReplicaOptions options_;
  Durable durable_;
  std::unique_ptr<store::StateLog> log_;
  std::unique_ptr<Transport> transport_;
  Reporter report_;
  Core core_;
  io::WakeupTimer timer_;
  io::WakeupTimer view_timer_;
  io::WakeupTimer retry_timer_;
  std::map<MemberId, std::string> notes_;
  std::map<std::pair<Index, Term>, std::uint64_t> waiting_;
  std::vector<std::uint64_t> handing_over_;
  std::deque<Unwritten> unwritten_;
  bool is_writing_ = false;
  bool is_failed_ = false;
  Index applied_ = 0;
  std::size_t bytes_since_snapshot_ = 0;
  bool is_asking_for_snapshot_ = false;
  Report pending_;
  bool must_show_ = false;
  bool view_due_ = false;
  bool was_leader_ = false;
  bool was_told_removal_ = false;
  bool stopped_ = false;
};

class ReplicaImpl final : public Replica {
 public:
  ReplicaImpl(io::Loop& home, ReplicaHooks hooks) : home_(home), hooks_(std::move(hooks)), alive_(std::make_shared<bool>(true)) {}
  ~ReplicaImpl() override { close(); }

  Status open(ReplicaOptions options, std::unique_ptr<store::StateLog> log) {
    Durable durable;
    auto stored = durable.load(*log);
    if (!stored) return failure(stored.error());
    if (!*stored) {
      auto begun = begin(options, durable, *log);
      if (!begun) return failure(begun.error());
      *stored = std::move(*begun);
    }
    RpcTransportOptions transport;
    transport.self = options.self;
    transport.listen = options.listen;
    transport.note = options.note;
    transport.silence_max = options.silence_max;
    auto made = rpc_transport(loop_, transport);
    if (!made) return failure(made.error());
    address_ = (*made)->address();
    view_.self = options.self;
    view_.members = (*stored)->snapshot.members;
    auto report = [this, alive = std::weak_ptr<bool>(alive_)](Report news) {
      home_.post([this, alive, news = std::move(news)]() mutable {
        if (!alive.expired()) take(std::move(news));
      });
    };
    engine_ = std::make_unique<Engine>(loop_, std::move(options), std::move(**stored), std::move(durable), std::move(log), std::move(*made), std::move(report));
    loop_.post([this] { engine_->start(); });
    thread_ = std::thread([this] { loop_.run(); });
    pthread_setname_np(thread_.native_handle(), "consensus");
    return {};
  }

  void propose(std::string command, Committed committed) override {
    if (questions_.size() >= kWaitingMax) {
      committed(failure(ErrorCode::exhausted, "{} changes are waiting to be acknowledged, which is the limit (try again later)", kWaitingMax));
      return;
    }
    ask(Question::propose, std::move(command), {}, std::move(committed));
  }
  void add_member(Member member, Done done) override {
    ask(Question::add, "", std::move(member), [done = std::move(done)](Result<Index> index) { done(index ? Status{} : failure(index.error())); });
  }
  void remove_member(MemberId member, Done done) override {
    ask(Question::remove, "", {member, "", true}, [done = std::move(done)](Result<Index> index) { done(index ? Status{} : failure(index.error())); });
  }
  void hand_over(Done done) override {
    const std::uint64_t number = remember([done = std::move(done)](Result<Index> index) { done(index ? Status{} : failure(index.error())); });
    if (engine_) loop_.post([this, number] { engine_->hand_over(number); });
  }

  [[nodiscard]] const GroupView& view() const override { return view_; }
  [[nodiscard]] const ReplicaCounters& counters() const override { return counters_; }
  [[nodiscard]] std::string address() const override { return address_; }

  void close() override {
    if (!alive_) return;
    alive_.reset();
    if (thread_.joinable()) {
      loop_.post([this] {
        engine_->stop();
        loop_.stop();
      });
      thread_.join();
      loop_.poll();  // what the ends of connections have posted
    }
    engine_.reset();
    for (auto& [number, question] : std::exchange(questions_, {})) {
      question.committed(failure(ErrorCode::cancelled, "the member is shutting down; the change may have been made or not"));
    }
  }

 private:
  struct Waiting {
    Committed committed;
    Instant asked;
  };

  // Nothing has ever been written here. What is written now must be on the disk before anything is said.
  Result<Stored> begin(const ReplicaOptions& options, Durable& durable, store::StateLog& log) {
    const bool is_named = std::any_of(options.members.begin(), options.members.end(), [&](const Member& member) { return member.id == options.self; });
    if (!options.members.empty() && !is_named) {
      return failure(ErrorCode::invalid_argument, "member {} is not among the members that the group begins with", options.self);
    }
    Stored stored;
    stored.hard.term = options.term_min;
    stored.is_new = !options.has_led_alone;
    stored.snapshot.members = options.members;
    struct Wait {
      std::mutex mutex;
      std::condition_variable changed;
      std::optional<Status> status;
    } wait;
    log.append(durable.records(first_write(stored)), [&wait](Status status) {
      const std::lock_guard lock(wait.mutex);
      wait.status = std::move(status);
      wait.changed.notify_one();
    });
    std::unique_lock lock(wait.mutex);
    wait.changed.wait(lock, [&] { return wait.status.has_value(); });
    if (!*wait.status) return failure(wait.status->error());
    return stored;
  }

  std::uint64_t remember(Committed committed) {
    const std::uint64_t number = ++last_question_;
    questions_.emplace(number, Waiting{std::move(committed), io::Loop::now()});
    return number;
  }

  void ask(Question question, std::string command, Member member, Committed committed) {
    if (!engine_) {
      committed(failure(ErrorCode::cancelled, "the member is shutting down"));
      return;
    }
    if (question == Question::propose) ++counters_.proposals;
    const std::uint64_t number = remember(std::move(committed));
    loop_.post([this, number, question, command = std::move(command), member = std::move(member)]() mutable {
      engine_->ask(number, question, std::move(command), std::move(member));
    });
  }

  void take(Report report) {
    const std::weak_ptr<bool> alive = alive_;
    if (report.restore) hooks_.restore(*report.restore);
    for (const auto& entry : report.apply) hooks_.apply(entry.index, entry.data);
    if (report.wants_snapshot && engine_) {
      loop_.post([this, index = report.view->applied, state = hooks_.snapshot()]() mutable { engine_->take_snapshot(index, std::move(state)); });
    }
    if (report.view) view_ = std::move(*report.view);
    counters_.elections += report.elections;
    for (auto& [number, result] : report.answers) {
      const auto found = questions_.find(number);
      if (found == questions_.end()) continue;
      Waiting waiting = std::move(found->second);
      questions_.erase(found);
      if (result) {
        counters_.commit_times.record(io::Loop::now() - waiting.asked);
      } else {
        ++counters_.failed;
      }
      waiting.committed(std::move(result));
      if (alive.expired()) return;
    }
    if (report.changed && hooks_.changed) hooks_.changed(view_);
  }

  io::Loop& home_;
  ReplicaHooks hooks_;
  std::shared_ptr<bool> alive_;
  io::Loop loop_;  // of the thread
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
  std::string address_;
  GroupView view_;
  ReplicaCounters counters_;
  std::map<std::uint64_t, Waiting> questions_;
  std::uint64_t last_question_ = 0;
};

}  // namespace

Result<std::unique_ptr<Replica>> Replica::start(io::Loop& home, ReplicaOptions options, std::unique_ptr<store::StateLog> log, ReplicaHooks hooks) {
  auto replica = std::make_unique<ReplicaImpl>(home, std::move(hooks));
  if (auto opened = replica->open(std::move(options), std::move(log)); !opened) return failure(opened.error());
  return std::unique_ptr<Replica>(std::move(replica));
}

}  // namespace dirigent::consensus
