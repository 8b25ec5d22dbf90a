#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Server-sent events under the caller's control: an event per line of the request's path /wait/NAME once /go/NAME was
called, so that a test can see that each event arrives before the next is made."""
import http.server
import os
import threading

gates = {}
lock = threading.Lock()


def gate(name):
    with lock:
        return gates.setdefault(name, threading.Semaphore(0))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, verb, name = self.path.split("/")
        if verb == "go":
            gate(name).release()
            self.send_response(204)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for i in range(5):
            gate(name).acquire()
            self.wfile.write(f"data: {i}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
