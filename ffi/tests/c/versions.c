/* Structures of programs that were built against an older or a newer header. */
#include <stddef.h>

#include "host.h"

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static uint64_t table[4096];

/* A life with hooks up to `size`; what lies beyond must not be looked at. */
static void older(size_t size)
{
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_desc desc = region(0, 700, table, 4096);
    struct pinfold_engine *engine;
    struct pinfold_region_id id;
    uint64_t hpa;

    ops.size = size;
    memset((char *)&ops + size, 0xa5, sizeof ops - size);
    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_OK);
    CHECK(host.pinned == 700);
    CHECK_STATUS(pinfold_region_translate(engine, id, START + PAGE, &hpa), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_mark_dirty(engine, id, START), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);
    check_clean(&host);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
}

int main(void)
{
    const size_t required = offsetof(struct pinfold_host_ops, enter);
    struct {
        struct pinfold_host_ops ops;
        uint64_t more[4];
    } newer = {.ops = host_ops(&host)};
    struct {
        struct pinfold_region_desc desc;
        uint64_t more[2];
    } newer_desc = {.desc = region(0, 4, table, 100)};
    struct pinfold_engine *engine;
    struct pinfold_region_id id;

    older(required);
    CHECK(host.calls == 2); /* 700 pages are two parts; nobody asked for a charge or a pause */
    older(offsetof(struct pinfold_host_ops, pause));
    CHECK(host.entered > 0);
    older(offsetof(struct pinfold_host_ops, charge));
    older(offsetof(struct pinfold_host_ops, step));
    older(sizeof(struct pinfold_host_ops));

    /* Shorter than what is required, and cut between two that belong together. */
    static const size_t too_short[] = {
        8, 16, 24, offsetof(struct pinfold_host_ops, unpin),
        offsetof(struct pinfold_host_ops, leave), offsetof(struct pinfold_host_ops, uncharge),
    };
    for (size_t i = 0; i < sizeof too_short / sizeof *too_short; i++) {
        struct pinfold_host_ops ops = host_ops(&host);
        ops.size = too_short[i];
        CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine),
                     PINFOLD_ERR_INVALID_ARGUMENT);
    }

    /* A newer program: fine as long as it does not use what this library does not know. */
    newer.ops.size = sizeof newer;
    newer.more[3] = 1;
    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &newer.ops, &engine),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    newer.more[3] = 0;
    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &newer.ops, &engine), PINFOLD_OK);
    newer_desc.desc.size = sizeof newer_desc;
    newer_desc.more[0] = 1;
    CHECK_STATUS(pinfold_region_register(engine, &newer_desc.desc, &id, NULL),
                 PINFOLD_ERR_INVALID_ARGUMENT);
    newer_desc.more[0] = 0;
    CHECK_STATUS(pinfold_region_register(engine, &newer_desc.desc, &id, NULL), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_OK);

    /* A descriptor that ends before the table only measures. */
    uint64_t need = 0;
    struct pinfold_region_desc desc = region(0, 4, table, 100);
    desc.size = offsetof(struct pinfold_region_desc, table);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &id, &need), PINFOLD_ERR_NO_SPACE);
    CHECK(need == HEADER_WORDS + 4);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    check_clean(&host);
    return 0;
}
