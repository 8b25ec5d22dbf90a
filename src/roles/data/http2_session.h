// SPDX-License-Identifier: MIT
//
// One HTTP/2 connection of either side: nghttp2 does framing, header compression and flow control; here are the socket,
// the bytes on their way, and the translation between header blocks and the HTTP/1.1 text that an Exchange works on.
//
// Sending is gathered: whoever has something to send says want_flush(), and the shard flushes every such session once
// at the end of a batch of events, so that the frames of many streams leave in one write. A session never writes into a
// stream's memory and never reads further than its stream's window: 64 KiB per stream lie in a StreamBuffer at most.
// The connection's window is given back at once, so that one slow stream does not stop the others, unless the data
// plane is short of memory.
//
// Streams (Http2Stream) are owned by others; a session only points to those that are attached. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dirigent/base/time.h"
#include "roles/data/block_pool.h"
#include "roles/data/front.h"
#include "roles/data/poller.h"
#include "roles/data/stream_buffer.h"

struct nghttp2_session;
struct Http2Callbacks;  // the C callbacks, in http2_session.cpp

namespace dirigent::roles {

class ProxyShard;
class Http2Session;

// What both sides have in common of one stream.
class Http2Stream {
 public:
  Http2Stream() = default;
  Http2Stream(const Http2Stream&) = delete;
  Http2Stream& operator=(const Http2Stream&) = delete;

  [[nodiscard]] bool attached() const { return session_ != nullptr; }

 protected:
  friend class Http2Session;
  friend struct ::Http2Callbacks;
  ~Http2Stream() = default;

  // A head has arrived as a whole (text() of the session), and the stream's end with it when `ended`. Trailers are
  // none.
  virtual void on_head(bool ended) = 0;
  // Input has arrived or ended, or output has left.
  virtual void on_progress() = 0;
  // The peer or the connection has ended it before its time: error code of HTTP/2.
  virtual void on_broken(std::uint32_t error_code) = 0;

  // The next piece of the input; what was handed out before is given back to the peer's window.
  BodyPart read_input(BlockPool& pool);
  void queue_output(std::string_view payload, bool last, std::string_view trailers);
  [[nodiscard]] bool output_pending() const { return !head_sent_ || !output_.empty() || (last_ && !end_sent_); }
  // Both sides have said their last.
  [[nodiscard]] bool is_complete() const { return input_ended_ && end_sent_; }
  // How it goes with the output: done, blocked, or failed when the stream has been closed before.
  PolledSocket::Transfer output_state();

  Http2Session* session_ = nullptr;
  std::size_t place_ = 0;           // in the session's list
  std::int32_t id_ = 0;
  bool closed_ = false;             // nghttp2 knows it no more
  bool input_ended_ = false;
  bool noted_ = false;              // in the session's list of streams to be told
  bool submitted_ = false;          // nghttp2 has our head
  bool head_sent_ = false;          // ... and has put it into a frame
  bool deferred_ = false;           // nghttp2 waits for more output
  bool last_ = false;               // `output_` is the last
  bool end_sent_ = false;
  std::size_t lent_ = 0;            // bytes at the front of `input_` that read_input() has handed out
  std::size_t taken_ = 0;           // bytes of output taken since output_state()
  int error_ = 0;                   // errno with which it was closed; 0 = in an orderly way
  std::string_view output_;
  std::string_view output_trailers_;
  StreamBuffer input_;
  std::string trailers_;            // that the peer sent: lines with CR LF

  void begin_stream();              // forgets what an earlier stream left
};

class Http2Session : public PolledSocket {
 public:
  [[nodiscard]] bool is_alive() const { return session_ != nullptr && !dead_; }
  [[nodiscard]] std::size_t streams() const { return streams_.size(); }

  // Hand a head to nghttp2. `text`: a whole or almost whole HTTP/1.1 head, whose names become lower case in place; what
  // belongs to HTTP/1.1 only is left out. `ends`: nothing follows. False: the stream has gone.
  bool submit_answer(Http2Stream& stream, char* text, std::size_t size, bool ends);
  bool submit_interim(Http2Stream& stream, char* text, std::size_t size);
  bool submit_request(Http2Stream& stream, char* text, std::size_t size, bool ends);
  // The head that on_head() tells of.
  [[nodiscard]] const std::string& text() const { return text_; }
  // To the kernel, since the beginning.
  [[nodiscard]] std::uint64_t bytes_sent() const { return bytes_sent_; }

  // The shard will call flush() at the end of this batch.
  void want_flush();
  // Sends what there is to send. May end streams and the session.
  void flush();
  // Memory has become free again: the connection's window may be given back.
  void return_window();
  // Goes on where a long batch of reading was interrupted.
  void read_on() { on_ready(); }

 protected:
  friend class Http2Stream;
  friend struct ::Http2Callbacks;
  enum class Side { server, client };
  Http2Session(ProxyShard& shard, Side side) : shard_(shard), side_(side) {}
  ~Http2Session() override;

  // REQUIRES: none is open.
  bool open_session();
  void close_session();
  // Readiness of the socket, whatever it is.
  void on_ready() override;
  // Reads and forgets what has come. False: the peer has ended, or there is too much.
  bool discard_input();
  // False: the session is dead.
  bool feed(std::string_view bytes);
  // Tells every stream that it is broken, and closes.
  void die(int error);

  void attach(Http2Stream& stream, std::int32_t id);
  // The owner gives the stream up: what is still open of it is reset with this code.
  void detach(Http2Stream& stream, std::uint32_t error_code);
  void submit_goaway(std::uint32_t error_code);
  // GOAWAY, and the end of the session when it has left.
  void terminate(std::uint32_t error_code);
  void submit_shutdown_notice();
  void submit_ping();
  // REQUIRES: a fresh server session. The answer to `request` becomes stream 1. False: the settings are malformed.
  bool upgrade(std::string_view settings, bool is_head);
  [[nodiscard]] bool has_pending_output() const;

  // A new stream of the peer. nullptr: refused.
  virtual Http2Stream* on_new_stream(std::int32_t id) = 0;
  // Turns the header block that is complete now into a head in text().
  virtual void build_head(bool ended, Http2Stream& stream) = 0;
  virtual void on_goaway(std::int32_t last_stream_id) = 0;
  virtual void on_ping_ack() {}
  // The connection is of no use any more; every stream has been told. Closes the socket.
  virtual void on_dead() = 0;
  // All that there was to send has left.
  virtual void on_flushed() {}

  ProxyShard& shard_;
  const Side side_;
  nghttp2_session* session_ = nullptr;
  std::vector<Http2Stream*> streams_;
  std::uint64_t bytes_sent_ = 0;
  std::uint32_t peer_streams_max_ = 100;  // until the peer has told

  // The header block that is being received.
  std::string text_;                // a head, or the fields of one
  std::string fields_;
  std::string method_;
  std::string path_;
  std::string authority_;
  std::string host_;
  std::string cookie_;
  std::string status_;
  std::string protocol_;            // of an extended CONNECT
  bool has_length_ = false;
  bool head_too_large_ = false;
  bool bad_block_ = false;

 private:
  // Frames that cost the sender nothing and us work: pings, settings, priorities, resets, empty data. Honest peers send
  // a few, at most a reset per stream at once, and measure the line with pings as long as data flows, which makes up
  // for them. Above twice the limit of streams and 200 more in a second, the session ends with ENHANCE_YOUR_CALM.
  void count_cheap_frame();
  void count_data_frame() { cheap_frames_ -= cheap_frames_ > 0 ? 1 : 0; }
  // The stream will be told of its progress when what is being sent has left.
  void note(Http2Stream& stream);
  void begin_block();
  void add_to_block(std::string_view name, std::string_view value);
  void end_block(Http2Stream& stream, bool ended);
  bool submit_trailers(Http2Stream& stream);
  void take_payload(Http2Stream* stream, std::int32_t id, std::string_view bytes);
  bool fill_output();
  void tell_noted();

  std::vector<Http2Stream*> noted_;
  Block* out_ = nullptr;            // frames on their way
  Output output_;
  std::size_t withheld_ = 0;        // bytes of the connection's window not given back
  Instant counting_since_{};
  std::uint32_t cheap_frames_ = 0;  // since then
  bool wants_flush_ = false;
  bool dead_ = false;
};

}  // namespace dirigent::roles
