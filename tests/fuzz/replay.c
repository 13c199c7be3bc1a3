/* replay.c - a main for the fuzz targets where libFuzzer is not: runs each file of
 * the directories named on the command line through the target once. */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void
replay(int dirfd, const char *name)
{
    struct stat st;
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
    size_t size = (size_t)st.st_size;
    uint8_t *data = exact_copy("", 0);
    data = realloc(data, size + (size == 0));
    REQUIRE(data && read(fd, data, size) == st.st_size);
    close(fd);
    printf("%s\n", name);
    /* Seen even when the next line is the last one. */
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        const struct dirent *entry;
        REQUIRE(folder);
        while ((entry = readdir(folder)))
            if (entry->d_name[0] != '.')
                replay(dirfd(folder), entry->d_name);
        closedir(folder);
    }
    return 0;
}
