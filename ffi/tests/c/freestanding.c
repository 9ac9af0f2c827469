/*
 * A program without a C library: what the library needs is all that there is. Exits with 0, or with
 * the number of the check that failed.
 */
#include "pinfold.h"

#define PAGE 4096ull

static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static _Alignas(PINFOLD_REGISTRY_ALIGN) unsigned char registry_memory[PINFOLD_REGISTRY_SIZE];
static _Alignas(PINFOLD_REALMODE_ALIGN) unsigned char view_memory[PINFOLD_REALMODE_SIZE];
static uint64_t table[256];
static uint64_t own[64];
static uint64_t pinned, dirtied;

#if defined(__x86_64__)
static _Noreturn void leave(int code)
{
    __asm__ volatile("syscall" : : "a"(231L), "D"((long)code) : "rcx", "r11", "memory");
    __builtin_unreachable();
}
#elif defined(__aarch64__)
static _Noreturn void leave(int code)
{
    register long number __asm__("x8") = 94;
    register long argument __asm__("x0") = code;
    __asm__ volatile("svc 0" : : "r"(number), "r"(argument) : "memory");
    __builtin_unreachable();
}
#else
#error "exit is not known for this machine"
#endif

_Noreturn void pinfold_host_panic(void)
{
    leave(200);
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((volatile unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, bytes);
    for (size_t i = bytes; i-- > 0;)
        ((volatile unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((volatile unsigned char *)to)[i] = (unsigned char)value;
    return to;
}

int memcmp(const void *left, const void *right, size_t bytes)
{
    const volatile unsigned char *a = left, *b = right;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

static int32_t pin(void *ctx, const struct pinfold_pin_part *part, struct pinfold_run_sink *sink)
{
    (void)ctx;
    pinfold_status status = pinfold_run_sink_push(sink, part->start / PAGE + 0x5000, part->pages);
    if (status == PINFOLD_OK)
        pinned += part->pages;
    return status;
}

static void unpin(void *ctx, const struct pinfold_run *run)
{
    (void)ctx;
    pinned -= run->pages;
    dirtied += run->dirty ? run->pages : 0;
}

static int life(void)
{
    const struct pinfold_host_ops ops = {
        .size = sizeof ops, .page_shift = 12, .pin = pin, .unpin = unpin,
    };
    struct pinfold_region_desc desc = {
        .size = sizeof desc, .start = 0x40000000, .pages = 1024,
        .access = PINFOLD_ACCESS_READ | PINFOLD_ACCESS_WRITE, .flags = PINFOLD_PIN_LONGTERM,
    };
    struct pinfold_engine *engine;
    struct pinfold_region_id id;
    uint64_t need = 0, hpa = 0;

    if (pinfold_engine_init(memory, sizeof memory, &ops, &engine) != PINFOLD_OK)
        return 1;
    /* Two folios: a word each behind the header's eleven. */
    if (pinfold_region_register(engine, &desc, &id, &need) != PINFOLD_ERR_NO_SPACE || need != 13)
        return 2;
    desc.table = table;
    desc.table_words = 256;
    if (pinfold_region_register(engine, &desc, &id, &need) != PINFOLD_OK || pinned != 1024)
        return 3;
    if (pinfold_region_translate(engine, id, 0x40012345, &hpa) != PINFOLD_OK || hpa != 0x45012345)
        return 4;
    if (pinfold_region_mark_dirty(engine, id, 0x40012345) != PINFOLD_OK)
        return 5;
    if (pinfold_engine_fini(engine) != PINFOLD_ERR_BUSY)
        return 6;
    if (pinfold_region_unregister(engine, id, PINFOLD_DIRTY_MARKED) != PINFOLD_OK || pinned != 0)
        return 7;
    if (dirtied != 512)
        return 8;
    if (pinfold_region_translate(engine, id, 0x40012345, &hpa) != PINFOLD_ERR_NOT_FOUND)
        return 9;
    if (pinfold_engine_fini(engine) != PINFOLD_OK || pinfold_version() != PINFOLD_VERSION)
        return 10;
    if (pinfold_status_str(PINFOLD_OK)[0] != 'o' || pinfold_status_errno(PINFOLD_ERR_BUSY) != 16)
        return 11;
    return 0;
}

static void freed(void *ctx, uint64_t *words, uint64_t count)
{
    *(uint64_t *)ctx += words == table ? count : 0;
}

static int registered(void)
{
    const struct pinfold_host_ops ops = {
        .size = sizeof ops, .page_shift = 12, .pin = pin, .unpin = unpin,
    };
    const struct pinfold_area areas[] = {{own, 64}, {table, 256}};
    const struct pinfold_registry_desc what = {
        .size = sizeof what, .start = 0x40000000, .pages = 4, .regions = 2,
        .areas = areas, .area_count = 2, .words = own, .word_count = 64,
    };
    const struct pinfold_region_desc desc = {
        .size = sizeof desc, .start = 0x40001000, .pages = 2,
        .access = PINFOLD_ACCESS_READ | PINFOLD_ACCESS_WRITE, .flags = PINFOLD_PIN_LONGTERM,
        .table = table, .table_words = 256,
    };
    struct pinfold_registered said = {.size = sizeof said};
    struct pinfold_engine *engine;
    struct pinfold_registry *registry;
    const struct pinfold_realmode *view;
    struct pinfold_region_id id;
    struct pinfold_grace grace;
    uint64_t hpa = 0, words = 0;

    if (pinfold_engine_init(memory, sizeof memory, &ops, &engine) != PINFOLD_OK)
        return 21;
    if (pinfold_registry_init(registry_memory, sizeof registry_memory, engine, &what, &registry)
        != PINFOLD_OK)
        return 22;
    if (pinfold_registry_realmode(registry, view_memory, sizeof view_memory, &view) != PINFOLD_OK)
        return 23;
    if (pinfold_registry_register(registry, &desc, &said) != PINFOLD_OK || pinned != 2)
        return 24;
    if (pinfold_realmode_lookup(view, 0x40001234, 8, &id) != PINFOLD_OK || id.raw != said.region.raw)
        return 25;
    if (pinfold_realmode_map_get(view, id) != PINFOLD_OK)
        return 26;
    if (pinfold_realmode_translate(view, id, 0x40002345, 12, &hpa) != PINFOLD_OK
        || hpa != 0x45002345)
        return 27;
    if (pinfold_realmode_mark_dirty(view, id, 0x40002345) != PINFOLD_OK)
        return 28;
    if (pinfold_registry_unregister(registry, id, 0, NULL) != PINFOLD_ERR_BUSY || pinned != 2)
        return 29;
    if (pinfold_realmode_map_put(view, id) != PINFOLD_OK)
        return 30;
    if (pinfold_registry_unregister(registry, id, 0, NULL) != PINFOLD_OK || pinned != 0)
        return 31;
    if (pinfold_realmode_translate(view, id, 0x40002345, 12, &hpa) != PINFOLD_ERR_TOO_HARD)
        return 32;
    if (pinfold_registry_retired(registry, &grace) != PINFOLD_OK
        || pinfold_registry_reclaim(registry, grace, freed, &words) != PINFOLD_OK || words != 256)
        return 33;
    if (pinfold_registry_fini(registry) != PINFOLD_OK || pinfold_engine_fini(engine) != PINFOLD_OK)
        return 34;
    return 0;
}

/* Nobody called _start, so its stack is aligned as no function of C expects. */
#if defined(__x86_64__)
__attribute__((noinline, force_align_arg_pointer))
#endif
static void start(void)
{
    int code = life();
    leave(code ? code : registered());
}

_Noreturn void _start(void)
{
    start();
    __builtin_unreachable();
}
