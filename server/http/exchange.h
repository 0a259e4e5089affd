/* SPDX-License-Identifier: MIT
 *
 * An exchange, one request and its reply, as the layers above see it; and what they do with it.
 */
#ifndef LOSSD_EXCHANGE_H
#define LOSSD_EXCHANGE_H

#include "buffer.h"
#include "cursor.h"
#include "http/access.h"
#include "http/head.h"
#include "http/pages.h"

struct MHD_Connection;
struct http;
struct listener;
struct peer;

enum {
    HTTP_ID_MAX = 128,
    HTTP_PIECES = 64,
};

/* What will be sent. The pieces must live until the handler's `end`. */
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
    struct http *server;
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
    size_t body_max;  /* set by `begin`: a longer body is refused */
    size_t discarded; /* of a body that nobody wants */
    bool unwanted;    /* set by `begin`: a body is dropped */
    bool refused;     /* the reply is ready, what comes of the body is dropped */
    bool close;       /* close the connection after the reply */

    const void *route; /* both are the handler's own */
    void *request;
    reply reply;
} exchange;

/* Whoever answers. All of it is called on the loop thread. */
typedef struct handler {
    /* From the head of a request: decide whether the body is wanted, how much of it, and whether
     * there is room. On false the reply is filled in. */
    bool (*begin)(exchange *x);

    /* More of a body of unknown length will be stored: is there room for `more` bytes? On false the
     * reply is filled in. */
    bool (*grow)(exchange *x, size_t more);

    /* The reply is filled in before the body is there: give up what was reserved for it. */
    void (*refuse)(exchange *x);

    /* The body is there. Either fills in the reply or suspends the exchange. */
    void (*run)(exchange *x);

    /* The client of a suspended exchange has left: what has not begun need not be done. */
    void (*leave)(exchange *x);

    /* The reply was sent, or the client is gone. Frees x->request. */
    void (*end)(exchange *x);
} handler;

/* A header of the request, NULL if it is not there. */
const char *http_header(const exchange *x, const char *name);

/* How often it is there. */
int http_header_times(const exchange *x, const char *name);

/* Did the request come over a loopback address or a Unix socket? */
bool http_is_local(const exchange *x);

/* Who sent it: address:port, or "unix". */
const char *http_client(const exchange *x);

/* Let go of an exchange until http_resume; only from the handler's `run`. */
void http_suspend(exchange *x);

/* The reply is ready. */
void http_resume(exchange *x);

/* Give it its id: the client's, if it is fit to be repeated, or (NULL too) one made up. */
void exchange_identify(exchange *x, const char *given);

#endif
