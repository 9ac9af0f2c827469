/* Ids: gone stale, made up, and more regions than there is room for. */
#include "host.h"

static struct host host;
static _Alignas(PINFOLD_ENGINE_ALIGN) unsigned char memory[PINFOLD_ENGINE_SIZE];
static uint64_t tables[PINFOLD_ENGINE_REGIONS + 1][32];

static void check_gone(struct pinfold_engine *engine, struct pinfold_region_id id)
{
    uint64_t hpa = 1;

    CHECK_STATUS(pinfold_region_translate(engine, id, START, &hpa), PINFOLD_ERR_NOT_FOUND);
    CHECK_STATUS(pinfold_region_mark_dirty(engine, id, START), PINFOLD_ERR_NOT_FOUND);
    CHECK_STATUS(pinfold_region_unregister(engine, id, 0), PINFOLD_ERR_NOT_FOUND);
    CHECK(hpa == 1);
}

int main(void)
{
    struct pinfold_engine *engine;
    struct pinfold_host_ops ops = host_ops(&host);
    struct pinfold_region_id ids[PINFOLD_ENGINE_REGIONS + 1], old;
    struct pinfold_region_desc desc;
    uint64_t hpa;

    CHECK_STATUS(pinfold_engine_init(memory, sizeof memory, &ops, &engine), PINFOLD_OK);
    const uint64_t made_up[] = {0, 1, 2, 63, 64, 255, 256, 257, 1 << 16, UINT64_MAX};
    for (size_t i = 0; i < sizeof made_up / sizeof *made_up; i++)
        check_gone(engine, (struct pinfold_region_id){made_up[i]});

    /* The same slot over and over: no id comes twice, and no old one works. */
    desc = region(0, 8, tables[0], 32);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &old, NULL), PINFOLD_OK);
    for (int i = 0; i < 1000; i++) {
        struct pinfold_region_id id;
        CHECK_STATUS(pinfold_region_unregister(engine, old, 0), PINFOLD_OK);
        check_gone(engine, old);
        CHECK_STATUS(pinfold_region_register(engine, &desc, &id, NULL), PINFOLD_OK);
        CHECK(id.raw != old.raw);
        check_gone(engine, old);
        CHECK_STATUS(pinfold_region_translate(engine, id, START, &hpa), PINFOLD_OK);
        CHECK(hpa == frame_of(0) * PAGE && host.pinned == 8);
        old = id;
    }
    CHECK_STATUS(pinfold_region_unregister(engine, old, 0), PINFOLD_OK);
    check_clean(&host);

    /* As many as there is room for, and one more. */
    for (int i = 0; i <= PINFOLD_ENGINE_REGIONS; i++) {
        desc = region((uint64_t)i * 8, 8, tables[i], 32);
        CHECK_STATUS(pinfold_region_register(engine, &desc, &ids[i], NULL),
                     i < PINFOLD_ENGINE_REGIONS ? PINFOLD_OK : PINFOLD_ERR_OVERFLOW);
        for (int k = 0; k < i && i < PINFOLD_ENGINE_REGIONS; k++)
            CHECK(ids[k].raw != ids[i].raw);
    }
    CHECK(host.pinned == 8 * PINFOLD_ENGINE_REGIONS);
    for (int i = 0; i < PINFOLD_ENGINE_REGIONS; i++) {
        CHECK_STATUS(pinfold_region_translate(engine, ids[i], START + (uint64_t)i * 8 * PAGE, &hpa),
                     PINFOLD_OK);
        CHECK(hpa == frame_of((uint64_t)i * 8) * PAGE);
    }
    /* One goes: its place is free, its id stays dead. */
    CHECK_STATUS(pinfold_region_unregister(engine, ids[17], 0), PINFOLD_OK);
    CHECK_STATUS(pinfold_region_register(engine, &desc, &old, NULL), PINFOLD_OK);
    check_gone(engine, ids[17]);
    ids[17] = old;
    for (int i = 0; i < PINFOLD_ENGINE_REGIONS; i++)
        CHECK_STATUS(pinfold_region_unregister(engine, ids[i], 0), PINFOLD_OK);
    check_clean(&host);
    CHECK_STATUS(pinfold_engine_fini(engine), PINFOLD_OK);
    return 0;
}
