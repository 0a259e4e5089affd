#!/usr/bin/env bash
# libmicrohttpd 0.9.75 (Debian 12: libmicrohttpd-dev 0.9.75-6): a client may shut down its sending side after a request
# and read the reply. With select() and poll() the reply to a suspended request of such a client is never sent: after
# MHD_resume_connection the library reads first, finds the end, and closes without it. With epoll it is sent here; beside
# other connections lossd's was lost there too. It hurts those who answer from other threads, and clients like `nc -N`.
# lossd keeps the end from the library until the request is answered (server/http/gate.c).
#
# Needs gcc and libmicrohttpd-dev of Debian 12. Prints the first line of each reply; exits with 0 if the
# surprise is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/half.c" <<'C'
#include <arpa/inet.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A request: suspended when it is whole, resumed by another thread, then answered. */
typedef struct job {
    struct MHD_Connection *of;
    int whole;
} job;

static void *work(void *of)
{
    job *j = of;
    usleep(300000);
    MHD_resume_connection(j->of);
    return NULL;
}

static enum MHD_Result answer(void *own, struct MHD_Connection *to, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **begun)
{
    (void)own, (void)url, (void)method, (void)version, (void)data;
    job *j = *begun;
    if (!j) {
        *begun = j = calloc(1, sizeof *j);
        j->of = to;
        return MHD_YES;
    }
    if (*size) {
        *size = 0;
        return MHD_YES;
    }
    if (!j->whole) {
        pthread_t thread;
        j->whole = 1;
        MHD_suspend_connection(to);
        pthread_create(&thread, NULL, work, j);
        pthread_detach(thread);
        return MHD_YES;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(2, "ok", MHD_RESPMEM_PERSISTENT);
    enum MHD_Result queued = MHD_queue_response(to, 200, r);
    MHD_destroy_response(r);
    return queued;
}

static void ended(void *own, struct MHD_Connection *to, void **begun,
                  enum MHD_RequestTerminationCode code)
{
    (void)own, (void)to, (void)code;
    free(*begun);
}

static const char *ask(unsigned port, int half)
{
    static char text[512];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    ssize_t got = -1;
    const char *r = "POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody";
    if (connect(s, (struct sockaddr *)&to, sizeof to) == 0 && write(s, r, strlen(r)) > 0) {
        if (half)
            shutdown(s, SHUT_WR);
        got = read(s, text, sizeof text - 1);
    }
    text[got > 0 ? got : 0] = '\0';
    text[strcspn(text, "\r")] = '\0';
    close(s);
    return got == 0 ? "closed without a reply" : text;
}

int main(void)
{
    static const struct {
        const char *name;
        unsigned flag;
    } ways[] = {{"epoll", MHD_USE_EPOLL}, {"poll", MHD_USE_POLL}, {"select", 0}};
    printf("libmicrohttpd %s\n", MHD_get_version());
    for (int i = 0; i < 3; i++) {
        struct MHD_Daemon *d = MHD_start_daemon(
            ways[i].flag | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL,
            NULL, answer, NULL, MHD_OPTION_NOTIFY_COMPLETED, ended, NULL, MHD_OPTION_END);
        if (!d)
            return 2;
        const unsigned port = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port;
        printf("%s, open: %s\n", ways[i].name, ask(port, 0));
        printf("%s, half closed: %s\n", ways[i].name, ask(port, 1));
        MHD_stop_daemon(d);
    }
    return 0;
}
C
gcc -O1 "$work/half.c" -lmicrohttpd -lpthread -o "$work/half"
timeout 20 "$work/half" | tee "$work/said"
for way in epoll poll select; do
    grep -q "^$way, open: HTTP/1.1 200" "$work/said"
done
grep -q '^poll, half closed: closed without a reply' "$work/said" &&
    grep -q '^select, half closed: closed without a reply' "$work/said"
