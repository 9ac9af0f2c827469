//! Pin, lookup and unpin, map and unmap never call the allocator.

use pinfold_arch::{Vtd, Zpci};
use pinfold_benches::allocator::{self, Counting};
use pinfold_benches::mappers::{self, Job};
use pinfold_benches::scene::{BASE, Layout, allocator_calls};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_engine_never_allocates() {
    for layout in Layout::samples() {
        assert_eq!(allocator_calls(layout), 0, "{layout:?}");
    }
}

#[test]
fn mapping_for_a_device_never_allocates() {
    let job = Job::new(16 << 20, BASE);
    assert_eq!(mappers::allocator_calls(Vtd::new(4, 48).unwrap(), job), 0);
    assert_eq!(mappers::allocator_calls(Zpci::new(3).unwrap(), job), 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocator::calls(|| drop(std::hint::black_box(Box::new(1)))), 2);
}
