/* SPDX-License-Identifier: MIT
 *
 * Query strings: NAME newline query. Options of every loss are parsed from their text form.
 */
#include "fuzz.h"

#include "server/evaluate.h"
#include "server/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[64], *query;
    const uint8_t *end = memchr(data, '\n', size);
    if (!end || memchr(data, '\0', size))
        return -1;
    snprintf(name, sizeof name, "%.*s", (int)(end - data < 63 ? end - data : 63),
             (const char *)data);
    const lk_loss *loss = lk_loss_find(name);
    if (!loss)
        return -1;
    const size_t length = size - (size_t)(end + 1 - data);
    query = malloc(length + 1);
    REQUIRE(query);
    memcpy(query, end + 1, length);
    query[length] = '\0';

    const char *body = lk_loss_describe(loss)->example;
    problem p = {0};
    evaluation *e = evaluation_new(loss, &wire_json, &wire_json, (span){body, strlen(body)});
    REQUIRE(e);
    if (!evaluation_open(e, query, 1, &p)) {
        REQUIRE(p.status == 400 || p.status == 413 || p.status == 422);
        REQUIRE(p.detail[0] != '\0');
    }
    evaluation_free(e);
    free(query);
    return 0;
}
