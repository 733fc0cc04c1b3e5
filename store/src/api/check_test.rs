//! Validation of transactions: a table of etcd's rules, and the rule on keys changed twice against its plainest form.

use bytes::Bytes;
use proptest::prelude::*;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use tonic::Code;

use super::txn;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.to_owned().into(), ..Default::default() }))
}

fn delete(key: &str, range_end: &str) -> RequestOp {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn range(key: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.to_owned().into(), ..Default::default() }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure }))
}

const OK: &str = "";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";
const EMPTY: &str = "etcdserver: key is not provided";

#[track_caller]
fn check(success: Vec<RequestOp>, wanted: &str) {
    // The same in either branch.
    for swapped in [false, true] {
        let (success, failure) =
            if swapped { (Vec::new(), success.clone()) } else { (success.clone(), Vec::new()) };
        let request = TxnRequest { compare: Vec::new(), success, failure };
        match txn(&request, 128) {
            Ok(()) => assert_eq!(wanted, OK, "{request:?}"),
            Err(status) => {
                assert_eq!(status.message(), wanted, "{request:?}");
                assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }
}

#[test]
fn a_key_changes_once() {
    check(vec![], OK);
    check(vec![put("a"), put("b"), delete("c", ""), range("a")], OK);
    check(vec![put("a"), put("a")], DUPLICATE);
    check(vec![put("a"), delete("a", "")], DUPLICATE);
    check(vec![delete("a", ""), put("a")], DUPLICATE);
    // A range's end is not part of it; `\0` leaves it open; one that ends before it begins is empty.
    check(vec![put("b"), delete("a", "b")], OK);
    check(vec![put("b"), delete("a", "c")], DUPLICATE);
    check(vec![put("z"), delete("a", "\0")], DUPLICATE);
    check(vec![put("b"), delete("c", "a")], OK);
    check(vec![delete("a", "c"), delete("b", "d")], OK);
    check(vec![delete("a", ""), delete("a", "")], OK);
}

#[test]
fn nested_transactions_count_with_what_stands_beside_them() {
    check(vec![put("a"), nested(vec![put("a")], vec![])], DUPLICATE);
    check(vec![nested(vec![], vec![put("a")]), put("a")], DUPLICATE);
    check(vec![put("a"), nested(vec![delete("a", "")], vec![])], DUPLICATE);
    check(vec![nested(vec![], vec![delete("a", "\0")]), put("b")], DUPLICATE);
    check(vec![delete("a", "c"), nested(vec![put("b")], vec![])], DUPLICATE);
    check(vec![nested(vec![nested(vec![], vec![put("a")])], vec![]), delete("a", "")], DUPLICATE);
    check(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], DUPLICATE);
    check(vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])], DUPLICATE);
    check(vec![nested(vec![delete("a", "")], vec![]), nested(vec![delete("a", "")], vec![])], OK);
    check(vec![nested(vec![put("a")], vec![]), nested(vec![put("b")], vec![])], OK);
}

#[test]
fn the_branches_of_a_transaction_exclude_each_other() {
    let request = TxnRequest {
        success: vec![put("a")],
        failure: vec![put("a"), delete("b", "")],
        ..Default::default()
    };
    assert!(txn(&request, 128).is_ok());
    check(vec![nested(vec![put("a")], vec![put("a")])], OK);
    check(vec![nested(vec![put("a")], vec![delete("a", "")])], OK);
    check(vec![nested(vec![delete("a", "\0")], vec![put("a")]), range("a")], OK);
    check(vec![nested(vec![put("a")], vec![put("a")]), put("a")], DUPLICATE);
}

#[test]
fn keys_are_given() {
    for ops in [vec![put("")], vec![delete("", "a")], vec![range("")], vec![nested(vec![], vec![put("")])]] {
        check(ops, EMPTY);
    }
    let compare = vec![Compare::default()];
    let at = |compare| TxnRequest { compare, ..Default::default() };
    assert_eq!(txn(&at(compare.clone()), 128).unwrap_err().message(), EMPTY);
    check(vec![op(Request::RequestTxn(at(compare)))], EMPTY);
    check(vec![RequestOp { request: None }], "etcdserver: key not found");
    let valued = PutRequest { key: "a".into(), value: "v".into(), ignore_value: true, ..Default::default() };
    check(vec![op(Request::RequestPut(valued))], "etcdserver: value is provided");
    let leased = PutRequest { key: "a".into(), lease: 1, ignore_lease: true, ..Default::default() };
    check(vec![op(Request::RequestPut(leased))], "etcdserver: lease is provided");
    let sorted = RangeRequest { key: "a".into(), sort_order: 9, ..Default::default() };
    check(vec![op(Request::RequestRange(sorted))], "etcdserver: invalid sort option");
}

#[test]
fn each_level_uses_up_operations() {
    let ranges = |count: usize| vec![range("a"); count];
    let with = |compare: usize, success: usize, failure: usize| TxnRequest {
        compare: vec![Compare { key: "a".into(), ..Default::default() }; compare],
        success: ranges(success),
        failure: ranges(failure),
    };
    let over =
        |request: &TxnRequest, most| txn(request, most).err().map(|status| status.message().to_owned());
    for request in [with(3, 0, 0), with(0, 3, 0), with(0, 0, 3), with(3, 3, 3)] {
        assert_eq!(over(&request, 3), None);
        assert_eq!(over(&request, 2).as_deref(), Some(TOO_MANY));
    }
    // Two here, so one is left below.
    let parent = |child: TxnRequest| TxnRequest {
        success: vec![range("a"), op(Request::RequestTxn(child))],
        ..Default::default()
    };
    assert_eq!(over(&parent(with(1, 1, 1)), 3), None);
    assert_eq!(over(&parent(with(0, 2, 0)), 3).as_deref(), Some(TOO_MANY));
    assert_eq!(over(&parent(with(0, 0, 0)), 2), None);
    assert_eq!(over(&parent(parent(with(0, 0, 0))), 4), None);
    assert_eq!(over(&parent(parent(with(1, 0, 0))), 4).as_deref(), Some(TOO_MANY));
}

// ---- the rule in its plainest form

/// Every way through the operations, as the changes in it: (is a put, key, range end).
fn changes<'a>(
    ops: &'a [RequestOp],
    mut ways: Vec<Vec<(bool, &'a [u8], &'a [u8])>>,
) -> Vec<Vec<(bool, &'a [u8], &'a [u8])>> {
    for op in ops {
        match op.request.as_ref().unwrap() {
            Request::RequestPut(put) => {
                ways.iter_mut().for_each(|way| way.push((true, &put.key[..], &[][..])))
            }
            Request::RequestDeleteRange(it) => {
                ways.iter_mut().for_each(|way| way.push((false, &it.key[..], &it.range_end[..])));
            }
            Request::RequestTxn(it) => {
                let other = changes(&it.failure, ways.clone());
                ways = changes(&it.success, ways);
                ways.extend(other);
            }
            Request::RequestRange(_) => {}
        }
    }
    ways
}

/// Whether on any way a key that is put is put again or deleted.
fn changes_twice(ops: &[RequestOp]) -> bool {
    let covers = |(put, key, end): (bool, &[u8], &[u8]), of: &[u8]| match (put, end) {
        (true, _) | (false, []) => key == of,
        (false, [0]) => of >= key,
        (false, end) => key <= of && of < end,
    };
    changes(ops, vec![Vec::new()]).iter().any(|way| {
        let puts = way.iter().enumerate().filter(|(_, (put, ..))| *put);
        puts.into_iter().any(|(at, (_, key, _))| {
            way.iter().enumerate().any(|(other, change)| other != at && covers(*change, key))
        })
    })
}

fn ops() -> impl Strategy<Value = Vec<RequestOp>> {
    let key = || proptest::sample::select(vec!["a", "b", "c", "d", "e"]);
    let end = proptest::sample::select(vec!["", "", "", "\0", "b", "c", "e"]);
    let leaf = prop_oneof![
        3 => key().prop_map(put),
        2 => (key(), end).prop_map(|(key, end)| delete(key, end)),
        1 => key().prop_map(range),
    ];
    let op = leaf.prop_recursive(2, 10, 3, |inner| {
        let ops = || proptest::collection::vec(inner.clone(), 0..3);
        (ops(), ops()).prop_map(|(success, failure)| nested(success, failure))
    });
    proptest::collection::vec(op, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_that_change_twice_are_refused(ops in ops()) {
        let request = TxnRequest { success: ops.clone(), ..Default::default() };
        prop_assert_eq!(txn(&request, 128).is_err(), changes_twice(&ops));
    }
}

/// As many operations as a request may hold cost no more than a moment.
#[test]
fn the_largest_transactions_are_checked_quickly() {
    let mut ops = Vec::new();
    for i in 0..64 {
        let branch = |from: usize| {
            (from..from + 64).map(|j| {
                let key: Bytes = format!("{i}/{j}").into();
                match j % 2 {
                    0 => op(Request::RequestPut(PutRequest { key, ..Default::default() })),
                    _ => op(Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() })),
                }
            })
        };
        ops.push(nested(branch(0).collect(), branch(64).collect()));
    }
    let request = TxnRequest { success: ops, ..Default::default() };
    let started = std::time::Instant::now();
    assert!(txn(&request, 128).is_ok());
    println!("{:?}", started.elapsed());
}
