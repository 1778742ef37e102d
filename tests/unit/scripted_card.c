/* A driver without a card, with the names of NVIDIA's libcuda.so.1 and libnvcuvid.so.1: the card's memory is the
 * machine's own, and a picture is not decoded but known by its bits, from a file of pictures that were decoded before.
 * So libavcodec's whole way to a card and back runs for real: slices, surfaces, order, cropping, copies.
 *
 * SCRIPTED_CARD_PICTURES  file of records: uint32 number of bytes and CRC-32 of the slices with their start codes, bytes
 *                         of a row, rows; then the rows of luma and of chroma
 * SCRIPTED_CARD_FAULT     "refuses": no kind of picture is supported; "breaks": an error at one picture; "lies": that
 *                         picture is grey; "fills up": no memory for frames; "gone": no context any more
 * SCRIPTED_CARD_FAULT_AT  which picture of each decoder, counted from 0
 *
 * Interfaces: FFmpeg/nv-codec-headers, include/ffnvcodec/dynlink_cuda.h and dynlink_cuviddec.h. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scripted_card_unused.h" /* all other functions that libavcodec looks for; each fails */

typedef unsigned long long device_pointer;

enum { OK = 0, OUT_OF_MEMORY = 2, UNKNOWN = 999, DEVICE_MEMORY = 2, BLOCKING_SYNC = 4, ALIGNMENT = 512 };

static int is_fault(const char *name) {
    const char *fault = getenv("SCRIPTED_CARD_FAULT");
    return fault && !strcmp(fault, name);
}

/* libcuda.so.1 */

static int num_users;

int cuInit(unsigned flags) { return OK; }
int cuDeviceGet(int *device, int number) { return *device = number, number ? UNKNOWN : OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = ALIGNMENT, OK; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    return *flags = num_users ? BLOCKING_SYNC : 0, *is_active = num_users > 0, OK;
}
int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) { return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    return is_fault("gone") ? UNKNOWN : (*context = &num_users, num_users++, OK);
}
int cuDevicePrimaryCtxRelease(int device) { return num_users--, OK; }
int cuCtxPushCurrent_v2(void *context) { return OK; }
int cuCtxPopCurrent_v2(void **context) { return *context = &num_users, OK; }
int cuGetErrorName(int error, const char **text) { return *text = "scripted", OK; }
int cuGetErrorString(int error, const char **text) { return *text = "scripted", OK; }
int cuMemAlloc_v2(device_pointer *at, size_t size) {
    return is_fault("fills up") ? OUT_OF_MEMORY : (*at = (device_pointer)(uintptr_t)calloc(1, size), OK);
}
int cuMemFree_v2(device_pointer at) { return free((void *)(uintptr_t)at), OK; }
int cuStreamSynchronize(void *stream) { return OK; }

typedef struct {
    size_t x, y;
    int kind;
    char *host;
    device_pointer device;
    void *array;
    size_t pitch;
} place;

typedef struct {
    place from, to;
    size_t width, height;
} copy;

static char *row_of(const place *p, size_t row) {
    return (p->kind == DEVICE_MEMORY ? (char *)(uintptr_t)p->device : p->host) + (p->y + row) * p->pitch + p->x;
}

int cuMemcpy2DAsync_v2(const copy *c, void *stream) {
    for (size_t row = 0; row < c->height; row++)
        memcpy(row_of(&c->to, row), row_of(&c->from, row), c->width);
    return OK;
}
int cuMemcpy2D_v2(const copy *c) { return cuMemcpy2DAsync_v2(c, NULL); }

/* libnvcuvid.so.1 */

typedef struct {
    int codec, chroma;
    unsigned bits_over_8, reserved[3];
    unsigned char is_supported, num_decoders;
    unsigned short layouts;
    unsigned max_width, max_height, max_macroblocks;
    unsigned short min_width, min_height;
} abilities;

typedef struct {
    unsigned long width, height, num_surfaces;
} wishes; /* the first of them */

typedef struct {
    int macroblocks_wide, macroblocks_high, surface, is_field, is_bottom, is_second;
    unsigned num_bytes;
    const unsigned char *bytes;
} picture; /* the first of its fields */

typedef struct {
    unsigned pitch, height, num_surfaces, num_pictures;
    char **surfaces;
} decoder;

int cuvidGetDecoderCaps(abilities *a) {
    a->is_supported = !is_fault("refuses");
    a->num_decoders = 1;
    a->layouts = 0xffff;
    a->max_width = a->max_height = 4096;
    a->max_macroblocks = 65536;
    a->min_width = a->min_height = 16;
    return OK;
}

static size_t size_of(const decoder *d) { return (size_t)d->pitch * ((d->height + 1) / 2 * 3); }

int cuvidCreateDecoder(decoder **made, const wishes *w) {
    decoder *d = *made = calloc(1, sizeof *d);
    d->pitch = (2 * w->width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    d->height = w->height;
    d->num_surfaces = w->num_surfaces;
    d->surfaces = calloc(d->num_surfaces, sizeof *d->surfaces);
    for (unsigned i = 0; i < d->num_surfaces; i++)
        d->surfaces[i] = calloc(1, size_of(d));
    return OK;
}

int cuvidDestroyDecoder(decoder *d) {
    for (unsigned i = 0; i < d->num_surfaces; i++)
        free(d->surfaces[i]);
    free(d->surfaces);
    free(d);
    return OK;
}

static uint32_t crc_32(const unsigned char *bytes, unsigned size) {
    uint32_t crc = ~0u;
    while (size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static int find(FILE *file, const picture *p, uint32_t record[4]) {
    uint32_t crc = crc_32(p->bytes, p->num_bytes);
    while (fread(record, sizeof *record, 4, file) == 4) {
        if (record[0] == p->num_bytes && record[1] == crc)
            return 1;
        fseek(file, (long)record[2] * (record[3] + (record[3] + 1) / 2), SEEK_CUR);
    }
    return 0;
}

static int show(const decoder *d, char *surface, FILE *file, const uint32_t record[4]) {
    uint32_t row_bytes = record[2], rows = record[3];
    if (row_bytes > d->pitch || rows > d->height)
        return UNKNOWN;
    for (uint32_t row = 0; row < rows + (rows + 1) / 2; row++) {
        size_t at = row < rows ? row : d->height + (row - rows);
        if (fread(surface + at * d->pitch, 1, row_bytes, file) != row_bytes)
            return UNKNOWN;
    }
    return OK;
}

int cuvidDecodePicture(decoder *d, const picture *p) {
    const char *name = getenv("SCRIPTED_CARD_PICTURES"), *at = getenv("SCRIPTED_CARD_FAULT_AT");
    FILE *file = fopen(name ? name : "", "rb");
    uint32_t record[4];
    int is_now = at && atoi(at) == (int)d->num_pictures++, result = UNKNOWN;
    if (!file)
        return UNKNOWN;
    if (!(is_now && is_fault("breaks")) && p->surface >= 0 && p->surface < (int)d->num_surfaces && find(file, p, record))
        result = show(d, d->surfaces[p->surface], file, record);
    if (!result && is_now && is_fault("lies"))
        memset(d->surfaces[p->surface], 128, size_of(d));
    fclose(file);
    return result;
}

int cuvidMapVideoFrame64(decoder *d, int surface, device_pointer *at, unsigned *pitch, void *wishes) {
    return *at = (device_pointer)(uintptr_t)d->surfaces[surface], *pitch = d->pitch, OK;
}
int cuvidUnmapVideoFrame64(decoder *d, device_pointer at) { return OK; }
