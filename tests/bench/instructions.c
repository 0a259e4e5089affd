/* SPDX-License-Identifier: MIT
 *
 * A plugin of qemu-user (7 and later) that counts the instructions of the program it runs, for
 * former.c's --counter: `qemu-aarch64 -plugin instructions.so,counter=FILE former --counter FILE`.
 * Timing an emulator says nothing about a processor; the number of its instructions says something,
 * and is the same in every run. The count is in FILE, which both map.
 *
 * Debian has no package with the header of qemu's plugins: what is declared here is of its first
 * interface, which later ones keep.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct qemu_plugin_tb
    qemu_plugin_tb; /* instructions that are translated, and run, as one */
typedef void on_translation(uint64_t plugin, qemu_plugin_tb *tb);
enum { ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, on_translation *call);
void qemu_plugin_register_vcpu_tb_exec_inline(qemu_plugin_tb *tb, int op, void *to, uint64_t add);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb *tb);
EXPORT int qemu_plugin_install(uint64_t plugin, const void *info, int argc, char **argv);

EXPORT extern int qemu_plugin_version;
int qemu_plugin_version = 1;

static uint64_t *counter;

static void count(uint64_t plugin, qemu_plugin_tb *tb)
{
    (void)plugin;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, counter, qemu_plugin_tb_n_insns(tb));
}

int qemu_plugin_install(uint64_t plugin, const void *info, int argc, char **argv)
{
    static const char name[] = "counter=";
    (void)info;
    if (argc != 1 || strncmp(argv[0], name, sizeof name - 1) != 0) {
        fprintf(stderr, "instructions: takes one argument, counter=FILE\n");
        return 1;
    }
    const int fd = open(argv[0] + sizeof name - 1, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *map = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof *counter) == 0)
        map = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED) {
        perror(argv[0]);
        return 1;
    }
    counter = map;
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, count);
    return 0;
}
