/* Every argument that is wrong: an error, and nothing has changed. */
#include "host.h"

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[2 * PINFOLD_ENGINE_SIZE];
static uint64_t table[4096];

#define INVALID PINFOLD_ERR_INVALID_ARGUMENT

static void *off(void *pointer, size_t bytes)
{
    return (unsigned char *)pointer + bytes;
}

static void init(void)
{
    struct pinfold_engine *const none = (void *)&host;
    struct pinfold_engine *engine = none;
    struct pinfold_host_ops good = host_ops(&host), ops;
    const size_t size = PINFOLD_ENGINE_SIZE;

    CHECK_STATUS(pinfold_engine_init(NULL, size, &good, &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(off(memory, 8), size, &good, &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, size - 1, &good, &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, 0, &good, &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, size, NULL, &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, size, off(&good, 4), &engine), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, size, &good, NULL), INVALID);
    CHECK_STATUS(pinfold_engine_init(memory, size, &good, off(table, 4)), INVALID);

#define WRONG(field, value)                                                    \
    do {                                                                       \
        ops = good;                                                            \
        ops.field = value;                                                     \
        CHECK_STATUS(pinfold_engine_init(memory, size, &ops, &engine), INVALID); \
    } while (0)
    WRONG(pin, NULL);
    WRONG(unpin, NULL);
    WRONG(enter, NULL);
    WRONG(leave, NULL);
    WRONG(charge, NULL);
    WRONG(uncharge, NULL);
    WRONG(page_shift, 0);
    WRONG(page_shift, 11);
    WRONG(page_shift, 64);
    WRONG(page_shift, 0x10c);
    WRONG(chunk_order, 64);
    WRONG(chunk_order, 0x101);
    WRONG(size, 0);
    WRONG(size, 4);
    WRONG(size, sizeof ops - 1);
    WRONG(size, 4104);
    WRONG(size, SIZE_MAX);
#undef WRONG
    CHECK(engine == none);
    for (size_t i = 0; i < sizeof memory; i++)
        CHECK(memory[i] == 0);
}

/* What is no engine is noticed: null, misaligned, never made. */
static void no_engine(void)
{
    struct pinfold_engine *const wrong[] = {
        NULL, (void *)(memory + 8), (void *)(memory + PINFOLD_ENGINE_SIZE),
    };
    struct pinfold_region_desc desc = region(0, 4, table, 100);
    struct pinfold_region_id id = {0};
    uint64_t out = 0;

    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(pinfold_region_register(wrong[i], &desc, &id, &out), INVALID);
        CHECK_STATUS(pinfold_region_translate(wrong[i], id, START, &out), INVALID);
        CHECK_STATUS(pinfold_region_mark_dirty(wrong[i], id, START), INVALID);
        CHECK_STATUS(pinfold_region_unregister(wrong[i], id, 0), INVALID);
        CHECK_STATUS(pinfold_engine_fini(wrong[i]), INVALID);
    }
    CHECK(id.raw == 0 && out == 0);
}

static void regions(struct pinfold_engine *engine)
{
    struct pinfold_region_desc good = region(0, 100, table, 4096), desc;
    struct pinfold_region_id id = {5};
    uint64_t need = 6, hpa = 7;

    CHECK_STATUS(pinfold_region_register(engine, NULL, &id, &need), INVALID);
    CHECK_STATUS(pinfold_region_register(engine, off(&good, 4), &id, &need), INVALID);
    CHECK_STATUS(pinfold_region_register(engine, &good, NULL, &need), INVALID);
    CHECK_STATUS(pinfold_region_register(engine, &good, off(&id, 4), &need), INVALID);
    CHECK_STATUS(pinfold_region_register(engine, &good, &id, off(&need, 4)), INVALID);

#define WRONG(field, value)                                                    \
    do {                                                                       \
        desc = good;                                                           \
        desc.field = value;                                                    \
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &need), INVALID); \
    } while (0)
    WRONG(size, 0);
    WRONG(size, sizeof desc - 4);
    WRONG(size, SIZE_MAX);
    WRONG(start, START + 1);
    WRONG(start, UINT64_MAX - 4095);
    WRONG(pages, 0);
    WRONG(pages, UINT64_MAX);
    WRONG(access, 0);
    WRONG(access, 4);
    WRONG(access, 0x101);
    WRONG(flags, 16);
    WRONG(flags, PINFOLD_PIN_LONGTERM | PINFOLD_PIN_PEER_TO_PEER);
    WRONG(flags, 0); /* revocable takes LONGTERM */
    WRONG(revocable, 2);
    WRONG(revocable, UINT32_MAX);
    WRONG(reserved, 1);
    WRONG(table, NULL);
    WRONG(table, off(table, 4));
    WRONG(table_words, UINT64_MAX);
    WRONG(table_words, UINT64_MAX / 8);
    WRONG(table, (void *)(memory + PINFOLD_ENGINE_SIZE - 8)); /* inside the engine */
#undef WRONG
    CHECK(id.raw == 5 && need == 6 && host.calls == 0);

    CHECK_STATUS(pinfold_region_register(engine, &good, &id, &need), PINFOLD_OK);
    /* Table memory belongs to one region. */
    desc = region(200, 4, table + 4000, 96);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &need), PINFOLD_ERR_BUSY);
    CHECK_STATUS(pinfold_region_translate(engine, id, START, NULL), INVALID);
    CHECK_STATUS(pinfold_region_translate(engine, id, START, off(&hpa, 4)), INVALID);
    CHECK_STATUS(pinfold_region_translate(engine, id, 0, &hpa), PINFOLD_ERR_NOT_MAPPED);
    CHECK_STATUS(pinfold_region_translate(engine, id, UINT64_MAX, &hpa), PINFOLD_ERR_NOT_MAPPED);
    CHECK_STATUS(pinfold_region_unregister(engine, id, 2), INVALID);
    CHECK_STATUS(pinfold_region_unregister(engine, id, UINT32_MAX), INVALID);
    CHECK(hpa == 7 && host.pinned == 100);

    /* Table memory that somebody wrote over is noticed, and nothing is lost. */
    uint64_t magic = table[0];
    table[0] = 0;
    CHECK_STATUS(pinfold_region_translate(engine, id, START, &hpa), PINFOLD_ERR_CORRUPT);
    CHECK_STATUS(pinfold_region_mark_dirty(engine, id, START), PINFOLD_ERR_CORRUPT);
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_ERR_CORRUPT);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_ERR_BUSY);
    table[0] = magic;
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);
    check_clean(&host);
}

static void table_words(void)
{
    uint64_t words = 3;

    CHECK_STATUS(pinfold_table_words(START, 1, 12, 12, NULL), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 1, 12, 12, off(&words, 4)), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 0, 12, 12, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START + 1, 1, 12, 12, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START, UINT64_MAX, 12, 12, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 1, 11, 12, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 1, 64, 64, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 1, 12, 11, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(0, 1, 16, 12, &words), INVALID);
    CHECK_STATUS(pinfold_table_words(START, 1, 12, 64, &words), INVALID);
    CHECK(words == 3);
    CHECK_STATUS(pinfold_table_words(START, 1, 12, 12, &words), PINFOLD_OK);
    CHECK(words == HEADER_WORDS + 1);
    CHECK_STATUS(pinfold_table_words(0, 1 << 18, 12, 30, &words), PINFOLD_OK);
    CHECK(words == HEADER_WORDS + 1);
}

static void statuses(void)
{
    for (int32_t status = -14; status <= 0; status++) {
        CHECK(strlen(pinfold_status_str(status)) > 0);
        CHECK(strcmp(pinfold_status_str(status), pinfold_status_str(1)) != 0);
        CHECK((pinfold_status_errno(status) == 0) == (status == 0));
    }
    CHECK(pinfold_status_errno(INT32_MIN) == 22 && pinfold_status_errno(INT32_MAX) == 22);
    CHECK(strcmp(pinfold_status_str(INT32_MIN), pinfold_status_str(1)) == 0);
    CHECK(pinfold_status_errno(PINFOLD_ERR_OVER_LIMIT) == 12);
    CHECK(pinfold_status_errno(PINFOLD_ERR_BUSY) == 16);
    CHECK(pinfold_status_errno(PINFOLD_ERR_NOT_FOUND) == 2);
}

int main(void)
{
    struct pinfold_engine *engine;
    struct pinfold_host_ops ops = host_ops(&host);

    init();
    no_engine();
    CHECK_STATUS(pinfold_engine_init(memory, PINFOLD_ENGINE_SIZE, &ops, &engine), PINFOLD_OK);
    no_engine();
    regions(engine);
    table_words();
    statuses();
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    no_engine();
    return 0;
}
