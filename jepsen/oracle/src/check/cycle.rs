//! Transactions that append to lists and read them: contradictions in their order, found without any revision.
//!
//! Every element is unique, so a list that is read shows who wrote before whom. From that come the edges of Adya's
//! graph: write-write, write-read, read-write (a read missed what the next writer added), and real time (one returned
//! before the other was called). A cycle is a contradiction; the kinds of its edges name it:
//!
//! | name | edges of the shortest cycle |
//! |---|---|
//! | G0 | write-write only |
//! | G1c | write-write and write-read |
//! | G-single | exactly one read-write |
//! | G2 | several read-write |
//! | …-realtime | the same, and real time was needed |
//!
//! Before that: elements read that were never appended, were appended by what was refused (G1a) or are the middle of a
//! transaction (G1b), elements twice in a list, reads that are no prefix of one another, and transactions that do not
//! see their own appends. A committed append that no read shows comes after all that are shown: what was read later
//! without it is a lost update.
//! Source: K. Kingsbury, P. Alvaro, "Elle: inferring isolation anomalies" (2020).

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Verdict, Violation};
use crate::history::{NEVER_NS, OpId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The operation that decided it.
    pub op: OpId,
    pub called_ns: u64,
    /// `NEVER_NS` if the outcome is unknown.
    pub returned_ns: u64,
    /// False: it was refused, or its guard failed.
    pub may_have_happened: bool,
    /// In the order of execution; of an unknown outcome only the appends.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Append { list: u32, element: u64 },
    Read { list: u32, elements: Vec<u64> },
}

/// Judges all transactions of a run.
pub fn check(txns: &[Txn]) -> Verdict {
    Verdict::of(Lists::of(txns).and_then(|lists| find_cycle(txns, &lists.edges(txns))))
}

type Kinds = u8;
const WRITE_WRITE: Kinds = 1;
const WRITE_READ: Kinds = 2;
const READ_WRITE: Kinds = 4;
const REAL_TIME: Kinds = 8;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: u32,
    to: u32,
    kind: Kinds,
}

/// What is known of each list: who appended what, and the order.
struct Lists {
    writers: HashMap<(u32, u64), Writer>,
    /// The longest read of each list: all others are prefixes of it.
    longest: HashMap<u32, Vec<u64>>,
    /// What transactions read before appending themselves: transaction, list, length.
    reads: Vec<(u32, u32, usize)>,
    /// Committed appends that no read shows.
    unseen: Vec<(u32, u32)>,
}

#[derive(Clone, Copy)]
struct Writer {
    txn: u32,
    /// Its transaction appends no more to this list.
    last: bool,
}

impl Lists {
    fn of(txns: &[Txn]) -> Result<Lists, Violation> {
        let mut lists =
            Lists { writers: HashMap::new(), longest: HashMap::new(), reads: Vec::new(), unseen: Vec::new() };
        lists.learn_writers(txns)?;
        let mut read_by: HashMap<u32, u32> = HashMap::new();
        for (at, txn) in (0..).zip(txns) {
            for (list, elements) in external_reads(txn)? {
                lists.check_read(txns, txn, list, elements)?;
                lists.reads.push((at, list, elements.len()));
                let longest = lists.longest.entry(list).or_default();
                let (short, long) = if elements.len() < longest.len() {
                    (elements, &longest[..])
                } else {
                    (&longest[..], elements)
                };
                if !long.starts_with(short) {
                    let other = read_by.get(&list).map(|&other| txns[other as usize].op);
                    let what = format!("incompatible orders of list {list}: {short:?} and {long:?}");
                    return Err(Violation::new(what, [Some(txn.op), other].into_iter().flatten()));
                }
                if elements.len() > longest.len() {
                    *longest = elements.to_vec();
                    read_by.insert(list, at);
                }
            }
        }
        let seen: HashSet<(u32, u64)> = lists
            .longest
            .iter()
            .flat_map(|(&list, all)| all.iter().map(move |&element| (list, element)))
            .collect();
        let unseen = lists.writers.iter().filter(|(which, writer)| {
            let txn = &txns[writer.txn as usize];
            txn.may_have_happened && txn.returned_ns != NEVER_NS && !seen.contains(which)
        });
        lists.unseen = unseen.map(|(&(list, _), writer)| (writer.txn, list)).collect();
        lists.unseen.sort_unstable();
        Ok(lists)
    }

    fn learn_writers(&mut self, txns: &[Txn]) -> Result<(), Violation> {
        for (at, txn) in (0..).zip(txns) {
            let mut last: HashMap<u32, u64> = HashMap::new();
            for step in &txn.steps {
                let &Step::Append { list, element } = step else { continue };
                let writer = Writer { txn: at, last: true };
                if let Some(other) = self.writers.insert((list, element), writer) {
                    let what = format!("element {element} of list {list} is appended by two transactions");
                    return Err(Violation::new(what, [txn.op, txns[other.txn as usize].op]));
                }
                if let Some(before) = last.insert(list, element) {
                    self.writers.get_mut(&(list, before)).expect("it was inserted").last = false;
                }
            }
        }
        Ok(())
    }

    fn check_read(&self, txns: &[Txn], txn: &Txn, list: u32, elements: &[u64]) -> Result<(), Violation> {
        let mut seen = HashSet::with_capacity(elements.len());
        for &element in elements {
            if !seen.insert(element) {
                return Err(Violation::new(format!("element {element} is in list {list} twice"), [txn.op]));
            }
            let Some(writer) = self.writers.get(&(list, element)) else {
                return Err(Violation::new(format!("nobody appended {element} to list {list}"), [txn.op]));
            };
            let writer = &txns[writer.txn as usize];
            if !writer.may_have_happened {
                let what = format!("G1a: element {element} of list {list} was refused");
                return Err(Violation::new(what, [txn.op, writer.op]));
            }
        }
        if let Some(element) = elements.last() {
            let writer = self.writers[&(list, *element)];
            if !writer.last && txns[writer.txn as usize].op != txn.op {
                let what = format!("G1b: list {list} ends with {element}, the middle of a transaction");
                return Err(Violation::new(what, [txn.op, txns[writer.txn as usize].op]));
            }
        }
        Ok(())
    }

    fn edges(&self, txns: &[Txn]) -> Vec<Edge> {
        let mut edges = Vec::new();
        let mut edge = |from: u32, to: u32, kind: Kinds| {
            if from != to {
                edges.push(Edge { from, to, kind });
            }
        };
        let writer = |list: u32, element: u64| self.writers[&(list, element)].txn;
        for (&list, elements) in &self.longest {
            for pair in elements.windows(2) {
                edge(writer(list, pair[0]), writer(list, pair[1]), WRITE_WRITE);
            }
        }
        let mut unseen: HashMap<u32, Vec<u32>> = HashMap::new();
        for &(txn, list) in &self.unseen {
            unseen.entry(list).or_default().push(txn);
            if let Some(&last) = self.longest.get(&list).and_then(|elements| elements.last()) {
                edge(writer(list, last), txn, WRITE_WRITE);
            }
        }
        for &(txn, list, len) in &self.reads {
            let elements = &self.longest[&list];
            if let Some(last) = len.checked_sub(1) {
                edge(writer(list, elements[last]), txn, WRITE_READ);
            }
            match elements.get(len) {
                Some(&next) => edge(txn, writer(list, next), READ_WRITE),
                None => {
                    for &writer in unseen.get(&list).into_iter().flatten() {
                        edge(txn, writer, READ_WRITE);
                    }
                }
            }
        }
        real_time(txns, &mut edge);
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

/// The reads of other transactions' appends; refuses reads that miss the transaction's own.
fn external_reads(txn: &Txn) -> Result<Vec<(u32, &[u64])>, Violation> {
    let mut own: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut reads = Vec::new();
    for step in &txn.steps {
        match step {
            Step::Append { list, element } => own.entry(*list).or_default().push(*element),
            Step::Read { list, elements } => {
                let own = own.get(list).map_or(&[][..], Vec::as_slice);
                let Some(others) = elements.strip_suffix(own) else {
                    let what = format!("internal: list {list} is {elements:?} after appending {own:?}");
                    return Err(Violation::new(what, [txn.op]));
                };
                reads.push((*list, others));
            }
        }
    }
    Ok(reads)
}

/// Edges from what returned to what was called later, without those that follow from others.
fn real_time(txns: &[Txn], edge: &mut impl FnMut(u32, u32, Kinds)) {
    let mut times: Vec<(u64, bool, u32)> = Vec::with_capacity(2 * txns.len());
    for (at, txn) in (0..).zip(txns) {
        if txn.may_have_happened {
            times.push((txn.called_ns, false, at));
            if txn.returned_ns != NEVER_NS {
                times.push((txn.returned_ns, true, at));
            }
        }
    }
    times.sort_unstable();
    // Returned, and nothing called afterwards has returned yet.
    let mut frontier: Vec<u32> = Vec::new();
    for (_, is_return, at) in times {
        if is_return {
            let called_ns = txns[at as usize].called_ns;
            frontier.retain(|&before| txns[before as usize].returned_ns >= called_ns);
            frontier.push(at);
        } else {
            frontier.iter().for_each(|&before| edge(before, at, REAL_TIME));
        }
    }
}

/// Edges by where they start.
struct Graph {
    edges: Vec<Edge>,
    starts: Vec<u32>,
}

impl Graph {
    /// `edges` are sorted.
    fn new(nodes: usize, edges: Vec<Edge>) -> Graph {
        let mut starts = vec![0; nodes + 1];
        for edge in &edges {
            starts[edge.from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        Graph { edges, starts }
    }

    fn from(&self, node: u32) -> &[Edge] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// The strongly connected parts of more than one node. Tarjan's, with a stack of its own.
    fn knots(&self) -> Vec<Vec<u32>> {
        const NEW: u32 = u32::MAX;
        let nodes = self.starts.len() - 1;
        let (mut index, mut low) = (vec![NEW; nodes], vec![0; nodes]);
        let mut on_stack = vec![false; nodes];
        let (mut stack, mut knots, mut count) = (Vec::new(), Vec::new(), 0);
        for root in 0..nodes as u32 {
            if index[root as usize] != NEW {
                continue;
            }
            let mut calls: Vec<(u32, u32)> = vec![(root, self.starts[root as usize])];
            while let Some((node, next)) = calls.last_mut() {
                let at = *node as usize;
                if index[at] == NEW {
                    (index[at], low[at]) = (count, count);
                    count += 1;
                    stack.push(*node);
                    on_stack[at] = true;
                }
                if *next < self.starts[at + 1] {
                    let to = self.edges[*next as usize].to;
                    *next += 1;
                    if index[to as usize] == NEW {
                        calls.push((to, self.starts[to as usize]));
                    } else if on_stack[to as usize] {
                        low[at] = low[at].min(index[to as usize]);
                    }
                    continue;
                }
                calls.pop();
                if let Some(&(parent, _)) = calls.last() {
                    low[parent as usize] = low[parent as usize].min(low[at]);
                }
                if low[at] == index[at] {
                    let first = stack.iter().rposition(|&it| it as usize == at).expect("it is on the stack");
                    let knot = stack.split_off(first);
                    knot.iter().for_each(|&it| on_stack[it as usize] = false);
                    if knot.len() > 1 {
                        knots.push(knot);
                    }
                }
            }
        }
        knots
    }

    /// The shortest path by edges of `kinds` within `nodes`.
    fn path(&self, from: u32, to: u32, kinds: Kinds, nodes: &HashSet<u32>) -> Option<Vec<Edge>> {
        let mut came: HashMap<u32, Edge> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &edge in self.from(node) {
                if edge.kind & kinds == 0 || !nodes.contains(&edge.to) || came.contains_key(&edge.to) {
                    continue;
                }
                came.insert(edge.to, edge);
                if edge.to == to {
                    let mut path = vec![edge];
                    while path[path.len() - 1].from != from {
                        path.push(came[&path[path.len() - 1].from]);
                    }
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(edge.to);
            }
        }
        None
    }
}

/// Edges from which a cycle is looked for, per knot and kind: the rest of a knot tells nothing new.
const MAX_STARTS: usize = 200;

fn find_cycle(txns: &[Txn], edges: &[Edge]) -> Result<(), Violation> {
    let graph = Graph::new(txns.len(), edges.to_vec());
    let knots = graph.knots();
    let Some(knot) = knots.iter().min_by_key(|knot| knot.len()) else { return Ok(()) };
    let nodes: HashSet<u32> = knot.iter().copied().collect();
    let classes = [
        ("G0", WRITE_WRITE, WRITE_WRITE),
        ("G1c", WRITE_READ, WRITE_WRITE | WRITE_READ),
        ("G-single", READ_WRITE, WRITE_WRITE | WRITE_READ),
        ("G2", READ_WRITE, WRITE_WRITE | WRITE_READ | READ_WRITE),
    ];
    for (suffix, time) in [("", 0), ("-realtime", REAL_TIME)] {
        for (name, first, rest) in classes {
            let starts = knot.iter().flat_map(|&node| graph.from(node));
            let starts =
                starts.filter(|edge| edge.kind == first && nodes.contains(&edge.to)).take(MAX_STARTS);
            let cycles = starts.filter_map(|&start| {
                let back = graph.path(start.to, start.from, rest | time, &nodes)?;
                Some([start].into_iter().chain(back).collect::<Vec<Edge>>())
            });
            if let Some(cycle) = cycles.min_by_key(Vec::len) {
                return Err(describe(txns, &format!("{name}{suffix}"), &cycle));
            }
        }
    }
    let cycle = graph.path(knot[0], knot[0], Kinds::MAX, &nodes).expect("a knot has a cycle");
    Err(describe(txns, "cycle", &cycle))
}

fn describe(txns: &[Txn], name: &str, cycle: &[Edge]) -> Violation {
    let op = |node: u32| txns[node as usize].op;
    let mut what = format!("{name}:");
    for edge in cycle {
        let kind = match edge.kind {
            WRITE_WRITE => "was overwritten by",
            WRITE_READ => "was read by",
            READ_WRITE => "did not see",
            _ => "returned before",
        };
        what += &format!(" {} {kind} {};", op(edge.from).0, op(edge.to).0);
    }
    Violation::new(what, cycle.iter().map(|edge| op(edge.from)))
}
