/* SPDX-License-Identifier: MIT
 *
 * An exchange, which is one request and its reply, as the layers above see it, and the functions
 * that they call on it.
 */
#ifndef LOSSD_EXCHANGE_H
#define LOSSD_EXCHANGE_H

#include "buffer.h"
#include "cursor.h"
#include "http/access.h"
#include "http/head.h"
#include "http/pages.h"
#include "http/peer.h"

struct MHD_Connection;
struct region_group;
struct http;
struct listener;
struct peer;
typedef struct stream stream;

enum {
    HTTP_ID_MAX = 128,
    HTTP_LIST = FRAMING_KEPT_MAX, /* no more passes through framing, commas included */
    HTTP_PIECES = 115,
    HTTP_MESSAGE = 16, /* bytes of a message after a 101 */
};

/* A reply. The pieces, and their places in memory, must stay valid until the handler's `end`. */
typedef struct reply {
    int status;       /* 0: no reply yet */
    const char *code; /* of a problem; NULL for none */
    const char *media;
    const char *encoding; /* Content-Encoding; NULL for none */
    uint64_t head;        /* Inference-Header-Content-Length; 0 for none */
    const char *allow;    /* with 405, and to OPTIONS */
    const char *upgrade;  /* with 101 and 426: the protocol */
    const char *location; /* with 302 */
    bool preflight;       /* to OPTIONS, asked by a browser */
    bool retry;           /* with 503 */
    bool authenticate;    /* with 401 */
    char timing[192];     /* Server-Timing; "" for none */
    buffer text;          /* owned; a piece may point at it */
    int pieces;
    const span *piece;
    span whole;  /* the only piece, unless others are pointed at */
    size_t size; /* of all, once it is sent */
} reply;

typedef struct exchange exchange;
struct exchange {
    struct http *server;
    struct listener *listener;
    struct peer *peer;
    struct MHD_Connection *connection; /* NULL until the head is complete */
    unsigned number;                   /* of the request on its connection, from 1 */
    uint64_t start;                    /* uv_hrtime() at the request line */
    const char *method;
    bool old;                    /* HTTP/1.0 */
    const char *header[HEADERS]; /* the first of each, or NULL */
    uint8_t times[HEADERS];      /* how many there are of each; a head has at most 128 lines */
    char *line;                  /* path and query as received; target is made of it */
    target target;               /* no segments until it is split */
    char id[HTTP_ID_MAX + 1];    /* X-Request-Id */
    char key[ACCESS_NAME];       /* name of the client's API key; "" for none */
    uint64_t key_id;             /* stands for that key; 0: none is asked for */
    bool shared;                 /* the reply may be shared with the web page that asked (CORS) */

    int64_t length; /* announced length of the body; 0: none, -1: chunked */
    pages room;     /* memory of the body */
    char *body;
    size_t body_size, body_capacity;
    bool placed;      /* the rest of it is read to its place (gate_place) */
    size_t body_max;  /* set by `begin`: a longer body is refused */
    size_t discarded; /* bytes of the body that were dropped */
    uint64_t passed;  /* bytes of the body that `take` has taken */
    bool unwanted;    /* set by `begin`: a body is not wanted and dropped */
    bool refused;     /* the reply is ready; the rest of the body is dropped */
    bool upgraded;    /* a 101 was sent: it is over */
    bool close;       /* close the connection after the reply */

    stream *stream; /* opened by `begin`: the reply is written while the body comes (stream.h) */

    /* Set where this is but a part of another exchange, which has the connection: called when it is
     * resumed. */
    void (*answered)(exchange *x);

    const void *route; /* private to the handler, like the next three */
    void *request, *lines;
    size_t reserved;
    reply reply;
};

/* What answers requests. All functions are called on the loop thread. */
typedef struct handler {
    /* The head is complete: decide whether the body is wanted, how large it may be, and whether
     * there is memory for it. False: refused, and the reply is filled in. */
    bool (*begin)(exchange *x);

    /* A body of unknown length grows by `more` bytes: is there memory for them? False: refused, and
     * the reply is filled in. */
    bool (*grow)(exchange *x, size_t more);

    /* The request was refused before its body was complete: release what was reserved for it. */
    void (*refuse)(exchange *x);

    /* The body is complete. Either fills in the reply or suspends the exchange. If the reply is
     * streamed: the body has ended, whole or, if the reply is filled in with a problem, not. */
    void (*run)(exchange *x);

    /* If the reply is streamed: some of the body has come. Returns how many bytes were taken; if
     * not all of them, the exchange is held. */
    size_t (*take)(exchange *x, const char *data, size_t size);

    /* There is room again in a streamed reply. */
    void (*room)(exchange *x);

    /* The client of a suspended exchange has disconnected: cancel work that has not begun. */
    void (*leave)(exchange *x);

    /* The reply was sent, or the client is gone. Frees x->request. */
    void (*end)(exchange *x);

    /* Nothing has been asked for a while, or the server stops: free what is kept for later. */
    void (*rest)(void);

    /* After a 101: a message came, with a descriptor, which this function takes. On a worker
     * thread, one message of a connection at a time. Writes the line of the answer. False: the
     * message was refused; the connection stays. */
    bool (*handed)(struct region_group *group, const char message[HTTP_MESSAGE], int fd,
                   buffer *line);

    /* That connection has ended. */
    void (*gone)(struct region_group *group);
} handler;

/* The value of a header of the request, or NULL. */
const char *http_header(const exchange *x, header_id which);

/* How many times the header occurs. */
int http_header_times(const exchange *x, header_id which);

/* The value of a header that is a list, or NULL. If the header occurs several times, they are
 * joined by commas in `room`. */
const char *http_header_joined(const exchange *x, header_id which, char room[HTTP_LIST]);

/* Is the word in the header, which is a list and may occur several times? */
bool http_header_lists(const exchange *x, header_id which, const char *word);

/* Did the request come over a loopback address or a Unix socket? */
bool http_is_local(const exchange *x);

/* The number of the address that it came to, and whether that is a Unix socket. */
int http_listener(const exchange *x);
bool http_is_unix(const exchange *x);

/* The client's address: address:port, or "unix". */
const char *http_client(const exchange *x);

/* Suspend an exchange until http_resume; only from the handler's `run`. */
void http_suspend(exchange *x);

/* The reply is ready: resume the exchange and send it. */
void http_resume(exchange *x);

/* Work for a part of an exchange that has ended goes on: until the second is called, the server
 * does not stop. */
void http_pin(struct http *server);
void http_unpin(struct http *server);

/* The loop that the exchange belongs to. */
struct uv_loop_s *http_loop(const exchange *x);

/* uv_hrtime() when the present iteration of the loop began: what a handler's `run` does is the
 * longer for other clients the later it is. */
uint64_t http_turn(const exchange *x);

/* Set the exchange's id: the client's, if it is safe to repeat in headers and logs; otherwise, or
 * for NULL, a generated one. */
void exchange_identify(exchange *x, const char *given);

/* The exchange is over, for all but libmicrohttpd; its connection enters that phase. */
void exchange_finish(exchange *x, phase next);

#endif
