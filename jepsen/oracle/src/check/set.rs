//! Sets that only grow: nothing acknowledged is lost, nothing appears that nobody added.

use std::collections::{HashMap, HashSet};

use super::{Verdict, Violation};
use crate::history::{NEVER_NS, OpId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    pub op: OpId,
    /// Unique.
    pub element: u64,
    pub called_ns: u64,
    /// `NEVER_NS` if the outcome is unknown.
    pub returned_ns: u64,
    /// False: it was refused.
    pub may_have_happened: bool,
}

/// A linearizable read of all elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub op: OpId,
    pub elements: Vec<u64>,
    pub called_ns: u64,
    pub returned_ns: u64,
}

/// Judges every read: it has each element once, all that were there for certain, and none that cannot have been. An
/// element is certainly there once its add was acknowledged, or a read that has returned showed it.
pub fn check(adds: &[Add], reads: &[Read]) -> Verdict {
    Verdict::of(check_reads(adds, reads))
}

fn check_reads(adds: &[Add], reads: &[Read]) -> Result<(), Violation> {
    let mut by_element: HashMap<u64, &Add> = HashMap::new();
    for add in adds {
        if let Some(other) = by_element.insert(add.element, add) {
            return Err(Violation::new(
                format!("element {} is added twice", add.element),
                [add.op, other.op],
            ));
        }
    }
    // When each element was known to be there, and by which operation.
    let mut known: HashMap<u64, (u64, OpId)> = HashMap::new();
    let acknowledged = adds.iter().filter(|add| add.may_have_happened && add.returned_ns != NEVER_NS);
    let shown = reads
        .iter()
        .flat_map(|read| read.elements.iter().map(move |&element| (element, read.returned_ns, read.op)));
    for (element, returned_ns, op) in
        acknowledged.map(|add| (add.element, add.returned_ns, add.op)).chain(shown)
    {
        let known = known.entry(element).or_insert((returned_ns, op));
        *known = (*known).min((returned_ns, op));
    }
    for read in reads {
        let elements: HashSet<u64> = read.elements.iter().copied().collect();
        if elements.len() < read.elements.len() {
            return Err(Violation::new("an element is there twice", [read.op]));
        }
        for element in &read.elements {
            let add = by_element.get(element).filter(|add| add.may_have_happened);
            let Some(add) = add else {
                return Err(Violation::new(format!("nobody added {element}"), [read.op]));
            };
            if add.called_ns > read.returned_ns {
                let what = format!("{element} is there before it was added");
                return Err(Violation::new(what, [read.op, add.op]));
            }
        }
        for (element, &(since_ns, op)) in &known {
            if since_ns < read.called_ns && !elements.contains(element) {
                return Err(Violation::new(format!("{element} was lost"), [read.op, op]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Add, Read, check};
    use crate::history::{NEVER_NS, OpId};

    fn add(element: u64, called_ns: u64, returned_ns: u64) -> Add {
        Add { op: OpId(element as u32), element, called_ns, returned_ns, may_have_happened: true }
    }

    fn read(elements: &[u64], called_ns: u64, returned_ns: u64) -> Read {
        Read { op: OpId(99), elements: elements.to_vec(), called_ns, returned_ns }
    }

    fn is_ok(adds: &[Add], reads: &[Read]) -> bool {
        check(adds, reads).is_ok()
    }

    #[test]
    fn acknowledged_elements_stay() {
        let adds = [add(1, 0, 10), add(2, 5, NEVER_NS)];
        assert!(is_ok(&adds, &[read(&[1], 11, 20), read(&[1, 2], 30, 40)]));
        assert!(is_ok(&adds, &[read(&[], 10, 20)]), "it overlaps the add");
        assert!(!is_ok(&adds, &[read(&[], 11, 20)]), "1 is lost");
        assert!(!is_ok(&adds, &[read(&[1, 2], 11, 20), read(&[1], 21, 30)]), "2 was seen");
    }

    #[test]
    fn nothing_comes_from_nowhere() {
        let refused = Add { may_have_happened: false, ..add(3, 0, 10) };
        assert!(!is_ok(&[add(1, 0, 10)], &[read(&[1, 4], 20, 30)]));
        assert!(!is_ok(&[refused], &[read(&[3], 20, 30)]));
        assert!(!is_ok(&[add(1, 31, 40)], &[read(&[1], 20, 30)]));
        assert!(!is_ok(&[add(1, 0, 10)], &[read(&[1, 1], 20, 30)]));
        assert!(!is_ok(&[add(1, 0, 10), add(1, 20, 30)], &[]));
    }
}
