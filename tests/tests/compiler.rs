//! The compiler in use keeps to the language where some versions did not: see `tools/rustc`. Optimised builds only are
//! affected, so it is `make test` that shows it.

use std::hint::black_box;

struct Seen {
    flag: bool,
    count: u64,
}

#[inline(always)]
fn note(seen: &mut Seen, number: u64) -> bool {
    let is_seven = number == 7;
    seen.flag = is_seven;
    seen.count += u64::from(is_seven);
    is_seven
}

#[inline(never)]
fn branch(seen: &mut Seen, number: u64) -> u64 {
    if note(seen, number) { 1 } else { 2 }
}

#[test]
fn a_truth_value_is_kept_when_it_is_branched_on() {
    let mut seen = Seen { flag: false, count: 0 };
    assert_eq!(branch(&mut seen, black_box(7)), 1);
    assert_eq!((seen.flag, seen.count), (true, 1));
    assert_eq!(branch(&mut seen, black_box(8)), 2);
    assert_eq!((seen.flag, seen.count), (false, 1));
}
