/* fuzz_tree.c - the decoder of an init's files against any message.
 *
 * The input is a byte of wishes and the message.  A wish asks for what a random
 * message would hardly ever have. */
#include "fuzz.h"
#include "runtime.h"

#include <errno.h>

enum {
    SIZES_ADD_UP = 1, /* as many bytes of strings as there are */
    COUNT_FITS = 2,   /* as many mounts as there is room for, or fewer */
    STRINGS_FIT = 4,  /* two for each mount, as long as there are enough bytes */
    SIZES_WRAP = 8,   /* add up, but only modulo 2^32 */
};

static void
end_strings(char *strings, size_t size, uint32_t count)
{
    if (size < count || size == 0)
        return;
    memset(strings, 'x', size);
    for (uint32_t i = 0; i < count; i++)
        strings[size - 1 - i] = 0;
}

static void
make_plausible(char *message, size_t size, uint8_t wishes)
{
    struct eb_tree tree;
    if (size < sizeof tree)
        return;
    memcpy(&tree, message, sizeof tree);
    size_t rest = size - sizeof tree;
    if (wishes & COUNT_FITS)
        tree.n_mounts %= (uint32_t)(rest / sizeof(struct eb_mount) + 1);
    size_t rows = tree.n_mounts * sizeof(struct eb_mount);
    if (wishes & SIZES_ADD_UP)
        tree.strings = (uint32_t)(rest - rows);
    if (wishes & SIZES_WRAP)
        tree.n_mounts += UINT32_MAX / (uint32_t)sizeof(struct eb_mount) + 1;
    if (wishes & STRINGS_FIT && rows <= rest)
        end_strings(message + sizeof tree + rows, rest - rows, 2 * tree.n_mounts);
    memcpy(message, &tree, sizeof tree);
}

/* What a tree is, counted in the plainest way. */
static int
is_tree(const char *message, size_t size)
{
    struct eb_tree tree;
    if (size < sizeof tree)
        return 0;
    memcpy(&tree, message, sizeof tree);
    uint64_t rows = (uint64_t)tree.n_mounts * sizeof(struct eb_mount);
    if (tree.n_mounts > EB_MOUNTS_MAX || sizeof tree + rows + tree.strings != size)
        return 0;
    uint64_t nuls = 0;
    for (size_t at = size - tree.strings; at < size; at++)
        nuls += message[at] == 0;
    return nuls == 2 * (uint64_t)tree.n_mounts && (tree.strings == 0 || message[size - 1] == 0);
}

/* Reads everything that the view gives away, as csrc/mounts.c does. */
static void
check_view(const struct eb_tree_view *view, const char *message, size_t size)
{
    const char *at = view->strings;
    REQUIRE(memcmp(&view->tree, message, sizeof view->tree) == 0);
    REQUIRE((const char *)view->mounts == message + sizeof view->tree);
    REQUIRE(at == (const char *)(view->mounts + view->tree.n_mounts));
    uint64_t sum = 0;
    for (uint32_t i = 0; i < view->tree.n_mounts; i++) {
        const struct eb_mount *mount = &view->mounts[i];
        sum += mount->kind + mount->flags + mount->access + mount->dev + mount->ino;
        for (int strings = 0; strings < 2; strings++)
            at += strlen(at) + 1;
    }
    REQUIRE(at == message + size);
    volatile uint64_t read = sum;
    (void)read;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct eb_tree_view view;
    if (size == 0)
        return 0;
    size_t length = size - 1;
    char *message = exact_copy(data + 1, length);
    make_plausible(message, length, data[0]);
    char *before = exact_copy(message, length);
    int error = eb_tree_decode(message, length, &view);
    REQUIRE(error == 0 || error == -EBADMSG);
    REQUIRE((error == 0) == is_tree(message, length));
    REQUIRE(memcmp(message, before, length) == 0);
    if (error == 0)
        check_view(&view, message, length);
    free(before);
    free(message);
    return 0;
}
