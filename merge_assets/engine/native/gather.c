/* Rows of a file brought to other places, for vocabularies in another order: one call instead of one per row. */

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

/* Read pieces of an open file: `length[i]` bytes at `from[i]` to `memory + to[i]`. Returns how many pieces were read whole;
   fewer than `count` if one cannot be. */
__attribute__((visibility("default"))) int64_t read_pieces(
    int32_t file, const int64_t *from, const int64_t *length, const int64_t *to, int64_t count, char *memory
) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t done = 0; done < length[i];) {
            ssize_t got = pread(file, memory + to[i] + done, (size_t)(length[i] - done), from[i] + done);
            if (got <= 0 && !(got < 0 && errno == EINTR)) return i;
            if (got > 0) done += got;
        }
    return count;
}
