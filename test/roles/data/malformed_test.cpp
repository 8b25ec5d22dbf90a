// SPDX-License-Identifier: MIT
#include "catch.h"
#include "harness.h"

using namespace dirigent;
using namespace dirigent::test;

TEST_CASE("malformed requests: each is answered 400 once, and the connection ends") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("never")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  const std::string h = "Host: f\r\n";
  const std::vector<std::string> requests{
      "GET / HTTP/1.1\r\n\r\n",                                                  // no Host
      "GET / HTTP/1.1\r\nHost: f\r\nHost: f\r\n\r\n",                            // two Hosts
      "GET / HTTP/1.1\r\nHost: f\r\nhost: g\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: f/g\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: f g\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: u@f\r\n\r\n",
      "GET / HTTP/1.1\nHost: f\n\n",                                             // bare LF
      "GET / HTTP/1.1\r\nHost: f\n\r\n",
      "GET / HTTP/1.1\r\nHost: f\r\rX: a\r\n\r\n",                               // bare CR
      "GET / HTTP/1.1\r\n" + h + "X: a\r\n b\r\n\r\n",                           // obs-fold
      "GET / HTTP/1.1\r\n" + h + "X: a\r\n\tb\r\n\r\n",
      "GET / HTTP/1.1\r\n X: a\r\n" + h + "\r\n",
      "GET / HTTP/1.1\r\n" + h + "X : a\r\n\r\n",                                // space before the colon
      "GET / HTTP/1.1\r\nHost : f\r\n\r\n",
      "GET / HTTP/1.1\r\n" + h + "X\t: a\r\n\r\n",
      "GET / HTTP/1.1\r\n" + h + ": a\r\n\r\n",                                  // no name
      "GET / HTTP/1.1\r\n" + h + "X\r\n\r\n",                                    // no colon
      "GET / HTTP/1.1\r\n" + h + "X(y): a\r\n\r\n",
      "GET / HTTP/1.1\r\n" + h + "X: a\x01" "b\r\n\r\n",                         // control bytes
      "GET / HTTP/1.1\r\n" + h + std::string("X: a\0b\r\n\r\n", 10),
      "GET / HTTP/1.1\r\n" + h + "X: a\x7f\r\n\r\n",
      "GET /a\x01 HTTP/1.1\r\n" + h + "\r\n",
      "GET  / HTTP/1.1\r\n" + h + "\r\n",                                        // request line
      "GET / HTTP/1.1 \r\n" + h + "\r\n",
      "GET /a b HTTP/1.1\r\n" + h + "\r\n",
      "GET /  HTTP/1.1\r\n" + h + "\r\n",
      "GET /\xc3\xa4 HTTP/1.1\r\n" + h + "\r\n",
      "GET /\r\n" + h + "\r\n",                                                  // HTTP/0.9
      " GET / HTTP/1.1\r\n" + h + "\r\n",
      "G@T / HTTP/1.1\r\n" + h + "\r\n",
      "get / HTTP/1.1\r\n" + h + "\r\n",
      "GET / HTTP/2.0\r\n" + h + "\r\n",
      "GET / HTTP/1.2\r\n" + h + "\r\n",
      "GET / HTTP/1.10\r\n" + h + "\r\n",
      "GET / HTTP/1,1\r\n" + h + "\r\n",
      "GET / http/1.1\r\n" + h + "\r\n",
      "GET f HTTP/1.1\r\n" + h + "\r\n",                                         // target
      "GET * HTTP/1.1\r\n" + h + "\r\n",
      "GET /#a HTTP/1.1\r\n" + h + "\r\n",
      "GET http://g/ HTTP/1.1\r\n" + h + "\r\n",                                 // another host than Host
      "GET https://f/ HTTP/1.1\r\n" + h + "\r\n",
      "CONNECT f:80 HTTP/1.1\r\n" + h + "\r\n",                                  // no open proxy
      "\r\n\r\nGET / HTTP/1.1\r\n" + h + "\r\n",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",   // framing
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 3, 3\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: -3\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: +3\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 0x3\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 3 3\r\n\r\nabc",
      "POST / HTTP/1.1\r\n" + h + "Content-Length:\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 99999999999999999999999\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: identity\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.0\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + h + "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx",
      "GET / HTTP/1.1\r\n" + h + "Connection: a b\r\n\r\n",
  };
  for (const auto& request : requests) {
    INFO(request);
    Wire wire = Wire::connect(plane.address());
    // A second request rides behind: it must not be answered.
    wire.write(request + "GET /smuggled HTTP/1.1\r\nHost: f\r\n\r\n");
    const Response response = read_response(wire);
    CHECK(response.status == 400);
    CHECK(response.header("X-Dirigent-Reason") == "bad-request");
    CHECK(response.header("Connection") == "close");
    CHECK(response.body.find("\"reason\":\"bad-request\"") != std::string::npos);
    CHECK(response.body.find("\"ran\":false") != std::string::npos);
    CHECK(wire.at_end());
  }
  CHECK(plane.in_flight() == 0);
}

TEST_CASE("odd but legal requests reach the function") {
  FakeSandbox sandbox(FakeSandbox::answering(ok("fine")));
  Plane plane;
  plane.route("f", {sandbox.address()});
  for (const std::string request : {
           "\r\nGET / HTTP/1.1\r\nHost: f\r\n\r\n",
           "GET / HTTP/1.1\r\nhOsT:f\r\n\r\n",
           "GET / HTTP/1.1\r\nHost: \t f \t\r\n\r\n",
           "GET http://f/x HTTP/1.1\r\nHost: f\r\n\r\n",
           "OPTIONS * HTTP/1.1\r\nHost: f\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n",
           "POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
           "PATCH / HTTP/1.1\r\nHost: f\r\nContent-Length: 03\r\n\r\nabc",
           "GET / HTTP/1.1\r\nHost: f\r\nX-Empty:\r\nX_Under_Score: a\r\n\r\n",
           "GET /?a=%C3%A4 HTTP/1.1\r\nHost: f\r\nX: \xff\r\n\r\n"}) {
    INFO(request);
    const Response response = fetch(plane.address(), request);
    CHECK(response.status == 200);
    CHECK(response.body == "fine");
  }
}

TEST_CASE("broken responses: a 502 while nothing was sent, never a false 200") {
  SharedText answer;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.write(answer.get());
  });
  Plane plane;
  plane.route("f", {sandbox.address()});
  const std::vector<std::string> answers{
      "garbage\r\n\r\n",
      "HTTP/2 200 OK\r\n\r\n",
      "HTTP/1.1 20 OK\r\n\r\n",
      "HTTP/1.1 2000 OK\r\n\r\n",
      "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
      "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
      "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nX: a\x01\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Le",
      "",
      "HTTP/1.1 200 OK\r\n" + std::string(70'000, 'x'),
  };
  for (const auto& one : answers) {
    answer = one;
    INFO(one.substr(0, 100));
    const Response response = fetch(plane.address(), "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 2\r\n\r\nhi");
    CHECK(response.status == 502);
    CHECK(response.body.find("\"ran\":\"maybe\"") != std::string::npos);
    const bool cut_short = one.empty() || one.ends_with("Content-Le");
    CHECK(response.header("X-Dirigent-Reason") == (cut_short ? "sandbox-reset" : "bad-response"));
  }
}

TEST_CASE("broken bodies: the client's connection breaks, and no byte beyond the framing gets through") {
  SharedText answer;
  FakeSandbox sandbox([&](Wire& wire, FakeSandbox&) {
    if (read_request(wire)) wire.write(answer.get());
  });
  Plane plane;
  plane.route("f", {sandbox.address()});

  answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
  Response response = fetch(plane.address(), get("/", "f"));
  CHECK(response.status == 200);
  CHECK(response.body == "abc");
  CHECK_FALSE(response.complete);

  answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
  response = fetch(plane.address(), get("/", "f"));
  CHECK(response.body == "hello");
  CHECK_FALSE(response.complete);

  answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
  Wire wire = Wire::connect(plane.address());
  wire.write(get("/", "f"));
  response = read_response(wire);
  CHECK(response.body == "abc");
  answer = ok("second");
  wire.write(get("/", "f"));
  CHECK(read_response(wire).body == "second");
}
