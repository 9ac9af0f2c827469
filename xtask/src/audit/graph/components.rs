//! Which nodes of a graph lead to each other.

use std::collections::{BTreeMap, BTreeSet};

type Set = BTreeSet<usize>;

/// The search of Tarjan, half done.
struct State {
    /// When a node was first met.
    met: BTreeMap<usize, usize>,
    /// The earliest that it leads back to.
    low: BTreeMap<usize, usize>,
    /// Met, and in no set yet.
    stack: Vec<usize>,
    found: Vec<Set>,
}

/// Sets of `nodes` that lead to each other, each set after those that it leads to.
pub(super) fn components<I: Iterator<Item = usize>>(
    nodes: &Set,
    next: &dyn Fn(usize) -> I,
) -> Vec<Set> {
    let mut state =
        State { met: BTreeMap::new(), low: BTreeMap::new(), stack: Vec::new(), found: Vec::new() };
    for &at in nodes {
        if !state.met.contains_key(&at) {
            visit(at, nodes, next, &mut state);
        }
    }
    state.found
}

fn visit<I: Iterator<Item = usize>>(
    at: usize,
    nodes: &Set,
    next: &dyn Fn(usize) -> I,
    state: &mut State,
) {
    let number = state.met.len();
    state.met.insert(at, number);
    state.stack.push(at);
    let mut low = number;
    for to in next(at).filter(|to| nodes.contains(to)) {
        if !state.met.contains_key(&to) {
            visit(to, nodes, next, state);
            low = low.min(state.low.get(&to).copied().unwrap_or(low));
        } else if state.stack.contains(&to) {
            low = low.min(state.met.get(&to).copied().unwrap_or(low));
        }
    }
    state.low.insert(at, low);
    if low == number {
        let from = state.stack.iter().rposition(|&other| other == at).unwrap_or(0);
        state.found.push(state.stack.drain(from..).collect());
    }
}
