/* SPDX-License-Identifier: MIT
 *
 * Sends one request again and again over several connections and says how long the replies took.
 *
 *     client ADDRESS FILE CONNECTIONS SECONDS [RATE [CURVE]]
 *
 * ADDRESS is unix:/path or a port of 127.0.0.1; FILE holds the request as it goes over the wire.
 * Without RATE each connection sends the next request when it has its reply (closed loop). With it
 * requests are due at fixed times, RATE a second, and time counts from when a request was due, so
 * that waiting for a free connection counts too (open loop). Prints four numbers: requests a
 * second, p50, p99 and longest in ms; then of refusals (503 with Retry-After) how many a second,
 * p99 and longest in ms from the last byte of the request; then how many replies differed from the
 * first (of those up to 64 KiB). A second line holds CURVE quantiles in ms, of 1 - 10^(-k/20) for
 * k = 0, 1, ..., as far as there are enough replies; the last one is the longest.
 */
#define _GNU_SOURCE /* memmem */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/slice.h"
#include "timing.h"

enum { CONNECTIONS = 1024, SAMPLES = 1 << 22, HEAD = 4096, COMPARED = 64 * 1024 };

typedef struct connection {
    int fd;
    bool busy;
    size_t sent, head, left; /* of the reply: bytes of the head so far, of the body to come */
    bool in_body, refused, compared;
    double due, whole; /* when it was to be sent, and when all of it was */
    uint64_t hash;     /* of the body of its reply, */
    uint64_t word;     /* and what of it is yet to come to that, */
    size_t filled;     /* of so many bytes */
    char text[HEAD + 1];
} connection;

typedef struct times {
    float *each;
    size_t count;
} times;

static connection all[CONNECTIONS];
static char *request;
static size_t request_size;
static times answered, refused;
static uint64_t expected; /* the hash of the first reply */
static size_t different;

static void die(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(const char *address)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const bool named = strncmp(address, "unix:", 5) == 0;
    int fd = socket(named ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    tcp.sin_port = htons((uint16_t)atoi(address));
    snprintf(local.sun_path, sizeof local.sun_path, "%s", address + (named ? 5 : 0));
    if (fd < 0 || (named ? connect(fd, (struct sockaddr *)&local, sizeof local)
                         : connect(fd, (struct sockaddr *)&tcp, sizeof tcp)) != 0)
        die(address);
    return fd;
}

static void start(connection *c, double due)
{
    c->busy = true;
    c->due = due;
    c->sent = c->head = c->left = 0;
    c->in_body = false;
}

static void note(times *to, double seconds)
{
    if (to->count < SAMPLES)
        to->each[to->count] = (float)seconds;
    to->count++;
}

static void add_word(connection *c)
{
    c->hash = (c->hash ^ c->word) * 0x100000001b3U;
}

/* FNV-1a, of words of eight bytes so that it takes little time, however the body is cut. */
static void add_to_hash(connection *c, const char *data, size_t size)
{
    while (c->compared && size > 0) {
        const size_t room = sizeof c->word - c->filled, n = size < room ? size : room;
        memcpy((char *)&c->word + c->filled, data, n);
        c->filled = (c->filled + n) % sizeof c->word;
        if (c->filled == 0)
            add_word(c);
        data += n;
        size -= n;
    }
}

/* The reply is complete. */
static void done(connection *c)
{
    c->busy = false;
    if (c->refused) {
        note(&refused, now() - c->whole);
        return;
    }
    note(&answered, now() - c->due);
    if (!c->compared)
        return;
    add_word(c);
    if (expected == 0)
        expected = c->hash;
    different += c->hash != expected;
}

static void read_reply(connection *c)
{
    static char sink[1 << 18];
    ssize_t n = c->in_body ? recv(c->fd, sink, sizeof sink, MSG_DONTWAIT)
                           : recv(c->fd, c->text + c->head, HEAD - c->head, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("the connection was closed");
    if (!c->in_body) {
        c->head += (size_t)n;
        c->text[c->head] = '\0';
        const char *end = strstr(c->text, "\r\n\r\n"),
                   *length = strcasestr(c->text, "\ncontent-length:");
        if (!end)
            return;
        c->refused = strncmp(c->text, "HTTP/1.1 503", 12) == 0 &&
                     strcasestr(c->text, "\nretry-after:") &&
                     !strcasestr(c->text, "\nconnection: close");
        if ((strncmp(c->text, "HTTP/1.1 200", 12) != 0 && !c->refused) || !length) {
            fprintf(stderr, "client: %s\n", c->text);
            exit(1);
        }
        c->in_body = true;
        c->left = strtoull(length + 16, NULL, 10);
        c->compared = !c->refused && c->left <= COMPARED;
        c->hash = 0xcbf29ce484222325U;
        c->word = c->filled = 0;
        n = c->text + c->head - (end + 4);
        add_to_hash(c, end + 4, (size_t)n);
    } else {
        add_to_hash(c, sink, (size_t)n);
    }
    c->left -= (size_t)n;
    if (c->left == 0)
        done(c);
}

static void write_request(connection *c)
{
    ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        die("send");
    c->sent += n > 0 ? (size_t)n : 0;
    if (c->sent == request_size)
        c->whole = now();
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A quantile in ms: the share `of` of the times does not exceed it. */
static double percentile(times *t, double of)
{
    const size_t kept = t->count < SAMPLES ? t->count : SAMPLES;
    qsort(t->each, kept, sizeof *t->each, by_value);
    return kept == 0 ? 0 : (double)t->each[(size_t)((double)(kept - 1) * of)] * 1e3;
}

/* Quantiles that come ever closer to the longest: twenty for each nine. */
static void print_curve(int points)
{
    double rest = 1;
    for (int k = 0; k < points && rest * (double)answered.count >= 1;
         k++, rest *= 0.8912509381337456)
        printf("%.4f ", percentile(&answered, 1 - rest));
    printf("%.4f\n", percentile(&answered, 1));
}

int main(int argc, char **argv)
{
    static struct pollfd polls[CONNECTIONS]; /* of connections that wait for something, */
    static connection *polled[CONNECTIONS];  /* which are these */
    if (argc < 5)
        return 2;
    const int connections = atoi(argv[3]);
    const double seconds = atof(argv[4]), rate = argc > 5 ? atof(argv[5]) : 0;
    FILE *from = fopen(argv[2], "rb");
    if (!from || connections < 1 || connections > CONNECTIONS)
        die(argv[2]);
    fseek(from, 0, SEEK_END);
    request_size = (size_t)ftell(from);
    rewind(from);
    request = malloc(request_size);
    answered.each = malloc(SAMPLES * sizeof *answered.each);
    refused.each = malloc(SAMPLES * sizeof *refused.each);
    if (!request || !answered.each || !refused.each ||
        fread(request, 1, request_size, from) != request_size)
        die(argv[2]);
    for (int i = 0; i < connections; i++)
        all[i].fd = dial(argv[1]);

    slice_set(100000); /* what it waits for is a reply, not the processor that the server has */
    const double begin = now();
    double next = begin;
    for (double t = begin; t < begin + seconds; t = now()) {
        bool idle = false; /* is there a connection for what is due next? */
        nfds_t busy = 0;
        for (int i = 0; i < connections; i++) {
            connection *c = &all[i];
            if (!c->busy && (rate == 0 || next <= t)) {
                start(c, rate == 0 ? t : next);
                next += rate == 0 ? 0 : 1 / rate;
            }
            if (c->busy && c->sent < request_size)
                write_request(c);
            if (c->busy) {
                const short wanted = c->sent < request_size ? POLLIN | POLLOUT : POLLIN;
                polled[busy] = c;
                polls[busy++] = (struct pollfd){.fd = c->fd, .events = wanted};
            }
            idle = idle || !c->busy;
        }
        /* Sleep until something arrives or is due, so as not to take CPU time from the server. */
        const double wait = rate == 0 || !idle ? 0.001 : next - now();
        const struct timespec until = {.tv_nsec = wait <= 0      ? 0
                                                  : wait > 0.001 ? 1000000
                                                                 : (long)(wait * 1e9)};
        ppoll(polls, busy, &until, NULL);
        for (nfds_t i = 0; i < busy; i++)
            if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
                read_reply(polled[i]);
    }
    const double took = now() - begin;
    if (answered.count == 0)
        return 1;
    printf("%.1f %.3f %.3f %.3f ", (double)answered.count / took, percentile(&answered, 0.5),
           percentile(&answered, 0.99), percentile(&answered, 1));
    printf("%.1f %.3f %.3f %zu\n", (double)refused.count / took, percentile(&refused, 0.99),
           percentile(&refused, 1), different);
    if (argc > 6)
        print_curve(atoi(argv[6]));
    return 0;
}
