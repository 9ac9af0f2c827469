//! Pin, lookup and unpin never call the allocator.

use pinfold_benches::allocator::{self, Counting};
use pinfold_benches::scene::{Layout, allocator_calls};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_engine_never_allocates() {
    for layout in Layout::samples() {
        assert_eq!(allocator_calls(layout), 0, "{layout:?}");
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocator::calls(|| drop(std::hint::black_box(Box::new(1)))), 2);
}
