// SPDX-License-Identifier: MIT
//
// The function of the cold-start benchmarks: the least HTTP server there can be, so that what is measured is the
// sandbox and not the program in it. No C library: a static glibc takes longer to start than everything else.
#include <stddef.h>

enum { kSocketFamily = 2, kStream = 1, kSocketLevel = 1, kReuseAddress = 2, kPort = 8080 };

#if defined(__x86_64__)
enum { kRead = 0, kWrite = 1, kClose = 3, kSocket = 41, kAccept = 43, kBind = 49, kListen = 50, kSetOption = 54, kExit = 60 };
static long call(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
enum { kRead = 63, kWrite = 64, kClose = 57, kSocket = 198, kAccept = 202, kBind = 200, kListen = 201, kSetOption = 208, kExit = 93 };
static long call(long number, long a, long b, long c, long d, long e) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
}
#else
#error "the function of the benchmarks knows x86-64 and aarch64"
#endif

static const char kAnswer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

__attribute__((noreturn, used)) void serve(void) {
  static char request[4096];
  const int on = 1;
  struct {
    unsigned short family, port;
    unsigned address;
    char rest[8];
  } here = {kSocketFamily, (unsigned short)((kPort & 0xff) << 8 | kPort >> 8), 0, {0}};
  const long listener = call(kSocket, kSocketFamily, kStream, 0, 0, 0);
  call(kSetOption, listener, kSocketLevel, kReuseAddress, (long)&on, sizeof on);
  if (call(kBind, listener, (long)&here, sizeof here, 0, 0) != 0) call(kExit, 1, 0, 0, 0, 0);
  if (call(kListen, listener, 128, 0, 0, 0) != 0) call(kExit, 2, 0, 0, 0, 0);
  for (;;) {
    // One connection at a time, until its client closes it: a load generator that keeps several open is not served.
    const long client = call(kAccept, listener, 0, 0, 0, 0);
    while (call(kRead, client, (long)request, sizeof request, 0, 0) > 0) call(kWrite, client, (long)kAnswer, sizeof kAnswer - 1, 0, 0);
    call(kClose, client, 0, 0, 0, 0);
  }
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  and $-16, %rsp\n  call serve\n");
#else
__asm__(".globl _start\n_start:\n  bl serve\n");
#endif
