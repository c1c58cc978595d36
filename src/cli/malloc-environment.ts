/**
 * Settings of glibc's allocator for a server (mallopt(3)); they count only where they stand before the process starts.
 * Loading a network of 45 MB and letting it go leaves 5 to 10 MB behind each time with the defaults, since glibc takes
 * ever larger blocks from its heaps instead of mapping them, and these cannot be given back in pieces: 1.4 GB after 160
 * loads. With a fixed threshold nothing stays (measured by bench/leak.ts). Few arenas: threads that come and go with
 * versions would otherwise leave one each.
 */
export const MALLOC_ENVIRONMENT = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_MMAP_THRESHOLD_: '1048576',
} as const;
