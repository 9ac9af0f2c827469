//! The ways through one function: its loops, its longest path, its stack.

mod components;

use std::collections::{BTreeMap, BTreeSet};

use components::components;

use super::isa::{Atomic, Flow, Stack, Step, When, Writes};

/// An instruction that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Bytes from the function's start.
    pub(crate) offset: u64,
    pub(crate) step: Step,
    /// Instructions that may come next, by number. The one that a branch is taken to comes last.
    pub(crate) next: Vec<usize>,
    /// The function that it calls or jumps to, by number.
    pub(crate) calls: Option<usize>,
}

/// A way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    /// Offset of its first instruction.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
}

/// What ends a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It goes round only after a store-conditional lost its reservation. No program can bound that;
    /// it is how these machines change a word in one piece.
    Retry,
    /// Something else; a bound must be stated. Does it change memory in one piece?
    Counted { changes: bool },
    /// It can be entered in several places, so that no bound has a meaning.
    Tangled,
}

type Set = BTreeSet<usize>;

/// The instructions of one function, from its entry on.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) entry: usize,
}

/// Instructions on the longest way, and the loops on all ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Longest {
    pub(crate) steps: u64,
    pub(crate) loops: Vec<Loop>,
}

impl Graph {
    /// The longest way: a counted loop that changes memory, or does not, runs as often as `bound` says, a
    /// retry loop once, and an instruction that calls costs what `callee` says on top.
    pub(crate) fn longest(
        &self,
        bound: &dyn Fn(bool) -> u64,
        callee: impl Fn(usize) -> u64,
    ) -> Longest {
        let all = (0..self.nodes.len()).collect();
        let cost = |at: usize| 1 + self.nodes[at].calls.map_or(0, &callee);
        let mut loops = Vec::new();
        let steps = self.path(&all, self.entry, None, bound, &cost, &mut loops);
        loops.sort_by_key(|found| found.at);
        Longest { steps, loops }
    }

    /// Longest way from `entry` inside `nodes` that does not come back to `cut`.
    fn path(
        &self,
        nodes: &Set,
        entry: usize,
        cut: Option<usize>,
        bound: &dyn Fn(bool) -> u64,
        cost: &dyn Fn(usize) -> u64,
        loops: &mut Vec<Loop>,
    ) -> u64 {
        let next = |at: usize| {
            let inside = move |to: &&usize| nodes.contains(to) && Some(**to) != cut;
            self.nodes[at].next.iter().filter(inside).copied()
        };
        // Each component comes after those that it leads to.
        let mut best: BTreeMap<usize, u64> = BTreeMap::new();
        for component in components(nodes, &next) {
            let after = component
                .iter()
                .flat_map(|&at| next(at))
                .filter(|to| !component.contains(to))
                .filter_map(|to| best.get(&to).copied())
                .max()
                .unwrap_or(0);
            let first = component.first().copied().unwrap_or(entry);
            let alone = component.len() == 1 && next(first).all(|to| to != first);
            let inside = if alone {
                cost(first)
            } else {
                self.round(nodes, &component, entry, cut, bound, cost, loops)
            };
            best.extend(component.iter().map(|&at| (at, inside.saturating_add(after))));
        }
        best.get(&entry).copied().unwrap_or(0)
    }

    /// What a loop costs.
    #[expect(clippy::too_many_arguments, reason = "a step of `path`, with its arguments")]
    fn round(
        &self,
        nodes: &Set,
        component: &Set,
        entry: usize,
        cut: Option<usize>,
        bound: &dyn Fn(bool) -> u64,
        cost: &dyn Fn(usize) -> u64,
        loops: &mut Vec<Loop>,
    ) -> u64 {
        let outside = |at: usize| nodes.contains(&at) && !component.contains(&at);
        let heads: Vec<usize> = component
            .iter()
            .copied()
            .filter(|&head| {
                let comes = |at: usize| outside(at) && self.nodes[at].next.contains(&head);
                head == entry || (Some(head) != cut && (0..self.nodes.len()).any(comes))
            })
            .collect();
        let &[head] = heads.as_slice() else {
            let at = component.first().map_or(0, |&at| self.nodes[at].offset);
            loops.push(Loop { at, kind: Kind::Tangled });
            return component.iter().map(|&at| cost(at)).sum();
        };
        let changes = component.iter().any(|&at| self.changes(at));
        let retry = self.is_retry(component);
        let kind = if retry { Kind::Retry } else { Kind::Counted { changes } };
        loops.push(Loop { at: self.nodes[head].offset, kind });
        let body = self.path(component, head, Some(head), bound, cost, loops);
        if retry { body } else { body.saturating_mul(bound(changes)) }
    }

    /// Whether an instruction changes memory in one piece.
    fn changes(&self, at: usize) -> bool {
        self.nodes[at].step.atomic.as_ref().is_some_and(Atomic::changes_memory)
    }

    /// How many instructions do.
    pub(crate) fn all_changes(&self) -> usize {
        (0..self.nodes.len()).filter(|&at| self.changes(at)).count()
    }

    /// How many instructions store without asking what is there.
    pub(crate) fn all_stores(&self) -> usize {
        self.nodes.iter().filter(|node| node.step.stores).count()
    }

    /// The loop has one reservation and one store by it, of the same word; every way round passes that
    /// store, and goes on only if it failed. A loop around a compare-and-swap is no such loop: the
    /// source wrote it, and must bound it.
    fn is_retry(&self, component: &Set) -> bool {
        let steps = || component.iter().map(|&at| (at, &self.nodes[at]));
        let mut changes = steps()
            .filter(|(_, node)| node.step.atomic.as_ref().is_some_and(Atomic::changes_memory));
        let (Some((at, change)), None) = (changes.next(), changes.next()) else { return false };
        let mut reserved = steps().filter_map(|(_, node)| match &node.step.atomic {
            Some(Atomic::LoadReserved { address }) => Some(address),
            _ => None,
        });
        let (reserved, more) = (reserved.next(), reserved.next());
        let stored = match &change.step.atomic {
            Some(Atomic::StoreConditional { address, .. }) => Some(address),
            _ => None,
        };
        let fits = stored.is_some() && stored == reserved && more.is_none();
        let calls = steps().any(|(_, node)| node.calls.is_some());
        fits && !calls && self.passes(component, at) && self.leaves_when_stored(component, at)
    }

    /// Without `at` there is no way round.
    fn passes(&self, component: &Set, at: usize) -> bool {
        let rest: Set = component.iter().copied().filter(|&other| other != at).collect();
        let next =
            |from: usize| self.nodes[from].next.iter().filter(|to| rest.contains(to)).copied();
        components(&rest, &next).iter().all(|part| {
            part.len() == 1 && part.iter().all(|&alone| next(alone).all(|to| to != alone))
        })
    }

    /// The next branch after `at` tests whether it stored, and leaves the loop if so.
    fn leaves_when_stored(&self, component: &Set, at: usize) -> bool {
        let status = match &self.nodes[at].step.atomic {
            Some(Atomic::StoreConditional { status, .. }) => status.as_deref(),
            _ => None,
        };
        let mut here = at;
        // No way between two instructions is longer than the loop.
        for _ in 0..component.len() {
            let &[next] = self.nodes[here].next.as_slice() else { break };
            here = next;
            let step = &self.nodes[here].step;
            let lost = match (&step.writes, status) {
                (_, None) => step.sets_condition,
                (Writes::Nothing, Some(_)) => false,
                (Writes::Register(register), Some(status)) => register == status,
                (Writes::Anything, Some(_)) => true,
            };
            if lost {
                return false;
            }
        }
        let node = &self.nodes[here];
        let Flow::Branch { when, .. } = &node.step.flow else { return false };
        let &[falls, taken] = node.next.as_slice() else { return false };
        let stored = match (when, status) {
            (When::Equal, None) => taken,
            (When::NotEqual, None) => falls,
            (When::Zero(register), Some(status)) if register == status => taken,
            (When::NotZero(register), Some(status)) if register == status => falls,
            _ => return false,
        };
        !component.contains(&stored)
    }

    /// The most bytes of stack in use on any way; `callee` says what a call takes on top.
    pub(crate) fn stack(&self, callee: impl Fn(usize) -> u64) -> Result<u64, String> {
        let mut depth: BTreeMap<usize, i64> = BTreeMap::from([(self.entry, 0)]);
        let mut open = vec![self.entry];
        let mut most = 0_u64;
        while let Some(at) = open.pop() {
            let node = &self.nodes[at];
            let before = depth.get(&at).copied().unwrap_or(0);
            let after = match node.step.stack {
                Stack::Stays => before,
                Stack::Grows(bytes) => before.saturating_add(bytes),
            };
            if after < 0 {
                return Err(format!("+{:#x}: gives back more stack than it took", node.offset));
            }
            let leaves = match node.step.flow {
                Flow::Return | Flow::ReturnOrNext => true,
                Flow::Jump(_) | Flow::Branch { .. } => node.calls.is_some(),
                Flow::Next | Flow::Call(_) => false,
            };
            if leaves && after != 0 {
                return Err(format!("+{:#x}: leaves with {after} bytes on the stack", node.offset));
            }
            let extra = node.step.below + node.calls.map_or(0, &callee);
            most = most.max(after.max(before).unsigned_abs() + extra);
            for &next in &node.next {
                match depth.insert(next, after) {
                    None => open.push(next),
                    Some(known) if known == after => {}
                    Some(known) => {
                        let offset = self.nodes[next].offset;
                        return Err(format!(
                            "+{offset:#x}: reached with {known} and with {after} bytes on the stack"
                        ));
                    }
                }
            }
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests;
