/*
 * A host in C for the tests: memory in runs of a few frames, laid out backwards, with a pin count
 * for each page; hooks that fail or misbehave on demand.
 */
#ifndef HOST_H
#define HOST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pinfold.h"

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#define CHECK_STATUS(call, expected)                                           \
    do {                                                                       \
        pinfold_status status_ = (call);                                       \
        if (status_ != (expected)) {                                           \
            fprintf(stderr, "%s:%d: %s: %d (%s), not %s\n", __FILE__, __LINE__, \
                    #call, (int)status_, pinfold_status_str(status_), #expected); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#define PAGE UINT64_C(4096)
#define START UINT64_C(0x400000)
#define RUN_ORDER 2
#define RUN (1 << RUN_ORDER)
#define MEMORY_PAGES 2048
#define FIRST_FRAME UINT64_C(0x10000)
#define SPACE UINT64_C(0xfeedface12345678)
#define HOLDER 77u
#define ACCOUNT 99u
/* Words of a table in front of its entries. */
#define HEADER_WORDS 11u

enum misdeed { HONEST, SHORT, TOO_MANY, WRAPS, TOO_HIGH, NO_PAGES, NO_FOLIO, NO_ORDER, SAYS, SAYS_AFTER,
               IGNORES };

struct host {
    uint32_t pins[MEMORY_PAGES];
    uint8_t dirty[MEMORY_PAGES];
    uint64_t pinned;
    uint64_t charged;
    int inside;       /* between enter and leave */
    int entered;
    int calls;        /* of hooks that can fail */
    int fail_at;      /* the call that fails, from one; 0: none */
    int32_t fail_with;
    int failed;       /* whether it did */
    enum misdeed misdeed;
    int32_t says;     /* the answer of the pin hook under SAYS, and after all was reported */
};

static uint64_t frame_of(uint64_t page)
{
    uint64_t run = page / RUN;
    return FIRST_FRAME + (MEMORY_PAGES / RUN - 1 - run) * RUN + page % RUN;
}

static uint64_t page_of(uint64_t frame)
{
    uint64_t run = (frame - FIRST_FRAME) / RUN;
    return (MEMORY_PAGES / RUN - 1 - run) * RUN + (frame - FIRST_FRAME) % RUN;
}

static int fails(struct host *host)
{
    CHECK(host->inside == 0);
    if (++host->calls != host->fail_at)
        return 0;
    host->failed = 1;
    return 1;
}

static void count(struct host *host, uint64_t frame, uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++)
        host->pins[page_of(frame + i)]++;
    host->pinned += pages;
}

static void uncount(struct host *host, uint64_t frame, uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++) {
        CHECK(host->pins[page_of(frame + i)] > 0);
        host->pins[page_of(frame + i)]--;
    }
    host->pinned -= pages;
}

static int32_t host_pin(void *ctx, const struct pinfold_pin_part *part,
                        struct pinfold_run_sink *sink)
{
    struct host *host = ctx;
    uint64_t page = (part->start - START) / PAGE, end = page + part->pages;

    CHECK(part->size == sizeof *part && part->reserved == 0);
    CHECK(part->space == SPACE && part->holder == HOLDER && part->account == ACCOUNT);
    CHECK(part->access == (PINFOLD_ACCESS_READ | PINFOLD_ACCESS_WRITE));
    CHECK(part->flags == PINFOLD_PIN_LONGTERM && part->revocable == 1);
    CHECK(part->pages > 0 && end <= MEMORY_PAGES);
    switch (host->misdeed) {
    case SHORT:
        end--;
        break;
    case TOO_MANY:
        return pinfold_run_sink_push(sink, FIRST_FRAME, part->pages + 1);
    case WRAPS:
        return pinfold_run_sink_push(sink, UINT64_MAX, 2);
    case TOO_HIGH:
        return pinfold_run_sink_push(sink, UINT64_C(1) << 52, 1);
    case NO_PAGES:
        return pinfold_run_sink_push(sink, FIRST_FRAME, 0);
    case NO_FOLIO:
        return pinfold_run_sink_push_indivisible(sink, FIRST_FRAME + 1, 4, 2);
    case NO_ORDER:
        return pinfold_run_sink_push_indivisible(sink, FIRST_FRAME, 1, UINT32_MAX);
    case IGNORES:
        CHECK_STATUS(pinfold_run_sink_push(sink, FIRST_FRAME, UINT64_MAX), PINFOLD_ERR_REFUSED);
        CHECK_STATUS(pinfold_run_sink_push(sink, FIRST_FRAME, 1), PINFOLD_ERR_REFUSED);
        return PINFOLD_OK;
    case SAYS:
        return host->says;
    case SAYS_AFTER:
    case HONEST:
        break;
    }
    while (page < end) {
        uint64_t frame = frame_of(page), pages = RUN - page % RUN;
        if (pages > end - page)
            pages = end - page;
        count(host, frame, pages);
        pinfold_status status = page / RUN % 2
            ? pinfold_run_sink_push(sink, frame, pages)
            : pinfold_run_sink_push_indivisible(sink, frame, pages, RUN_ORDER);
        if (status != PINFOLD_OK) {
            uncount(host, frame, pages);
            return PINFOLD_ERR_REFUSED;
        }
        page += pages;
    }
    if (host->misdeed == SAYS_AFTER)
        return host->says;
    /* Fails only now: all that was accepted must come back. */
    return fails(host) ? host->fail_with : PINFOLD_OK;
}

static void host_unpin(void *ctx, const struct pinfold_run *run)
{
    struct host *host = ctx;

    CHECK(host->inside == 0);
    CHECK(run->size == sizeof *run && run->reserved == 0 && run->pages > 0 && run->dirty <= 1);
    CHECK(frame_of((run->va - START) / PAGE) == run->pfn);
    uncount(host, run->pfn, run->pages);
    for (uint64_t i = 0; i < run->pages; i++)
        host->dirty[page_of(run->pfn + i)] |= (uint8_t)run->dirty;
}

static uint64_t host_enter(void *ctx)
{
    struct host *host = ctx;
    CHECK(host->inside++ == 0);
    return (uint64_t)++host->entered;
}

static void host_leave(void *ctx, uint64_t saved)
{
    struct host *host = ctx;
    CHECK(saved == (uint64_t)host->entered);
    CHECK(--host->inside == 0);
}

static int32_t host_pause(void *ctx, uint64_t done, uint64_t total)
{
    CHECK(done <= total);
    return fails(ctx) ? 1 : 0;
}

static int32_t host_charge(void *ctx, uint32_t account, uint64_t pages)
{
    struct host *host = ctx;
    CHECK(account == ACCOUNT);
    if (fails(host))
        return -1;
    host->charged += pages;
    return 0;
}

static void host_uncharge(void *ctx, uint32_t account, uint64_t pages)
{
    struct host *host = ctx;
    CHECK(account == ACCOUNT && host->charged >= pages);
    host->charged -= pages;
}

static struct pinfold_host_ops host_ops(struct host *host)
{
    struct pinfold_host_ops ops = {
        .size = sizeof ops,
        .ctx = host,
        .page_shift = 12,
        .pin = host_pin,
        .unpin = host_unpin,
        .enter = host_enter,
        .leave = host_leave,
        .pause = host_pause,
        .charge = host_charge,
        .uncharge = host_uncharge,
    };
    return ops;
}

static struct pinfold_region_desc region(uint64_t page, uint64_t pages, uint64_t *table,
                                         uint64_t words)
{
    struct pinfold_region_desc desc = {
        .size = sizeof desc,
        .space = SPACE,
        .start = START + page * PAGE,
        .pages = pages,
        .access = PINFOLD_ACCESS_READ | PINFOLD_ACCESS_WRITE,
        .flags = PINFOLD_PIN_LONGTERM,
        .holder = HOLDER,
        .account = ACCOUNT,
        .revocable = 1,
        .table = table,
        .table_words = words,
    };
    return desc;
}

static void check_clean(const struct host *host)
{
    CHECK(host->pinned == 0 && host->charged == 0 && host->inside == 0);
    for (int i = 0; i < MEMORY_PAGES; i++)
        CHECK(host->pins[i] == 0);
}

#endif
