/* SPDX-License-Identifier: MIT
 *
 * The number parser compared with strtod and strtoll, and the number writer checked by
 * reading its text back with both.
 */
#include "fuzz.h"

#include "server/wire/number.h"

#include <errno.h>
#include <math.h>

/* Whether the text is one JSON number, by the grammar. */
static bool is_number(const char *s)
{
    s += *s == '-';
    if (*s == '0')
        s++;
    else if (*s >= '1' && *s <= '9')
        s += strspn(s, "0123456789");
    else
        return false;
    if (*s == '.') {
        if (strspn(s + 1, "0123456789") == 0)
            return false;
        s += 1 + strspn(s + 1, "0123456789");
    }
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '+' || s[1] == '-');
        if (strspn(s, "0123456789") == 0)
            return false;
        s += strspn(s, "0123456789");
    }
    return *s == '\0';
}

static void check_double(double x)
{
    char text[64];
    double back;
    char *end = number_write_f64(text, x);
    REQUIRE(end - text <= NUMBER_F64_MAX && number_read(text, end, &back) == end);
    REQUIRE(memcmp(&back, &x, sizeof x) == 0 || (isnan(x) && isnan(back)));
    *end = '\0';
    REQUIRE(isnan(x) || isinf(x) || strtod(text, NULL) == x);
}

static void check_single(float x)
{
    char text[64];
    double back;
    char *end = number_write_f32(text, x);
    REQUIRE(end - text <= NUMBER_F32_MAX && number_read(text, end, &back) == end);
    REQUIRE((float)back == x || (isnan(x) && isnan(back)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    double x = 0;
    float single;
    int64_t whole = 0;
    bool fits = false;
    REQUIRE(text);
    memcpy(text, data, size);
    text[size] = '\0';
    const char *end = number_read(text, text + size, &x);
    REQUIRE(!end || (end > text && end <= text + size));
    if (strlen(text) == size && is_number(text)) {
        const double want = strtod(text, NULL);
        REQUIRE(end == text + size && memcmp(&x, &want, sizeof x) == 0);
        if (!strpbrk(text, ".eE")) {
            errno = 0;
            const long long integer = strtoll(text, NULL, 10);
            REQUIRE(number_read_integer(text, text + size, &whole, &fits) == text + size);
            REQUIRE(whole == integer && fits == (errno == 0));
        }
    }
    if (size >= 8) {
        memcpy(&x, data, sizeof x);
        memcpy(&single, data, sizeof single);
        check_double(x);
        check_single(single);
    }
    free(text);
    return 0;
}
