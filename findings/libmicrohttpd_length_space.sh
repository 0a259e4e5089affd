#!/usr/bin/env bash
# libmicrohttpd 0.9.75 (Debian 12: libmicrohttpd-dev 0.9.75-6): RFC 9110, section 5.5, lets white space follow the value
# of a header and says that it is no part of it. `Content-Length: 4` with a space or a tab behind it is answered 400
# "wrong value for Content-Length", and the connection is closed; other headers are read without it. It hurts those
# whose clients or gateways pad headers: the same request passes other servers. Here the framing that comes before the
# library (server/http/framing.c) takes such white space off.
#
# Needs gcc and libmicrohttpd-dev of Debian 12. Prints the first line of each reply; exits with 0 if the
# surprise is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/padded.c" <<'C'
#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static enum MHD_Result answer(void *own, struct MHD_Connection *to, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **begun)
{
    static int mark;
    (void)own, (void)url, (void)method, (void)version, (void)data;
    if (!*begun) {
        *begun = &mark;
        return MHD_YES;
    }
    if (*size) {
        *size = 0;
        return MHD_YES;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(2, "ok", MHD_RESPMEM_PERSISTENT);
    enum MHD_Result queued = MHD_queue_response(to, 200, r);
    MHD_destroy_response(r);
    return queued;
}

static void ask(unsigned port, const char *what, const char *header)
{
    char text[512];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    snprintf(text, sizeof text, "POST / HTTP/1.1\r\nHost: here\r\n%s\r\nConnection: close\r\n\r\nbody",
             header);
    ssize_t got = -1;
    if (connect(s, (struct sockaddr *)&to, sizeof to) == 0 && write(s, text, strlen(text)) > 0)
        got = read(s, text, sizeof text - 1);
    text[got > 0 ? got : 0] = '\0';
    text[strcspn(text, "\r")] = '\0';
    printf("%s: %s\n", what, text);
    close(s);
}

int main(void)
{
    struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, answer,
                                            NULL, MHD_OPTION_END);
    if (!d)
        return 2;
    const unsigned port = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port;
    printf("libmicrohttpd %s\n", MHD_get_version());
    ask(port, "plain", "Content-Length: 4");
    ask(port, "another header, a space", "X-Other: 4 \r\nContent-Length: 4");
    ask(port, "a space", "Content-Length: 4 ");
    ask(port, "a tab", "Content-Length: 4\t");
    MHD_stop_daemon(d);
    return 0;
}
C
gcc -O1 "$work/padded.c" -lmicrohttpd -o "$work/padded"
timeout 20 "$work/padded" | tee "$work/said"
grep -q '^plain: HTTP/1.1 200' "$work/said" && grep -q '^another header, a space: HTTP/1.1 200' "$work/said" &&
    grep -q '^a space: HTTP/1.1 400' "$work/said" && grep -q '^a tab: HTTP/1.1 400' "$work/said"
