//! A registry against a plain list: whatever is registered, mapped, removed and reclaimed, in
//! whatever order.

use proptest::prelude::*;

use pinfold_sim::regions::{Outcome, run};

proptest! {
    #[test]
    fn the_registry_says_what_a_list_says(
        head in any::<[u8; 4]>(),
        steps in prop::collection::vec(any::<[u8; 4]>(), 0..80),
    ) {
        let input: Vec<u8> = head.into_iter().chain(steps.into_iter().flatten()).collect();
        let _ = run(&input);
    }
}

/// Scripts of this kind meet everything: each thing happens often.
#[test]
fn the_scripts_are_worth_something() {
    let mut sum = Outcome::default();
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for _ in 0..200 {
        let input: Vec<u8> = (0..400).map(|_| byte()).collect();
        let outcome = run(&input);
        sum.registered += outcome.registered;
        sum.shared += outcome.shared;
        sum.overlapped += outcome.overlapped;
        sum.no_space += outcome.no_space;
        sum.failed += outcome.failed;
        sum.removed += outcome.removed;
        sum.busy += outcome.busy;
        sum.nodes = sum.nodes.max(outcome.nodes);
    }
    let counts = [sum.shared, sum.overlapped, sum.no_space, sum.failed, sum.removed, sum.busy];
    assert!(sum.registered > 1000 && counts.iter().all(|count| *count > 50), "{sum:?}");
    assert!(sum.nodes >= 6, "{sum:?}");
}
