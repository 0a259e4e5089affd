/* SPDX-License-Identifier: MIT
 *
 * What a client sends after the 101, in records: a byte whose lowest two bits are the number of
 * descriptors, a byte that says which for each of them, the number of bytes, the bytes. Whatever it
 * is, every answer is a line of JSON, what was taken is given back when the connection ends, and so
 * is every descriptor.
 */
#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */
#include "fuzz.h"

#include "server/http/http.h"
#include "server/http/reply.h"
#include "server/region.h"
#include "server/tell/log.h"
#include "server/tell/metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { KINDS = 6, SIZE = 16 * 1024, MOST = 3 };

static uv_loop_t loop;
static http *server;
static char folder[] = "/tmp/region.XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static int descriptors[KINDS];

/* A server that hands every connection over, and keeps what it is given as lossd does. */

static bool begin(exchange *x)
{
    x->unwanted = true;
    return true;
}

static void run(exchange *x)
{
    x->reply.status = 101;
    x->reply.upgrade = "losskit-region/1";
}

static void pass_over(exchange *x)
{
    (void)x;
}

static void nothing_kept(void)
{
}

static bool handed(region_group *group, const char message[HTTP_MESSAGE], int fd, buffer *line)
{
    cursor c = cursor_new((span){message, HTTP_MESSAGE});
    const uint64_t size = cursor_u64(&c), reserved = cursor_u64(&c);
    problem p;
    const bool taken = region_receive(group, size, reserved, fd, line, &p);
    if (!taken)
        problem_write(&p, line);
    return taken;
}

static const handler keeper = {.begin = begin,
                               .refuse = pass_over,
                               .run = run,
                               .leave = pass_over,
                               .end = pass_over,
                               .rest = nothing_kept,
                               .handed = handed,
                               .gone = region_forget};

static void stop(void)
{
    http_stop(server);
    uv_run(&loop, UV_RUN_DEFAULT);
    rmdir(folder);
}

static int sealed(int seals)
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(fd >= 0 && ftruncate(fd, SIZE) == 0);
    REQUIRE(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

static void start(void)
{
    static flags f;
    static char listen[sizeof address.sun_path + 8];
    const char *const argv[] = {"lossd", "--listen", listen, NULL};
    char path[64];
    int words, pair[2];
    bool help;
    REQUIRE(mkdtemp(folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder);
    snprintf(listen, sizeof listen, "unix:%s", address.sun_path);
    log_set(false, LOG_ERROR);
    REQUIRE(flags_parse(&f, 3, (char **)(uintptr_t)argv, 1, &words, &help));
    REQUIRE(uv_loop_init(&loop) == 0 && pipe(pair) == 0);
    region_setup(64 * 1024);
    server = http_start(&loop, &f, &keeper, NULL);
    REQUIRE(server && atexit(stop) == 0);
    descriptors[0] = sealed(F_SEAL_SHRINK | F_SEAL_SEAL);
    descriptors[1] = sealed(0);
    descriptors[2] = sealed(F_SEAL_SHRINK | F_SEAL_SEAL | F_SEAL_WRITE);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptors[0]);
    descriptors[3] = open(path, O_RDONLY | O_CLOEXEC);
    descriptors[4] = pair[0];
    descriptors[5] = open("/", O_RDONLY | O_CLOEXEC);
}

/* The client. */

static bool send_record(int fd, const uint8_t **data, const uint8_t *end)
{
    int attached[MOST];
    union {
        char room[CMSG_SPACE(sizeof attached)];
        struct cmsghdr align;
    } control = {{0}};
    const int count = *(*data)++ % (MOST + 1);
    for (int i = 0; i < count; i++)
        attached[i] = descriptors[*data < end ? *(*data)++ % KINDS : 0];
    size_t size = *data < end ? *(*data)++ % 40 : 0;
    size = size < (size_t)(end - *data) ? size : (size_t)(end - *data);
    struct iovec bytes = {(void *)(uintptr_t)*data, size};
    struct msghdr all = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (count > 0) {
        all.msg_control = control.room;
        all.msg_controllen = CMSG_SPACE((size_t)count * sizeof *attached);
        struct cmsghdr *c = CMSG_FIRSTHDR(&all);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)count * sizeof *attached);
        memcpy(CMSG_DATA(c), attached, (size_t)count * sizeof *attached);
    }
    *data += size;
    return size == 0 || sendmsg(fd, &all, MSG_NOSIGNAL) == (ssize_t)size;
}

/* What the server says until `end`, or until it closes the connection (NULL). */
static char *hear(int fd, const char *end)
{
    static char heard[256 * 1024];
    size_t size = 0;
    while (true) {
        uv_run(&loop, UV_RUN_NOWAIT);
        const ssize_t got = recv(fd, heard + size, sizeof heard - 1 - size, MSG_DONTWAIT);
        if (got == 0)
            break;
        size += got > 0 ? (size_t)got : 0;
        heard[size] = '\0';
        if (end && strstr(heard, end))
            break;
    }
    heard[size] = '\0';
    return heard;
}

static int open_descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

static void check_answers(const char *text)
{
    while (*text != '\0') {
        const size_t size = strcspn(text, "\n");
        json_t *line = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
        REQUIRE(text[size] == '\n' && json_is_object(line));
        REQUIRE(json_object_get(line, "region") || json_object_get(line, "code"));
        json_decref(line);
        text += size + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char request[] = "GET /v1/regions HTTP/1.1\r\nHost: localhost\r\n"
                                  "Connection: Upgrade\r\nUpgrade: losskit-region/1\r\n\r\n";
    const uint8_t *const end = data + size;
    if (!server)
        start();
    const int before = open_descriptors(), fd = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1);
    REQUIRE(strncmp(hear(fd, "\r\n\r\n"), "HTTP/1.1 101", 12) == 0);
    while (data < end && send_record(fd, &data, end))
        uv_run(&loop, UV_RUN_NOWAIT);
    shutdown(fd, SHUT_WR);
    check_answers(hear(fd, NULL));
    close(fd);
    while (metric.connections > 0 || metric.regions[0] > 0)
        uv_run(&loop, UV_RUN_NOWAIT);
    REQUIRE(metric.region_bytes[0] == 0 && open_descriptors() == before);
    return 0;
}
