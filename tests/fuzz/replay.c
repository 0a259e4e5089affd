/* SPDX-License-Identifier: MIT
 *
 * Runs a fuzz target with the files named on the command line, and with every prefix of the short
 * ones.
 */
#include "fuzz.h"

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *from = fopen(path, "rb");
    long length = -1;
    REQUIRE(from && fseek(from, 0, SEEK_END) == 0 && (length = ftell(from)) >= 0);
    rewind(from);
    uint8_t *data = malloc((size_t)length + 1);
    REQUIRE(data && fread(data, 1, (size_t)length, from) == (size_t)length);
    fclose(from);
    *size = (size_t)length;
    return data;
}

int main(int argc, char **argv)
{
    enum { SHORT = 512 };
    for (int i = 1; i < argc; i++) {
        size_t size;
        uint8_t *data = read_file(argv[i], &size);
        for (size_t n = size < SHORT ? 0 : size; n <= size; n++) {
            /* Memory of exactly that size, so that a sanitizer detects accesses outside. */
            uint8_t *exact = malloc(n ? n : 1);
            REQUIRE(exact);
            memcpy(exact, data, n);
            (void)LLVMFuzzerTestOneInput(exact, n);
            free(exact);
        }
        free(data);
    }
    printf("%d seeds\n", argc - 1);
    return argc > 1 ? 0 : 1;
}
