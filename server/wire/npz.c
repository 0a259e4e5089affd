/* SPDX-License-Identifier: MIT
 *
 * NumPy's formats as its manual (numpy.lib.format) and PKWARE's APPNOTE 6.3 define them. Archives
 * are written with the 64-bit fields of ZIP throughout.
 */
#include "wire/npz.h"

#include "wire/inputs.h"
#include "wire/place.h"

#include <limits.h>
#include <stdio.h>
#include <zlib.h>

enum {
    HEADER_MAX = 64 * 1024,
    MEMBER_BOUND = 512, /* framing of a member and its place in the directory, at most */
    END_SIZE = 22,      /* of the record that an archive ends with, without its comment */
    LOCATOR_SIZE = 20,
    NPY_ALIGN = 64,
    ZIP64_VERSION = 45,
    ZIP64_EXTRA = 1,
    STORED = 0,
    UTF8_NAME = 0x800,
    DATE_1980 = 0x21,
    OUTPUTS_MAX = (EVALUATION_PIECES - 1) / 2,
};

static const uint32_t LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50,
                      END64 = 0x06064b50, LOCATOR64 = 0x07064b50;

static bool malformed(problem *p, const char *name, const char *what)
{
    return problem_input(p, 400, "malformed_body", name, "npz: %.60s%s%s", name, *name ? " " : "",
                         what);
}

static uint64_t number(cursor *c, int bytes)
{
    const span s = cursor_take(c, (size_t)bytes);
    uint64_t x = 0;
    for (size_t i = s.size; i-- > 0;)
        x = x << 8 | (unsigned char)s.data[i];
    return x;
}

/* The rest of a file from a place on; an empty span beyond its end. */
static span from(span file, uint64_t at)
{
    return at < file.size ? (span){file.data + at, file.size - at} : (span){file.data, 0};
}

/* Tensors: a magic, the length of a header, a dict of Python as text, the numbers. */

static const char MAGIC[] = "\x93NUMPY";
enum { MAGIC_SIZE = sizeof MAGIC - 1 };

static const char *const descriptions[LK_DTYPE_COUNT] = {
    [LK_F64] = "<f8", [LK_F32] = "<f4", [LK_F16] = "<f2",  [LK_I64] = "<i8",
    [LK_I32] = "<i4", [LK_U8] = "|u1",  [LK_BOOL] = "|b1",
};

bool npz_is_tensor(span file)
{
    return file.size > MAGIC_SIZE && memcmp(file.data, MAGIC, MAGIC_SIZE) == 0;
}

/* A string in either kind of quotes, without escapes. */
static bool read_quoted(cursor *c, span *to)
{
    cursor_space(c);
    const char quote = cursor_peek(c);
    if ((quote != '\'' && quote != '"') || !cursor_accept(c, quote))
        return false;
    const char *end = memchr(c->p, quote, cursor_left(c));
    if (!end)
        return false;
    *to = cursor_take(c, (size_t)(end - c->p));
    return cursor_accept(c, quote);
}

static bool read_word(cursor *c, const char *word)
{
    cursor_space(c);
    const size_t size = strlen(word);
    if (cursor_left(c) < size || memcmp(c->p, word, size) != 0)
        return false;
    cursor_take(c, size);
    return true;
}

static bool read_size(cursor *c, int64_t *to)
{
    int64_t size = 0;
    int digits = 0;
    cursor_space(c);
    for (; cursor_peek(c) >= '0' && cursor_peek(c) <= '9'; digits++) {
        const int digit = *cursor_take(c, 1).data - '0';
        if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, digit, &size))
            return false;
    }
    *to = size;
    return digits > 0;
}

/* A tuple of sizes: (), (3,), (2, 3). */
static bool read_shape(cursor *c, lk_tensor *t)
{
    t->rank = 0;
    if (!cursor_accept(c, '('))
        return false;
    while (!cursor_accept(c, ')')) {
        if (t->rank == LK_MAX_RANK || !read_size(c, &t->shape[t->rank++]))
            return false;
        if (!cursor_accept(c, ',') && cursor_peek(c) != ')')
            return false;
    }
    return true;
}

typedef struct npy_dict {
    span dtype;
    bool has_shape, has_order, fortran;
} npy_dict;

static bool read_dict(cursor *c, npy_dict *m, lk_tensor *t)
{
    if (!cursor_accept(c, '{'))
        return false;
    while (!cursor_accept(c, '}')) {
        span key;
        bool ok = read_quoted(c, &key) && cursor_accept(c, ':');
        if (ok && span_is(key, "descr")) {
            ok = m->dtype.size == 0 && read_quoted(c, &m->dtype);
        } else if (ok && span_is(key, "fortran_order")) {
            m->fortran = read_word(c, "True");
            ok = !m->has_order && (m->fortran || read_word(c, "False"));
            m->has_order = true;
        } else if (ok && span_is(key, "shape")) {
            ok = !m->has_shape && read_shape(c, t);
            m->has_shape = true;
        } else {
            ok = false;
        }
        if (!ok || (!cursor_accept(c, ',') && cursor_peek(c) != '}'))
            return false;
    }
    cursor_space(c);
    return m->dtype.size > 0 && m->has_shape && m->has_order && !cursor_left(c);
}

static bool read_type(const char *name, span text, lk_tensor *t, problem *p)
{
    for (int d = 0; d < LK_DTYPE_COUNT; d++)
        if (descriptions[d] && span_is(text, descriptions[d])) {
            t->dtype = (lk_dtype)d;
            return true;
        }
    if (text.data[0] == '>')
        return problem_input(p, 422, "dtype_unsupported", name,
                             "%.60s is big-endian (%.*s); lossd takes little-endian arrays", name,
                             (int)(text.size < 20 ? text.size : 20), text.data);
    return problem_input(p, 422, "dtype_unsupported", name,
                         "%.60s has the type %.*s; lossd takes f8, f4, f2, i8, i4, u1 and b1", name,
                         (int)(text.size < 20 ? text.size : 20), text.data);
}

/* Read the header of a tensor; the numbers are the rest of the file. */
static bool read_tensor(const char *name, span file, lk_tensor *t, span *data, problem *p)
{
    cursor c = cursor_new(file);
    npy_dict m = {0};
    if (!npz_is_tensor(file))
        return malformed(p, name, "is no .npy file");
    cursor_take(&c, MAGIC_SIZE);
    const uint64_t version = number(&c, 1);
    number(&c, 1);
    const span text = cursor_take(&c, (size_t)number(&c, version == 1 ? 2 : 4));
    if (c.failed || version < 1 || version > 3 || text.size > HEADER_MAX)
        return malformed(p, name, "has a header that is cut off, too long or of another version");
    cursor dict = cursor_new(text);
    if (!read_dict(&dict, &m, t))
        return malformed(p, name, "must have descr, fortran_order and a shape of at most 8 sizes");
    if (!read_type(name, m.dtype, t, p))
        return false;
    if (m.fortran && t->rank > 1)
        return problem_input(p, 422, "shape_mismatch", name,
                             "%.60s is in Fortran's order; save numpy.ascontiguousarray of it",
                             name);
    *data = cursor_take(&c, cursor_left(&c));
    const int64_t count = lk_tensor_count(t);
    if (count < 0 || (uint64_t)count * lk_dtype_size(t->dtype) != data->size)
        return malformed(p, name, "has a shape that its data do not fit");
    return true;
}

/* Archives: members, a directory, the place of the directory. */

bool npz_is_archive(span file)
{
    cursor c = cursor_new(file);
    const uint64_t magic = number(&c, 4);
    return magic == LOCAL || magic == END;
}

typedef struct directory {
    uint64_t members, at;
} directory;

static bool find_directory(span file, directory *to, problem *p)
{
    /* The last record may have a comment of at most 65535 bytes. */
    size_t back = END_SIZE;
    cursor c;
    for (;; back++) {
        if (back > file.size || back > END_SIZE + USHRT_MAX)
            return malformed(p, "", "the archive has no end; it is cut off");
        c = cursor_new(from(file, file.size - back));
        if (number(&c, 4) == END)
            break;
    }
    cursor_take(&c, 6);
    to->members = number(&c, 2);
    cursor_take(&c, 4);
    to->at = number(&c, 4);
    cursor locator = {.failed = true};
    if (file.size - back >= LOCATOR_SIZE)
        locator = cursor_new(from(file, file.size - back - LOCATOR_SIZE));
    if (number(&locator, 4) != LOCATOR64)
        return true;
    cursor_take(&locator, 4);
    c = cursor_new(from(file, number(&locator, 8)));
    if (number(&c, 4) != END64)
        return malformed(p, "", "the archive's 64-bit directory is not where it says");
    cursor_take(&c, 28);
    to->members = number(&c, 8);
    cursor_take(&c, 8);
    to->at = number(&c, 8);
    return !c.failed || malformed(p, "", "the archive's 64-bit directory is cut off");
}

typedef struct member {
    char name[64];
    uint64_t flags, method, check, packed, size, at;
} member;

/* Of what does not fit 32 bits, the extra field holds 64, in this order. */
static void read_extra(span extra, member *m)
{
    cursor c = cursor_new(extra);
    while (cursor_left(&c) >= 4) {
        const uint64_t id = number(&c, 2);
        cursor field = cursor_new(cursor_take(&c, (size_t)number(&c, 2)));
        if (id != ZIP64_EXTRA)
            continue;
        uint64_t *const wide[] = {&m->size, &m->packed, &m->at};
        for (int i = 0; i < 3; i++)
            if (*wide[i] == UINT32_MAX)
                *wide[i] = number(&field, 8);
    }
}

static bool read_member(cursor *c, member *m, problem *p)
{
    static const char suffix[] = ".npy";
    *m = (member){0};
    const bool begins = number(c, 4) == CENTRAL;
    cursor_take(c, 4);
    m->flags = number(c, 2);
    m->method = number(c, 2);
    cursor_take(c, 4);
    m->check = number(c, 4);
    m->packed = number(c, 4);
    m->size = number(c, 4);
    const size_t name = (size_t)number(c, 2), extra = (size_t)number(c, 2),
                 comment = (size_t)number(c, 2);
    cursor_take(c, 8);
    m->at = number(c, 4);
    span text = cursor_take(c, name);
    read_extra(cursor_take(c, extra), m);
    cursor_take(c, comment);
    if (!begins || c->failed)
        return malformed(p, "", "the archive's directory is cut off");
    const size_t ending = sizeof suffix - 1;
    if (text.size > ending && memcmp(text.data + text.size - ending, suffix, ending) == 0)
        text.size -= ending;
    if (text.size >= sizeof m->name || memchr(text.data, '\0', text.size))
        return malformed(p, "", "a member's name is longer than an input's");
    memcpy(m->name, text.data, text.size);
    return true;
}

static bool member_bytes(span file, const member *m, span *to, problem *p)
{
    if (m->flags & 1 || m->method != STORED)
        return malformed(p, m->name, "is compressed or encrypted; write it by numpy.savez");
    cursor c = cursor_new(from(file, m->at));
    const bool begins = number(&c, 4) == LOCAL;
    cursor_take(&c, 22);
    const size_t name = (size_t)number(&c, 2), extra = (size_t)number(&c, 2);
    cursor_take(&c, name);
    cursor_take(&c, extra);
    if (!begins || c.failed || m->size != m->packed || m->size > cursor_left(&c))
        return malformed(p, m->name, "is not where the archive's directory says");
    *to = cursor_take(&c, (size_t)m->size);
    if (crc32_z(0, (const unsigned char *)to->data, to->size) != m->check)
        return malformed(p, m->name, "is damaged: its checksum is another");
    return true;
}

static bool npz_open(evaluation *e, problem *p)
{
    directory d = {0};
    member m;
    if (!find_directory(e->body, &d, p))
        return false;
    cursor c = cursor_new(from(e->body, d.at));
    if (d.members > WIRE_TENSORS)
        return problem_set(p, 413, "too_large", "more than %d tensors", WIRE_TENSORS);
    for (uint64_t i = 0; i < d.members; i++) {
        lk_tensor t = {0};
        span bytes = {0}, data = {0};
        if (!read_member(&c, &m, p) || !member_bytes(e->body, &m, &bytes, p) ||
            !read_tensor(m.name, bytes, &t, &data, p) || !wire_view(e, m.name, &t, data, p))
            return false;
    }
    return true;
}

/* Writing. */

static void put(buffer *to, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++, x >>= 8)
        buffer_append(to, &(char){(char)(x & 0xff)}, 1);
}

npz_writer npz_begin(buffer *to)
{
    return (npz_writer){.to = to, .directory = buffer_new(to->max)};
}

/* What a member's own record and its entry in the directory have alike. */
static void describe_member(buffer *to, uint32_t check, size_t name, int extra)
{
    put(to, ZIP64_VERSION, 2);
    put(to, UTF8_NAME, 2);
    put(to, STORED, 2);
    put(to, 0, 2);
    put(to, DATE_1980, 2);
    put(to, check, 4);
    put(to, UINT32_MAX, 4);
    put(to, UINT32_MAX, 4);
    put(to, name, 2);
    put(to, (uint64_t)extra + 4, 2);
}

void npz_member(npz_writer *w, const char *name, span head, span data)
{
    const size_t begin = w->at, before = w->to->size, size = head.size + data.size;
    char file[80];
    const size_t length = (size_t)snprintf(file, sizeof file, "%.64s.npy", name);
    const uLong first = crc32_z(0, (const unsigned char *)head.data, head.size);
    const uint32_t check =
        (uint32_t)(data.size ? crc32_z(first, (const unsigned char *)data.data, data.size) : first);
    put(w->to, LOCAL, 4);
    describe_member(w->to, check, length, 16);
    buffer_append(w->to, file, length);
    put(w->to, ZIP64_EXTRA, 2);
    put(w->to, 16, 2);
    put(w->to, size, 8);
    put(w->to, size, 8);
    put(&w->directory, CENTRAL, 4);
    put(&w->directory, ZIP64_VERSION, 2);
    describe_member(&w->directory, check, length, 24);
    put(&w->directory, 0, 2 + 2 + 2 + 4); /* comment, disk, attributes */
    put(&w->directory, UINT32_MAX, 4);
    buffer_append(&w->directory, file, length);
    put(&w->directory, ZIP64_EXTRA, 2);
    put(&w->directory, 24, 2);
    put(&w->directory, size, 8);
    put(&w->directory, size, 8);
    put(&w->directory, begin, 8);
    w->at += w->to->size - before + size;
    w->members++;
}

void npz_end(npz_writer *w)
{
    const size_t begin = w->at, size = w->directory.size, end = begin + size;
    const uint64_t members = (uint64_t)w->members;
    buffer_append(w->to, w->directory.data, size);
    put(w->to, END64, 4);
    put(w->to, 44, 8);
    put(w->to, ZIP64_VERSION, 2);
    put(w->to, ZIP64_VERSION, 2);
    put(w->to, 0, 4 + 4);
    put(w->to, members, 8);
    put(w->to, members, 8);
    put(w->to, size, 8);
    put(w->to, begin, 8);
    put(w->to, LOCATOR64, 4);
    put(w->to, 0, 4);
    put(w->to, end, 8);
    put(w->to, 1, 4);
    put(w->to, END, 4);
    put(w->to, 0, 2 + 2);
    put(w->to, members, 2);
    put(w->to, members, 2);
    put(w->to, UINT32_MAX, 4);
    put(w->to, UINT32_MAX, 4);
    put(w->to, 0, 2);
    w->to->failed = w->to->failed || w->directory.failed;
    buffer_free(&w->directory);
}

/* The header of a tensor; what precedes its numbers is a multiple of 64 bytes. */
static span npy_header(const lk_tensor *t, char *to, size_t size)
{
    enum { PREFIX = MAGIC_SIZE + 4 };
    size_t n = PREFIX;
    n += (size_t)snprintf(to + n, size - n, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                          descriptions[t->dtype]);
    for (int i = 0; i < t->rank; i++)
        n += (size_t)snprintf(to + n, size - n, "%lld,%s", (long long)t->shape[i],
                              i + 1 < t->rank ? " " : "");
    n += (size_t)snprintf(to + n, size - n, "), }");
    while (n % NPY_ALIGN != NPY_ALIGN - 1)
        to[n++] = ' ';
    to[n++] = '\n';
    memcpy(to, MAGIC, MAGIC_SIZE);
    to[MAGIC_SIZE] = 1;
    to[MAGIC_SIZE + 1] = 0;
    to[MAGIC_SIZE + 2] = (char)((n - PREFIX) & 0xff);
    to[MAGIC_SIZE + 3] = (char)((n - PREFIX) >> 8 & 0xff);
    return (span){to, n};
}

static size_t npz_bound(const evaluation *e)
{
    return MEMBER_BOUND * (2 + (size_t)lk_call_outputs(e->call));
}

/* A tensor and what frames it are a piece each. */
static bool npz_accept(const evaluation *e, problem *p)
{
    if (lk_call_outputs(e->call) > OUTPUTS_MAX)
        return problem_set(p, 422, "too_large", "an archive takes at most %d outputs", OUTPUTS_MAX);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = place_result(e, i, &t);
        if (!descriptions[t.dtype])
            return problem_set(p, 422, "dtype_unsupported",
                               "output %s cannot come as %s, which NumPy's files have no type for",
                               name, lk_dtype_name(t.dtype));
    }
    return true;
}

static bool npz_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    const int outputs = lk_call_outputs(e->call);
    size_t cut[OUTPUTS_MAX];
    char header[MEMBER_BOUND];
    (void)p;
    npz_writer w = npz_begin(b);
    for (int i = 0; i < outputs; i++) {
        lk_tensor t;
        const char *name = place_result(e, i, &t);
        const span head = npy_header(&t, header, sizeof header);
        npz_member(&w, name, head,
                   (span){t.data, (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype)});
        buffer_append(b, head.data, head.size);
        cut[i] = b->size;
    }
    npz_end(&w);
    /* The framing is one text, cut where a tensor's numbers are. */
    size_t done = 0;
    e->pieces = 0;
    for (int i = 0; i <= outputs && !b->failed; i++) {
        const size_t end = i < outputs ? cut[i] : b->size;
        lk_tensor t;
        e->piece[e->pieces++] = (span){b->data + done, end - done};
        done = end;
        if (i < outputs) {
            (void)place_result(e, i, &t);
            e->piece[e->pieces++] =
                (span){t.data, (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype)};
        }
    }
    return true;
}

static const char *const media[] = {"application/x-npz", NULL};

const wire wire_npz = {
    .name = "npz",
    .media = media,
    .binary = true,
    .open = npz_open,
    .accept = npz_accept,
    .bound = npz_bound,
    .encode = npz_encode,
};
