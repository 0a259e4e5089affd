/* SPDX-License-Identifier: MIT
 *
 * Message framing of HTTP/1.1 (RFC 9112): where the requests of a connection begin and end. What a
 * client sends passes through here before libmicrohttpd reads it, which therefore sees only what
 * both of them read in the same way: no folded lines, no control characters, one length, chunk
 * sizes without extensions, no trailers, and of headers that nobody reads no more than what shows
 * that they are none of the others. A pure function of the bytes, however they are cut.
 *
 * The rest of a request that is refused is dropped, and so is everything after it. In its place
 * libmicrohttpd gets the shortest text that makes the request complete, so that it asks for a reply
 * in the usual way, after those to earlier requests. What it would refuse by itself never reaches
 * it.
 */
#ifndef LOSSD_FRAMING_H
#define LOSSD_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits. What is passed of the head must leave room for that of the reply in libmicrohttpd's
 * memory of a connection (CONNECTION_MEMORY), in which each header takes 64 bytes besides its text.
 */
enum {
    FRAMING_LINE_MAX = 16 * 1024,     /* bytes of the request line */
    FRAMING_HEADERS_MAX = 128,        /* headers */
    FRAMING_HEADER_BYTES = 32 * 1024, /* bytes of all headers */
    FRAMING_KEPT_MAX = 16 * 1024,     /* bytes of that memory that headers take */
    FRAMING_EACH = 64,                /* of which each has so many besides its text */
    FRAMING_CHUNK_MAX = 4096,         /* bytes of chunk sizes, extensions and trailers: in excess of
                                         16 for each chunk and two for each byte of data */
    FRAMING_GAP = 24,                 /* more than the longest line "size CR LF" */
};

/* Begin with {0}. */
typedef struct framing {
    uint8_t state;
    uint8_t field;     /* the header that is being read, of those in head.h, or HEADERS */
    uint8_t at;        /* characters read of the version, a name or a value */
    bool spaced;       /* white space follows the value */
    bool trailer;      /* the header is one of the trailers */
    bool old;          /* HTTP/1.0 */
    uint8_t seen;      /* headers that were read and may come only once */
    uint8_t headers;   /* number of headers */
    uint32_t count;    /* bytes read that are limited in number */
    uint32_t kept;     /* of libmicrohttpd's memory, by headers */
    uint64_t left;     /* bytes of the body or chunk that are still to come */
    unsigned requests; /* requests begun */
    int status;        /* why the last of them is refused; 0: it is not */
    const char *code, *why;
    const char *rest; /* what makes the refused request complete */
} framing;

/* Read the next `size` bytes of a connection, and write at `to` what libmicrohttpd gets of them.
 * `to` may lie before `from` in the same memory: by framing_gap() bytes or more; it may be `from`
 * itself if that is 0. Returns the number of bytes written. */
size_t framing_pass(framing *f, const char *from, size_t size, char *to);

/* Is every request complete that has begun? */
bool framing_whole(const framing *f);

/* How many bytes of a body of known length are still to come; 0: not within one. So many may be
 * read without framing_pass, and are then reported by framing_read. */
uint64_t framing_left(const framing *f);
void framing_read(framing *f, size_t size);

/* How many bytes more than it reads framing_pass may write. */
size_t framing_gap(const framing *f);

/* After a refusal: write at most `size` bytes of what makes the request complete. Returns their
 * number; 0 at the end. */
size_t framing_finish(framing *f, char *to, size_t size);

#endif
