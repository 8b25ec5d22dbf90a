#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A gRPC server without generated code: messages are bytes. Serves all four kinds of calls, and failures with a status."""
import os
from concurrent import futures

import grpc


def parts(request):
    for i in range(int(request)):
        yield b"part %d" % i


def fail(_, context):
    context.set_trailing_metadata((("why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")


def echo(request, context):
    context.send_initial_metadata((("seen-host", dict(context.invocation_metadata()).get("x-forwarded-host", "")),))
    return request


handlers = grpc.method_handlers_generic_handler("test.Calls", {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Parts": grpc.unary_stream_rpc_method_handler(lambda request, context: parts(request)),
    "Join": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"+".join(requests)),
    "Chat": grpc.stream_stream_rpc_method_handler(lambda requests, context: (b"<" + r + b">" for r in requests)),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((handlers,))
server.add_insecure_port(f"0.0.0.0:{os.environ['PORT']}")
server.start()
server.wait_for_termination()
