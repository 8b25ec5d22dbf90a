# SPDX-License-Identifier: MIT
"""The bytes of HTTP/2 connections: frames, and header blocks by libnghttp2, which every build of ours needs."""
import ctypes

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM = ACK = 1
MAX_CONCURRENT_STREAMS = 3
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frames(data):
    """(type, flags, stream, payload) of each whole frame."""
    place = 0
    while len(data) - place >= 9:
        length = int.from_bytes(data[place:place + 3], "big")
        if len(data) - place < 9 + length:
            return
        yield data[place + 3], data[place + 4], int.from_bytes(data[place + 5:place + 9], "big") & 0x7fffffff, data[place + 9:place + 9 + length]
        place += 9 + length


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class NameValue(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("value", ctypes.c_void_p), ("name_size", ctypes.c_size_t), ("value_size", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


class HeaderReader:
    """Header blocks of one direction of a connection, in their order."""
    FINAL, EMIT = 1, 2

    def __init__(self):
        self.library = ctypes.CDLL("libnghttp2.so.14")
        self.library.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.inflater = ctypes.c_void_p()
        if self.library.nghttp2_hd_inflate_new(ctypes.byref(self.inflater)) != 0:
            raise MemoryError

    def read(self, block):
        fields, buffer, place = {}, ctypes.create_string_buffer(block, len(block)), 0
        while True:
            pair, flags = NameValue(), ctypes.c_int(0)
            used = self.library.nghttp2_hd_inflate_hd2(self.inflater, ctypes.byref(pair), ctypes.byref(flags), ctypes.byref(buffer, place),
                                                       ctypes.c_size_t(len(block) - place), 1)
            if used < 0:
                raise ValueError(f"not a header block: {used}")
            place += used
            if flags.value & self.EMIT:
                fields[ctypes.string_at(pair.name, pair.name_size).decode()] = ctypes.string_at(pair.value, pair.value_size).decode()
            if flags.value & self.FINAL:
                self.library.nghttp2_hd_inflate_end_headers(self.inflater)
                return fields
