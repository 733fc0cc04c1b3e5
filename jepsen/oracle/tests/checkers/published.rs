//! Histories whose verdict is known from elsewhere.
//!
//! `JEPSEN_ETCD_000` and `_002` are recorded runs of Jepsen against an early etcd, of which porcupine's tests say that
//! the first is not linearizable and the second is (anishathalye/porcupine, `test_data/jepsen`). They are written here
//! as one word per event: process, then `r`, `w` or `c` for a call with its arguments, `=` with what was read, `.` for
//! done, `!` for a compare-and-set that did not apply, `?` for a time-out.

use oracle::{
    check::{
        Verdict,
        register::{Access, Action, check_one},
    },
    history::{NEVER_NS, OpId, Value},
};

const JEPSEN_ETCD_000: &str = "
    0r 3r 2w4 1w2 4w3 3=- 0=- 4. 1. 2. 3w3 0r 0=3 3. 4r 4=3 1r 1=3 2c30 2. 0w2 3r 0. 3=0 4r 4=2 1c03 2c00 1! 2! 0c21
    3r 3=2 0. 4r 4=1 1r 1=1 2r 2=1 3w0 0c13 3. 4w2 0! 4. 1r 1=2 2c11 2! 3c00 0r 0=2 4w1 3! 1c21 2w2 2. 0c14 3w3 4? 0!
    3. 1? 2w2 9w3 0r 0=3 2. 3c34 3! 6c11 9? 0w1 0. 2c00 2! 3c22 6? 3! 14w4 0c43 0! 2w0 11r 11=2 2. 3w2 3. 14? 0w1
    11c21 2c03 3r 3=2 19r 19=2 0? 11? 2? 3r 3=2 19c13 19. 5w0 16c43 7c12 5. 7! 16! 3c42 3! 19c01 19. 5c40 7c14 16r
    16=1 3c13 3! 5. 7. 19c20 19! 16r 16=0 3r 3=0 5r 7c42 5=0 7! 19c23 19! 16c41 3w4 5w4 7c02 19r 19=0 16? 3? 5? 7?
    19w3 19. 21c20 21! 8w4 10w2 10. 12c44 19w4 21r 21=4 19. 8? 10c01 12? 10! 21c33 21! 19r 19=4 13c22 17c44 13? 17?
    10r 10=1";

const JEPSEN_ETCD_002: &str = "
    4r 4=- 1w1 2c24 3c12 0c14 1. 0! 2. 3. 4w0 4. 1w2 1. 0r 0=2 2c02 3c23 2! 3. 4r 4=3 1w3 1. 0w2 2w0 0. 2. 3c04 3.
    4c34 4! 1w1 0w3 0. 1. 2r 2=3 3r 3=3 4r 4=3 0c43 0! 1c22 2w3 1! 3w2 4w2 4. 0c14 0! 2? 1w3 1. 3? 4c30 4. 0r 0=0
    7c31 1w1 8r 8=3 4c40 1. 0w2 0. 7? 4! 8c40 1w0 1. 0w4 0. 12w4 4r 4=4 8? 1r 1=4 0w2 12? 0. 4c30 4! 13w3 1w0 17r
    0c21 17=3 4w1 13? 1? 0? 17c01 4? 18r 18=3 6w3 5w2 17? 9c22 18w4 6? 5? 22w1 9? 18? 11w3 10c11 22? 14w0 11. 23c44
    14. 10! 23! 27w1 11w2 11. 14c12 10r 10=2 14! 23r 23=0 27? 11w1 11. 10r 10=1 14w2 23c23 32c21 14. 11w4 11. 10c11
    10! 23? 32? 14w4 14. 11c24 11! 10r 10=4 28r 28=0 37w3 37? 14r 14=4";

/// Operations of one register from words as above; the n-th word happens at time n.
fn parse(words: &str) -> Vec<Access> {
    let value = |digit: u8| Value(u32::from(digit - b'0') + 1);
    let mut accesses: Vec<Access> = Vec::new();
    let mut open: Vec<(&str, usize)> = Vec::new();
    for (now_ns, word) in (0..).zip(words.split_whitespace()) {
        let split = word.find(|it: char| !it.is_ascii_digit()).expect("an action");
        let (process, action) = (&word[..split], &word.as_bytes()[split..]);
        let call = match *action {
            [b'r'] => Some(Action::Read(None)),
            [b'w', new] => Some(Action::Write(value(new))),
            [b'c', old, new] => {
                Some(Action::CompareAndSet { old: value(old), new: value(new), succeeded: None })
            }
            _ => None,
        };
        if let Some(action) = call {
            open.push((process, accesses.len()));
            let op = OpId(accesses.len() as u32);
            accesses.push(Access { op, called_ns: now_ns, returned_ns: NEVER_NS, action });
            continue;
        }
        let at = open.iter().position(|(other, _)| *other == process).expect("it was called");
        let access = &mut accesses[open.remove(at).1];
        match (*action).as_ref() {
            [b'?'] => continue,
            [b'=', b'-'] => {}
            [b'=', read] => access.action = Action::Read(Some(value(*read))),
            [result] => {
                if let Action::CompareAndSet { succeeded, .. } = &mut access.action {
                    *succeeded = Some(*result == b'.');
                }
            }
            _ => panic!("{word}"),
        }
        access.returned_ns = now_ns;
    }
    accesses
}

fn is_linearizable(words: &str) -> bool {
    match check_one(&parse(words), 1_000_000) {
        Verdict::Ok => true,
        Verdict::Violation(_) => false,
        Verdict::Unknown { why, .. } => panic!("{why}"),
    }
}

#[test]
fn recorded_runs_of_jepsen() {
    assert!(!is_linearizable(JEPSEN_ETCD_000));
    assert!(is_linearizable(JEPSEN_ETCD_002));
}

/// The two examples of porcupine's description.
#[test]
fn examples_of_porcupine() {
    assert!(is_linearizable("0w1 1r 2r 2=- 1=1 0."));
    assert!(!is_linearizable("0w2 1r 1=2 2r 2=- 0."));
}

/// Figure 1 of Herlihy and Wing, with a register: what returned is seen; what overlaps may be.
#[test]
fn small_ones() {
    assert!(is_linearizable("0w1 0. 1r 1=1"));
    assert!(!is_linearizable("0w1 0. 1r 1=-"));
    assert!(is_linearizable("0w1 1w2 0. 1. 2r 2=1 3r 3=1"));
    assert!(!is_linearizable("0w1 1w2 0. 1. 2r 2=1 3r 3=2"));
    assert!(is_linearizable("0w1 0? 1r 1=- 2r 2=1"));
    assert!(!is_linearizable("0w1 0? 1r 1=1 2r 2=-"));
    assert!(is_linearizable("0w1 0. 1c12 1? 2c13 2! 3r 3=2"));
    assert!(!is_linearizable("0w1 0. 1c12 1? 2c13 2! 3r 3=1"));
    assert!(!is_linearizable("0w1 0. 1c12 2c13 1. 2."));
}
