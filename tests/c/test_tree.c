/* test_tree.c - a directory is emptied whatever a program left in it. */
#include "check.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 3000, WIDTH = 500 };

static int
make_top(char *path)
{
    CHECK(mkdtemp(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

/* Deeper than PATH_MAX: no path leads to the bottom. */
static void
make_deep(int top)
{
    char name[256];
    memset(name, 'd', 200);
    name[200] = 0;
    int at = dup(top);
    for (int depth = 0; depth < DEPTH; depth++) {
        CHECK(mkdirat(at, name, 0700) == 0);
        int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(next >= 0);
        close(at);
        at = next;
    }
    close(at);
}

static void
make_wide(int top)
{
    char name[32];
    for (int i = 0; i < WIDTH; i++) {
        snprintf(name, sizeof name, "file%d", i);
        close(openat(top, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0));
    }
}

static void
make_odd(int top, const char *outside)
{
    CHECK(mkfifoat(top, "fifo", 0) == 0);
    CHECK(symlinkat(outside, top, "link-to-directory") == 0);
    CHECK(symlinkat("nowhere", top, "broken-link") == 0);
    CHECK(mkdirat(top, "closed", 0700) == 0);
    CHECK(mkdirat(top, "closed/inside", 0700) == 0);
    CHECK(mkdirat(top, ".evalbox-1", 0700) == 0);
    CHECK(mkdirat(top, ".evalbox-1/inside", 0700) == 0);
    CHECK(fchmodat(top, "closed", 0, 0) == 0);
}

static void
only_names_of_entries_are_removed(int fd, const char *path)
{
    int parent = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *name = strrchr(path, '/') + 1;
    CHECK(parent >= 0);
    CHECK(eb_tree_remove(fd, ".") == -EINVAL);
    CHECK(eb_tree_remove(fd, "") == -EINVAL);
    CHECK(mkdirat(fd, "below", 0700) == 0);
    int below = openat(fd, "below", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(eb_tree_remove(below, "..") == -EINVAL);
    CHECK(eb_tree_remove(parent, path) == -EINVAL);
    CHECK(faccessat(fd, "precious", F_OK, 0) == 0);
    CHECK(eb_tree_remove(parent, name) == 0);
    CHECK(access(path, F_OK) < 0);
    CHECK(eb_tree_remove(parent, name) == 0);
    close(below);
    close(parent);
}

int
main(void)
{
    char inside[] = "/tmp/evalbox-test-tree-XXXXXX";
    char outside[] = "/tmp/evalbox-test-kept-XXXXXX";
    int top = make_top(inside), kept = make_top(outside);
    close(openat(kept, "precious", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    make_deep(top);
    make_wide(top);
    make_odd(top, outside);

    CHECK(eb_tree_clear(top) == 0);
    CHECK(rmdir(inside) == 0);
    CHECK(faccessat(kept, "precious", F_OK, 0) == 0);
    only_names_of_entries_are_removed(kept, outside);

    close(top);
    close(kept);
    puts("tree: ok");
    return 0;
}
