/* What the files of init share. No C library: raw system calls only. */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#if defined(__x86_64__)
#include "x86_64.h"
#elif defined(__aarch64__)
#include "aarch64.h"
#elif defined(__s390x__)
#include "s390x.h"
#elif defined(__powerpc64__)
#include "powerpc64le.h"
#else
#error "no system call layer for this architecture yet"
#endif

extern u64 page_size, leaf_size;	/* the kernel's base pages, and its huge pages by default */
#define PAGE page_size
#define LEAF leaf_size
#define MIB 0x100000UL
#define NO_DEVICE -19L	/* -ENODEV */
#define ERR(r) ((u64)(r) > -4096UL)

enum { RD = 1, WR = 2, EX = 4, RW = 3 };
enum { SHARED = 1, PRIVATE = 2, FIXED = 0x10, ANON = 0x20, HUGETLB = 0x40000 };
enum { ADV_MERGEABLE = 12, ADV_HUGE = 14, ADV_NOHUGE = 15, ADV_PAGEOUT = 21 };
enum { O_RW = 2, O_CREATE = 0x40 };

/* sys.c: system calls with fewer words */
long open_(const char *path, int flags);
void close_(long fd);
long read_(long fd, void *to, u64 bytes);
long control(long fd, u64 request, const void *argument);
long map(u64 at, u64 bytes, int prot, int flags, long fd, u64 offset);
void advise(u64 at, u64 bytes, int what);
void make_dir(const char *path);
long mount_(const char *what, const char *where, const char *type, const char *options);
void sleep_ms(long ms);
void dirty(u64 at);
void look(u64 at);
void write_file(const char *path, const char *text);
void write_number(const char *path, u64 value);
int there_is(const char *path);
u64 read_number(const char *path);

/* output.c: lines for the host */
extern char text_buffer[0x40000];
u64 length(const char *s);
char *hex(char *end, u64 v);
void open_output(void);
void flush(void);
void put(const char *s);
void put_hex(u64 v);
void warn(const char *what, long error);
void print_text(const char *name, const char *path);
void print_kernel_log(const char *name);

/* regions.c: what was laid out */
struct region {
	const char *name;
	u64 at, pages;
};
#define MAX_REGIONS 64
extern struct region regions[MAX_REGIONS];
extern u64 region_count;
u64 place(void);
u64 place_huge(u64 bytes, u64 align);
void region(const char *name, u64 at, u64 bytes, int in_guest);
u64 map_region(const char *name, u64 at, u64 bytes, int prot, int flags, long fd);
u64 anon(const char *name, u64 pages);

/* guest.c, anonymous.c, files.c: the regions */
void lay_out_guest(void);
extern u64 guest_pool;	/* huge pages that the guest has reserved */
void lay_out_shared_with_child(void);
void lay_out_anonymous(void);
void lay_out_files(void);

/* modules.c */
void load_modules(void);

/* pages.c: what the kernel says of every page */
void touch_buffers(void);
void print_pages_and_frames(void);

/* ask.c: what the kernel answers */
void ask_all(void);

/* uring.c, vfio.c, gup_test.c: who asks. An answer is 0 or a negative errno. */
struct asker {
	const char *name;
	long (*begin)(void);	/* before the first question */
	long (*pin)(int write, u64 at, u64 pages);	/* and unpin at once */
	int can_read;		/* has pins that do not write */
	int can_whole;		/* tells whether all pages of a range were pinned */
};
extern const struct asker uring, vfio, gup_test;
