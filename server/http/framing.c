/* SPDX-License-Identifier: MIT */
#include "http/framing.h"

#include "block.h"
#include "http/head.h"

#include <stdio.h>
#include <string.h>

/* What comes next. */
enum {
    START, /* the request line, or an empty line before it, which is dropped */
    START_LF,
    METHOD, /* the request line */
    TARGET,
    VERSION,
    LINE_LF,
    LINE, /* a header or trailer, or the empty line behind them */
    NAME,
    VALUE,
    VALUE_LF,
    HEAD_LF,    /* the end of the empty line */
    BODY,       /* of announced length */
    SIZE,       /* of a chunk */
    SIZE_SPACE, /* white space and an extension */
    EXTENSION,
    SIZE_LF,
    DATA, /* of a chunk, and its end */
    DATA_CR,
    DATA_LF,
    REFUSED,
};

/* The headers that are checked here, and may come only once, as bits of `seen`. */
enum { HAS_HOST = 1, HAS_LENGTH = 2, HAS_CODING = 4 };

static const char version[] = "HTTP/1.1\r\n\r\n", coding[] = "chunked", last_chunk[] = "0\r\n\r\n";

/* What makes a request complete whose next byte is refused. */
static const char *rest_of(const framing *f)
{
    if (f->trailer)
        return last_chunk;
    switch (f->state) {
    case METHOD:
        return "- / HTTP/1.1\r\n\r\n"; /* never the name of a method */
    case TARGET:
        return f->at ? " HTTP/1.1\r\n\r\n" : "/ HTTP/1.1\r\n\r\n";
    case VERSION:
        return version + f->at;
    case LINE:
        return "\r\n";
    case NAME:
        return "-:\r\n\r\n"; /* never the name of a header that has a meaning */
    case VALUE:
        return f->field == HEADER_CONTENT_LENGTH && f->at == 0 ? "0\r\n\r\n" : "\r\n\r\n";
    case LINE_LF:
    case VALUE_LF:
        return "\n\r\n";
    case HEAD_LF:
        return "\n";
    case DATA_CR:
        return "\r\n0\r\n\r\n";
    case DATA_LF:
        return "\n0\r\n\r\n";
    default: /* of a chunk size nothing is passed on before its line is complete */
        return last_chunk;
    }
}

/* A request begins, or one has ended. */
static void enter(framing *f, int state)
{
    *f = (framing){.state = (uint8_t)state, .requests = f->requests + (state == METHOD)};
}

static void refuse(framing *f, int status, const char *code, const char *why)
{
    f->rest = rest_of(f);
    f->state = REFUSED;
    f->status = status;
    f->code = code;
    f->why = why;
}

static void malformed(framing *f, const char *why)
{
    refuse(f, 400, "malformed_request", why);
}

/* A character of a header's value or of a chunk extension. */
static bool is_text(char c)
{
    return ((unsigned char)c >= 0x20 && c != 0x7f) || c == '\t';
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static int hex_digit(char c)
{
    const char letter = head_lower(c);
    return c >= '0' && c <= '9' ? c - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* The name of a header is complete: which one is it, and may it come? */
static void identify(framing *f)
{
    static const struct {
        uint8_t field, bit;
        const char *twice;
    } once[] = {
        {HEADER_HOST, HAS_HOST, "HTTP/1.1 needs exactly one Host"},
        {HEADER_CONTENT_LENGTH, HAS_LENGTH, "Content-Length comes more than once"},
        {HEADER_TRANSFER_ENCODING, HAS_CODING, "Transfer-Encoding comes more than once"},
    };
    const int both = HAS_LENGTH | HAS_CODING;
    if (f->field < HEADERS && head_names[f->field][f->at] != '\0')
        f->field = HEADERS; /* it is no more than the beginning of one */
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
        if (f->field != once[i].field)
            continue;
        if (f->seen & once[i].bit)
            malformed(f, once[i].twice);
        f->seen |= once[i].bit;
    }
    if (f->state != REFUSED && (f->seen & both) == both)
        malformed(f, "Content-Length and Transfer-Encoding exclude each other");
    if (f->state != REFUSED && f->field == HEADER_TRANSFER_ENCODING && f->old)
        malformed(f, "Transfer-Encoding needs HTTP/1.1");
}

static bool is_checked(const framing *f)
{
    return f->field == HEADER_HOST || f->field == HEADER_CONTENT_LENGTH ||
           f->field == HEADER_TRANSFER_ENCODING;
}

/* The next character, but no white space, of a value that is checked here. */
static void check_value(framing *f, char c)
{
    if (f->field == HEADER_CONTENT_LENGTH) {
        if (f->spaced || c < '0' || c > '9' || f->at == 18)
            malformed(f, "Content-Length must be at most 18 digits");
        f->left = f->left * 10 + (uint64_t)(c - '0');
    } else if (f->field == HEADER_TRANSFER_ENCODING) {
        if (f->spaced || head_lower(c) != coding[f->at])
            malformed(f, "Transfer-Encoding must be chunked");
    } else if (f->spaced || !head_is_host(c)) {
        malformed(f, "Host must be a name or an address, and perhaps a port");
    }
    if (f->at < UINT8_MAX)
        f->at++;
}

/* A value is complete. */
static void end_value(framing *f)
{
    if (f->field == HEADER_CONTENT_LENGTH && f->at == 0)
        malformed(f, "Content-Length must be at most 18 digits");
    else if (f->field == HEADER_TRANSFER_ENCODING && coding[f->at] != '\0')
        malformed(f, "Transfer-Encoding must be chunked");
    else
        f->state = VALUE_LF;
}

/* The head has ended, with or without a body behind it; or the trailers have. */
static void end_head(framing *f)
{
    f->count = f->at = 0;
    if (f->trailer)
        enter(f, START);
    else if (!f->old && !(f->seen & HAS_HOST))
        malformed(f, "HTTP/1.1 needs exactly one Host");
    else if (f->seen & HAS_CODING)
        f->state = SIZE;
    else if (f->left > 0)
        f->state = BODY;
    else
        enter(f, START);
}

/* One character of the request line. */
static void read_line(framing *f, char c)
{
    const bool separates = c == ' ' && f->at > 0;
    switch (f->state) {
    case METHOD:
        if (!separates && !head_is_tchar(c))
            malformed(f, "a request begins with a method, which is a token");
        break;
    case TARGET:
        if (!separates && ((unsigned char)c <= ' ' || c == 0x7f))
            malformed(f, "a request line is METHOD TARGET HTTP/1.1, with one space between them");
        break;
    }
    if (f->state == REFUSED)
        return;
    f->at = !separates;
    if (separates)
        f->state = f->state == METHOD ? TARGET : VERSION;
}

/* One character of the version at the end of the request line. */
static void read_version(framing *f, char c)
{
    const bool digit = c >= '0' && c <= '9';
    if (f->at == sizeof "HTTP/1.1" - 1 && c == '\r')
        f->state = LINE_LF;
    else if (f->at == strlen("HTTP/") && digit && c != '1')
        refuse(f, 505, "version_not_supported", "the version of HTTP must be 1.0 or 1.1");
    else if (f->at == strlen("HTTP/1.") ? !digit : c != version[f->at])
        malformed(f, "a request line ends with HTTP/1.1, then CR LF");
    else
        f->old = f->at++ == strlen("HTTP/1.") && c == '0';
}

/* Is it the next character of the name of a header that is read? */
static bool goes_on(framing *f, char c)
{
    const int is = f->field < HEADERS ? head_next(f->field, f->at, head_lower(c)) : HEADERS;
    if (is == HEADERS)
        return false;
    f->field = (uint8_t)is;
    f->at++;
    return true;
}

/* The first character of a header or trailer, or of the empty line behind them. */
static void begin_header(framing *f, char c)
{
    if (c == '\r') {
        f->state = HEAD_LF;
    } else if (is_space(c)) {
        malformed(f, "a header line is folded");
    } else if (!head_is_tchar(c)) {
        malformed(f, "a header name is not a token");
    } else if (f->headers == FRAMING_HEADERS_MAX) {
        refuse(f, 431, "head_too_large",
               f->trailer ? "the body has more than 128 trailers"
                          : "the request has more than 128 headers");
    } else {
        f->state = NAME;
        f->headers++;
        f->kept += FRAMING_EACH;
        f->field = f->trailer ? HEADERS : 0; /* trailers have no meaning */
        f->at = 0;
        if (!goes_on(f, c))
            f->field = HEADERS;
    }
}

/* The character behind a name, or the first that no header that is read has there. */
static void end_name(framing *f, char c)
{
    if (f->field < HEADERS && head_is_tchar(c)) {
        f->field = HEADERS;
        return;
    }
    if (c != ':')
        malformed(f, "a header name is not a token");
    else
        identify(f);
    if (f->state == REFUSED)
        return;
    f->state = VALUE;
    f->at = 0;
    f->spaced = false;
}

/* One character of a value. True: libmicrohttpd gets it. */
static bool read_value(framing *f, char c)
{
    if (c == '\r') {
        end_value(f);
        return true;
    }
    if (!is_text(c))
        malformed(f, "a header value has a control character");
    else if (!is_checked(f))
        return f->field < HEADERS;
    else if (!is_space(c))
        check_value(f, c);
    else if (f->at > 0)
        f->spaced = true;
    /* What comes before a value is passed on, so that the body need not be moved in memory. */
    return !f->spaced || !is_space(c);
}

/* One character that is neither of a chunk nor of the data of a body. Returns how many bytes it
 * wrote at `to`. */
static size_t read_head(framing *f, char c, char *to)
{
    const bool trailer = f->trailer;
    bool passed = !trailer;
    switch (f->state) {
    case START:
        f->state = START_LF;
        return 0;
    case START_LF:
        f->state = START;
        if (c != '\n') {
            enter(f, METHOD);
            malformed(f, "a line must end with CR LF");
        }
        return 0;
    case METHOD:
    case TARGET:
        read_line(f, c);
        break;
    case VERSION:
        read_version(f, c);
        break;
    case LINE:
        begin_header(f, c);
        break;
    case NAME:
        end_name(f, c);
        break;
    case VALUE:
        passed = read_value(f, c) && passed;
        break;
    default: /* an LF behind a CR */
        if (c != '\n') {
            malformed(f, "a line must end with CR LF");
        } else if (f->state == HEAD_LF) {
            end_head(f);
        } else {
            if (f->state == LINE_LF)
                f->count = f->kept = 0;
            f->state = LINE;
        }
    }
    if (f->state == REFUSED)
        return 0;
    if (trailer && f->state == START) {
        memcpy(to, last_chunk, strlen(last_chunk));
        return strlen(last_chunk);
    }
    if (passed)
        *to = c;
    return passed;
}

/* One character of a chunk's size line or of the end of its data. Returns how many bytes it wrote
 * at `to`. */
static size_t read_chunk(framing *f, char c, char *to)
{
    char line[FRAMING_GAP];
    const int digit = hex_digit(c);
    switch (f->state) {
    case SIZE:
        if (digit >= 0 && f->left >> 56 != 0) {
            refuse(f, 413, "too_large", "a chunk has 2^60 bytes or more");
        } else if (digit >= 0) {
            f->left = f->left * 16 + (uint64_t)digit;
            f->at = 1;
        } else if (f->at && c == '\r') {
            f->state = SIZE_LF;
        } else if (f->at && (c == ';' || is_space(c))) {
            f->state = c == ';' ? EXTENSION : SIZE_SPACE;
        } else {
            malformed(f, "the size of a chunk must be hexadecimal digits, then CR LF");
        }
        return 0;
    case SIZE_SPACE:
        if (c == ';')
            f->state = EXTENSION;
        else if (!is_space(c))
            malformed(f, "the size of a chunk must be hexadecimal digits, then CR LF");
        return 0;
    case EXTENSION:
        if (c == '\r')
            f->state = SIZE_LF;
        else if (!is_text(c))
            malformed(f, "a chunk extension has a control character");
        return 0;
    case SIZE_LF:
        if (c != '\n') {
            malformed(f, "a line must end with CR LF");
            return 0;
        }
        f->trailer = f->left == 0;
        if (f->trailer) {
            f->state = LINE;
            f->headers = 0;
            return 0;
        }
        f->state = DATA;
        const uint64_t paid = 16 + 2 * f->left;
        f->count -= f->count < paid ? f->count : (uint32_t)paid;
        const int size = snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)f->left);
        memcpy(to, line, (size_t)size);
        return (size_t)size;
    case DATA_CR:
    case DATA_LF:
        if (c != (f->state == DATA_CR ? '\r' : '\n')) {
            malformed(f, "the data of a chunk must end with CR LF");
            return 0;
        }
        f->state = f->state == DATA_CR ? DATA_LF : SIZE;
        f->at = 0;
        *to = c;
        return 1;
    }
    return 0;
}

static bool in_chunk(const framing *f)
{
    return f->state >= SIZE && f->state <= DATA_LF;
}

/* How many bytes more the current line, or what surrounds the data of chunks, may have. */
static uint32_t room(const framing *f)
{
    if (f->state <= LINE_LF)
        return FRAMING_LINE_MAX - f->count;
    if (f->trailer || f->state > HEAD_LF)
        return FRAMING_CHUNK_MAX - f->count;
    const uint32_t left = FRAMING_HEADER_BYTES - f->count;
    const uint32_t kept = f->kept < FRAMING_KEPT_MAX ? FRAMING_KEPT_MAX - f->kept : 0;
    return kept < left ? kept : left;
}

/* Is what is read at present no business of libmicrohttpd? */
static bool is_dropped(const framing *f)
{
    return f->trailer || ((f->state == NAME || f->state == VALUE) && f->field == HEADERS);
}

static void refuse_length(framing *f)
{
    if (f->state <= START_LF)
        enter(f, METHOD);
    if (f->trailer || in_chunk(f))
        malformed(f, "chunk sizes, extensions and trailers have more than 4096 bytes");
    else if (f->state <= LINE_LF)
        refuse(f, 414, "uri_too_long", "the request line has more than 16384 bytes");
    else if (f->kept >= FRAMING_KEPT_MAX)
        refuse(f, 431, "head_too_large", "the headers that lossd reads have more than 16384 bytes");
    else
        refuse(f, 431, "head_too_large", "the headers have more than 32768 bytes");
}

static size_t smaller(uint64_t a, size_t b)
{
    return a < b ? (size_t)a : b;
}

static size_t text_run(const char *from, size_t most)
{
    size_t size = 0;
    block bytes;
    while (block_next(from + size, most - size, &bytes) &&
           block_none((block)(bytes < 0x20) | (block)(bytes == 0x7f)))
        size += sizeof bytes;
    while (size < most && is_text(from[size]))
        size++;
    return size;
}

static size_t target_run(const char *from, size_t most)
{
    size_t size = 0;
    block bytes;
    while (block_next(from + size, most - size, &bytes) &&
           block_none((block)(bytes <= ' ') | (block)(bytes == 0x7f)))
        size += sizeof bytes;
    while (size < most && (unsigned char)from[size] > ' ' && from[size] != 0x7f)
        size++;
    return size;
}

/* A run of a name, as far as it is that of a header that is read, or if it is known to be none. */
static size_t name_run(framing *f, const char *from, size_t most)
{
    size_t size = 0;
    if (f->field == HEADERS) {
        while (size < most && head_is_tchar(from[size]))
            size++;
        return size;
    }
    do {
        const char *name = head_names[f->field] + f->at, *const first = name;
        while (size < most && *name == head_lower(from[size]) && *name != '\0') {
            name++;
            size++;
        }
        f->at = (uint8_t)(f->at + (name - first));
    } while (size < most && head_is_tchar(from[size]) && goes_on(f, from[size]) && ++size);
    return size;
}

/* A run of a value that goes on where it is read at `from`. */
static size_t value_run(framing *f, const char *from, size_t most)
{
    size_t size = 0;
    if (!is_checked(f))
        return text_run(from, most);
    if (f->field != HEADER_HOST || f->spaced)
        return 0;
    while (size < most && head_is_host(from[size]))
        size++;
    f->at |= size > 0;
    return size;
}

/* Read a run of characters that need no other look, of at most `most`: of a part of the request
 * line, a name, a value, or the data of a body. Returns its length. */
static size_t read_run(framing *f, const char *from, size_t most)
{
    size_t size = 0;
    switch (f->state) {
    case METHOD:
        while (size < most && head_is_tchar(from[size]))
            size++;
        f->at |= size > 0;
        break;
    case TARGET:
        size = target_run(from, most);
        f->at |= size > 0;
        break;
    case VERSION: /* as nearly all have it */
        if (f->at == 0 && most >= strlen("HTTP/1.1") &&
            memcmp(from, version, strlen("HTTP/1.1")) == 0)
            f->at = (uint8_t)(size = strlen("HTTP/1.1"));
        break;
    case NAME:
        size = name_run(f, from, most);
        break;
    case VALUE:
        size = value_run(f, from, most);
        break;
    case BODY:
        size = smaller(f->left, most);
        framing_read(f, size);
        return size;
    case DATA:
        size = smaller(f->left, most);
        f->left -= size;
        if (f->left == 0)
            f->state = DATA_CR;
        return size;
    }
    f->count += (uint32_t)size;
    return size;
}

size_t framing_pass(framing *f, const char *from, size_t size, char *to)
{
    const char *const end = from + size;
    char *out = to;
    while (from < end && f->state != REFUSED) {
        const bool data = f->state == BODY || f->state == DATA;
        const size_t there = (size_t)(end - from), most = data ? there : room(f);
        const size_t run = read_run(f, from, most < there ? most : there);
        size_t passed = 0;
        if (run > 0) {
            passed = is_dropped(f) ? 0 : run;
            if (passed > 0 && out != from)
                memmove(out, from, run);
            from += run;
        } else if (f->state == START && *from != '\r') {
            enter(f, METHOD);
        } else if (most == 0) {
            refuse_length(f);
        } else {
            const char c = *from++;
            f->count++;
            passed = in_chunk(f) ? read_chunk(f, c, out) : read_head(f, c, out);
        }
        out += passed;
        f->kept += (uint32_t)passed;
    }
    return (size_t)(out - to);
}

bool framing_whole(const framing *f)
{
    return f->state == START;
}

uint64_t framing_left(const framing *f)
{
    return f->state == BODY ? f->left : 0;
}

void framing_read(framing *f, size_t size)
{
    f->left -= size;
    if (f->left == 0)
        enter(f, START);
}

size_t framing_gap(const framing *f)
{
    const bool begun = f->state == SIZE ? f->at > 0 : f->state > SIZE && f->state <= SIZE_LF;
    return begun || f->trailer ? FRAMING_GAP : 0;
}

size_t framing_finish(framing *f, char *to, size_t size)
{
    const size_t n = smaller(strlen(f->rest), size);
    memcpy(to, f->rest, n);
    f->rest += n;
    return n;
}
