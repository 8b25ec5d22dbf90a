// SPDX-License-Identifier: MIT
//
// The program the tests run inside sandboxes: says what it sees, tries what it must not be able to do, and behaves well
// or badly as told. Static, so that it also runs in an otherwise empty root.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

static void attempt(const char* name, long result) {
  printf("attempt %s: %s\n", name, result < 0 ? "refused" : "ALLOWED");
}

// The filter refuses before the kernel looks at the arguments, which nothing could be done with here.
static void filtered(const char* name, long result) {
  printf("attempt %s, senseless: %s\n", name, result < 0 && errno == EPERM ? "refused" : "ALLOWED to be looked at");
}

static void print_status(const char* key) {
  FILE* file = fopen("/proc/self/status", "r");
  char line[512];
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, key, strlen(key)) == 0) printf("status %s", line);
  }
  if (file != NULL) fclose(file);
}

static int count_entries(const char* path, int numbers_only) {
  DIR* directory = opendir(path);
  int count = 0;
  struct dirent* entry;
  while (directory != NULL && (entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    if (!numbers_only || (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')) ++count;
  }
  if (directory != NULL) closedir(directory);
  return count;
}

static void report(void) {
  char host[256] = "";
  gethostname(host, sizeof host);
  char directory[4096] = "";
  printf("uid %d gid %d pid %d host %s cwd %s\n", (int)getuid(), (int)getgid(), (int)getpid(), host,
         getcwd(directory, sizeof directory));
  for (char** variable = environ; *variable != NULL; ++variable) printf("env %s\n", *variable);
  const char* keys[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp:"};
  for (unsigned i = 0; i < sizeof keys / sizeof *keys; ++i) print_status(keys[i]);
  printf("pids %d\n", count_entries("/proc", 1));
  printf("fds %d\n", count_entries("/proc/self/fd", 0) - 1);  // without the one that reads them
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  printf("nofile %lu\n", (unsigned long)files.rlim_max);
}

static void attempts(void) {
  attempt("mount", mount("x", "/tmp", "tmpfs", 0, NULL));
  attempt("umount", umount2("/proc", MNT_DETACH));
  attempt("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
  attempt("chroot", chroot("/tmp"));
  filtered("umount", syscall(SYS_umount2, "/proc", ~0));
  filtered("chroot", syscall(SYS_chroot, "/no/such/directory"));
  filtered("mount", syscall(SYS_mount, -1L, "/tmp", -1L, 0, NULL));
  filtered("mount_setattr", syscall(SYS_mount_setattr, -1, "", ~0, NULL, 0));
  filtered("fsopen", syscall(SYS_fsopen, -1L, ~0));
  filtered("unshare", syscall(SYS_unshare, ~0L));
  filtered("bpf", syscall(SYS_bpf, ~0, NULL, 1L << 20));
  attempt("unshare user", unshare(CLONE_NEWUSER));
  attempt("unshare net", unshare(CLONE_NEWNET));
  attempt("clone user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
  attempt("clone3", syscall(SYS_clone3, NULL, 0));
  attempt("setns", setns(0, 0));
  attempt("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
  attempt("bpf", syscall(SYS_bpf, 0, NULL, 0));
  attempt("perf", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
  attempt("io_uring", syscall(SYS_io_uring_setup, 1, NULL));
  attempt("userfaultfd", syscall(SYS_userfaultfd, 0));
  attempt("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
  attempt("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
  attempt("init_module", syscall(SYS_init_module, NULL, 0, ""));
  attempt("kexec", syscall(SYS_kexec_load, 0, 0, NULL, 0));
  attempt("reboot", reboot(RB_DISABLE_CAD));
  attempt("swapon", syscall(SYS_swapon, "/tmp/x", 0));
  attempt("open_by_handle", syscall(SYS_open_by_handle_at, -1, NULL, 0));
  attempt("setuid", setuid(0));
  attempt("sethostname", sethostname("x", 1));
  attempt("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
  attempt("raw socket", socket(AF_INET, SOCK_RAW, 1));
  attempt("netlink audit", socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
  attempt("vsock", socket(40, SOCK_STREAM, 0));
  attempt("mknod", mknod("/tmp/disk", S_IFBLK | 0600, makedev(8, 0)));
  attempt("/dev/mem", open("/dev/mem", O_RDONLY));
  attempt("/dev/kmsg", open("/dev/kmsg", O_RDONLY));
  char byte;
  int kcore = open("/proc/kcore", O_RDONLY);
  attempt("/proc/kcore", kcore >= 0 && read(kcore, &byte, 1) == 1 ? 0 : -1);
  attempt("/proc/sysrq-trigger", open("/proc/sysrq-trigger", O_WRONLY));
  attempt("/proc/sys", open("/proc/sys/kernel/core_pattern", O_WRONLY));
  attempt("write /", open("/written", O_WRONLY | O_CREAT, 0600));
  attempt("write /usr", open("/usr/written", O_WRONLY | O_CREAT, 0600));
  attempt("write self", open("/proc/self/exe", O_WRONLY));
  // In a container the function is its own init.
  int has_init = getpid() != 1;
  attempt("init's memory", has_init ? open("/proc/1/mem", O_RDONLY) : -1);
  attempt("init's root", has_init ? open("/proc/1/root", O_RDONLY) : -1);
  attempt("cgroups", open("/sys/fs/cgroup", O_RDONLY));
  attempt("host's /root", open("/root", O_RDONLY));
  attempt("host's shadow", open("/etc/shadow", O_RDONLY));
  int tmp = open("/tmp/mine", O_WRONLY | O_CREAT, 0600);
  printf("tmp %s\n", tmp >= 0 ? "writable" : "NOT WRITABLE");
}

static void try_connect(const char* host, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  inet_pton(AF_INET, host, &address.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  connect(fd, (struct sockaddr*)&address, sizeof address);
  struct pollfd event = {fd, POLLOUT, 0};
  int error = ETIMEDOUT;
  socklen_t size = sizeof error;
  if (poll(&event, 1, 300) > 0) getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  printf("connect %s: %s\n", host, error == 0 ? "CONNECTED" : "no");
}

static void on_term(int signal) {
  (void)signal;
  static const char text[] = "got TERM\n";
  (void)!write(1, text, sizeof text - 1);
  _exit(7);
}

static void eat(void) {
  for (size_t total = 0; total < ((size_t)4 << 30); total += 1 << 20) {
    char* part = malloc(1 << 20);
    if (part == NULL) break;
    memset(part, 1, 1 << 20);
  }
  printf("ate everything\n");
}

static void breed(void) {
  int children = 0;
  while (children < 500) {
    pid_t pid = fork();
    if (pid == 0) {
      pause();
      _exit(0);
    }
    if (pid < 0) break;
    ++children;
  }
  printf("children %d\n", children);
}

static int by_name(const void* a, const void* b) { return strcmp(*(char* const*)a, *(char* const*)b); }

static void list(const char* path) {
  char* names[256];
  int count = 0;
  DIR* directory = opendir(path);
  struct dirent* entry;
  while (directory != NULL && count < 256 && (entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] != '.' || strncmp(entry->d_name, ".wh", 3) == 0) names[count++] = strdup(entry->d_name);
  }
  if (directory != NULL) closedir(directory);
  qsort(names, (size_t)count, sizeof *names, by_name);
  for (int i = 0; i < count; ++i) printf("%s/%s\n", path, names[i]);
}

static int serve(const char* body) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(getenv("PORT")))};
  int yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 16) != 0) {
    perror("listen");
    return 1;
  }
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    char request[4096];
    if (fd >= 0 && read(fd, request, sizeof request) > 0) {
      dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
    }
    close(fd);
  }
}

int main(int count, char** arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const char* what = count > 1 ? arguments[1] : "report";
  if (strcmp(what, "report") == 0) {
    report();
    for (int i = 0; i < count; ++i) printf("argument %s\n", arguments[i]);
  } else if (strcmp(what, "attempts") == 0) {
    attempts();
  } else if (strcmp(what, "connect") == 0) {
    for (int i = 2; i + 1 < count; i += 2) try_connect(arguments[i], atoi(arguments[i + 1]));
  } else if (strcmp(what, "list") == 0) {
    for (int i = 2; i < count; ++i) list(arguments[i]);
  } else if (strcmp(what, "groups") == 0) {
    gid_t groups[64];
    const int found = getgroups(64, groups);
    printf("groups");
    for (int i = 0; i < found; ++i) printf(" %d", (int)groups[i]);
    printf("\n");
  } else if (strcmp(what, "read") == 0) {
    for (int i = 2; i < count; ++i) {
      char text[256];
      const int fd = open(arguments[i], O_RDONLY);
      const ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
      text[size < 0 ? 0 : size] = '\0';
      struct stat status = {0};
      if (fd >= 0) fstat(fd, &status);
      if (size < 0) printf("%s errno %d\n", arguments[i], errno);
      else printf("%s \"%s\" mode %o own %d\n", arguments[i], text, status.st_mode & 07777, status.st_uid == getuid());
      if (open(arguments[i], O_WRONLY) >= 0) printf("%s can be written\n", arguments[i]);
    }
  } else if (strcmp(what, "exit") == 0) {
    if (count > 3) usleep((unsigned)atoi(arguments[3]) * 1000);
    fprintf(stderr, "leaving with %s\n", arguments[2]);
    return atoi(arguments[2]);
  } else if (strcmp(what, "signal") == 0) {
    raise(atoi(arguments[2]));
  } else if (strcmp(what, "eat") == 0) {
    eat();
  } else if (strcmp(what, "breed") == 0) {
    breed();
  } else if (strcmp(what, "lines") == 0) {
    for (int i = 0; i < atoi(arguments[2]); ++i) printf("line %d %0*d\n", i, atoi(arguments[3]), 0);
  } else if (strcmp(what, "polite") == 0 || strcmp(what, "stubborn") == 0) {
    signal(SIGTERM, what[0] == 'p' ? on_term : SIG_IGN);
    printf("ready\n");
    for (;;) pause();
  } else if (strcmp(what, "fill") == 0) {
    int fd = open("/tmp/large", O_WRONLY | O_CREAT, 0600);
    static char block[1 << 16];
    long total = 0;
    for (ssize_t size; (size = write(fd, block, sizeof block)) > 0;) total += size;
    printf("wrote %ld errno %d\n", total, errno);
  } else if (strcmp(what, "serve") == 0) {
    return serve(count > 2 ? arguments[2] : "probe\n");
  }
  return 0;
}
