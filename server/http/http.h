/* SPDX-License-Identifier: MIT
 *
 * HTTP: libmicrohttpd driven by the libuv loop. Everything here runs on the loop thread. The layers
 * above see an exchange, which is one request and its reply.
 */
#ifndef LOSSD_HTTP_H
#define LOSSD_HTTP_H

#include "buffer.h"
#include "cursor.h"
#include "flags.h"
#include "http/access.h"
#include "http/head.h"
#include "http/pages.h"
#include "tell/problem.h"

#include <uv.h>

typedef struct http http;
struct MHD_Connection;
struct listener;
struct peer;
struct route;

enum {
    HTTP_ID_MAX = 128,
    HTTP_PIECES = 64,
};

/* What will be sent. The pieces must live until route_end. */
typedef struct reply {
    int status;       /* 0: there is none yet */
    const char *code; /* of a problem; NULL for none */
    const char *media;
    const char *encoding; /* Content-Encoding; NULL for none */
    uint64_t head;        /* Inference-Header-Content-Length; 0 for none */
    const char *allow;    /* with 405, and to OPTIONS */
    bool preflight;       /* to OPTIONS, asked by a browser */
    bool retry;           /* with 503 */
    bool authenticate;    /* with 401 */
    char timing[192];     /* Server-Timing; "" for none */
    buffer text;          /* owned; a piece may point at it */
    int pieces;
    span piece[HTTP_PIECES];
    size_t size; /* of all, once it is sent */
} reply;

typedef struct exchange {
    http *server;
    struct listener *listener;
    struct peer *peer;
    struct MHD_Connection *connection; /* NULL until the head is there */
    uint64_t start;                    /* uv_hrtime() at the request line */
    const char *method;
    char *line;               /* path and query as received; target is made of it */
    target target;            /* no segments until it is split */
    char id[HTTP_ID_MAX + 1]; /* X-Request-Id */
    char key[ACCESS_NAME];    /* what the key that was shown is called; "" for nothing */
    bool shared;              /* the web page that asks may see the reply */

    int64_t length; /* of the body as announced; 0: none, -1: chunked */
    pages room;     /* what the body lies in */
    char *body;
    size_t body_size, body_capacity;
    size_t body_max;  /* set by route_begin: a longer body is refused */
    size_t discarded; /* of a body that nobody wants */
    bool unwanted;    /* set by route_begin: a body is dropped */
    bool refused;     /* the reply is ready, what comes of the body is dropped */
    bool close;       /* close the connection after the reply */

    const struct route *route; /* NULL until route_begin found one */
    void *request;             /* the route's own */
    reply reply;
} exchange;

/* Listen on all addresses. NULL with a line on stderr if that fails. */
http *http_start(uv_loop_t *loop, const flags *f);

/* Stop accepting; connections close after their current reply. */
void http_quiesce(http *server);

/* Exchanges whose reply is not yet sent. */
int http_exchanges(const http *server);

/* Close everything and free. Suspended exchanges must be resumed before. */
void http_stop(http *server);

/* The first address as a URL, for the log. Valid as long as the server. */
const char *http_url(const http *server, int i);

/* A header of the request, NULL if it is not there. */
const char *http_header(const exchange *x, const char *name);

/* How often it is there. */
int http_header_times(const exchange *x, const char *name);

/* Did the request come over a loopback address or a Unix socket? */
bool http_is_local(const exchange *x);

/* Who sent it: address:port, or "unix". */
const char *http_client(const exchange *x);

/* Let go of an exchange until http_resume; only from route_run. */
void http_suspend(exchange *x);

/* The reply is ready. */
void http_resume(exchange *x);

/* Fill in the reply: a problem; text that lives on, until the last exchange has ended; or text that
 * `text` holds and that is taken over. A text that failed becomes 503. */
void http_reply_problem(exchange *x, const problem *p);
void http_reply_kept(exchange *x, int status, const char *media, span text);
void http_reply_text(exchange *x, int status, const char *media, buffer *text);

#endif
