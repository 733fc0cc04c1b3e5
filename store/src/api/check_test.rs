//! Validation of transactions: a table of etcd's rules, and the rule on keys changed twice against its plainest form.

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
    // etcd overlooks what such an open range covers.
    check(vec![put("z"), delete("a", "\0")], OK);
    check(vec![put("b"), delete("c", "a")], OK);
    check(vec![delete("a", "c"), delete("b", "d")], OK);
    check(vec![delete("a", ""), delete("a", "")], OK);
}

#[test]
fn nested_transactions_count_with_what_stands_beside_them() {
    check(vec![put("a"), nested(vec![put("a")], vec![])], DUPLICATE);
    check(vec![nested(vec![], vec![put("a")]), put("a")], DUPLICATE);
    check(vec![put("a"), nested(vec![delete("a", "")], vec![])], DUPLICATE);
    check(vec![nested(vec![], vec![delete("a", "c")]), put("b")], DUPLICATE);
    check(vec![delete("a", "c"), nested(vec![put("b")], vec![])], DUPLICATE);
    check(vec![nested(vec![nested(vec![], vec![put("a")])], vec![]), delete("a", "")], DUPLICATE);
    check(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], DUPLICATE);
    check(vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])], DUPLICATE);
    check(vec![nested(vec![delete("a", "")], vec![]), nested(vec![delete("a", "")], vec![])], OK);
    // etcd looks back for deletes, not for puts.
    check(vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "c")], vec![])], OK);
    check(
        vec![nested(vec![put("a")], vec![]), nested(vec![], vec![nested(vec![delete("a", "")], vec![])])],
        OK,
    );
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

#[derive(Clone)]
struct Change<'a> {
    /// Place in each list of operations on the way to it.
    path: Vec<usize>,
    put: bool,
    key: &'a [u8],
    range_end: &'a [u8],
}

impl Change<'_> {
    /// A delete that is open above counts for nothing, as with etcd.
    fn covers(&self, key: &[u8]) -> bool {
        match (self.put, self.range_end) {
            (true, _) | (false, []) => self.key == key,
            (false, end) => self.key <= key && key < end,
        }
    }

    /// Both lie in nested transactions side by side, this one in the first.
    fn is_nested_before(&self, other: &Change<'_>) -> bool {
        let level = self.path.iter().zip(&other.path).take_while(|(one, other)| one == other).count();
        let nested = |change: &Change<'_>| change.path.len() > level + 1;
        nested(self) && nested(other) && self.path[level] < other.path[level]
    }
}

/// Appends to every way through the operations before what these change, for each way through them.
fn extend<'a>(ways: Vec<Vec<Change<'a>>>, ops: &'a [RequestOp], above: &[usize]) -> Vec<Vec<Change<'a>>> {
    ops.iter().enumerate().fold(ways, |mut ways, (at, op)| {
        let path = [above, &[at]].concat();
        let change = match op.request.as_ref().unwrap() {
            Request::RequestPut(it) => Change { path, put: true, key: &it.key, range_end: &[] },
            Request::RequestDeleteRange(it) => {
                Change { path, put: false, key: &it.key, range_end: &it.range_end }
            }
            Request::RequestTxn(it) => {
                return [extend(ways.clone(), &it.success, &path), extend(ways, &it.failure, &path)].concat();
            }
            Request::RequestRange(_) => return ways,
        };
        ways.iter_mut().for_each(|way| way.push(change.clone()));
        ways
    })
}

/// Whether on any way a key that is put is put again, or deleted where that is not allowed.
fn changes_twice(ops: &[RequestOp]) -> bool {
    extend(vec![Vec::new()], ops, &[]).iter().any(|way| {
        way.iter().filter(|change| change.put).any(|put| {
            let mut others = way.iter().filter(|other| other.path != put.path && other.covers(put.key));
            others.any(|other| other.put || !put.is_nested_before(other))
        })
    })
}

/// What the API lets through must fit into an entry that every member can decode.
#[test]
fn transactions_nest_as_deep_as_an_entry_can_be_decoded() {
    let deep = |levels: usize| (1..levels).fold(put("a"), |inner, _| nested(vec![inner], vec![]));
    let request = |levels| TxnRequest { success: vec![deep(levels)], ..Default::default() };
    assert_eq!(txn(&request(41), 128).unwrap_err().message(), TOO_MANY);
    let deepest = request(40);
    assert!(txn(&deepest, 128).is_ok());
    let entry = proto::etcdserverpb::InternalRaftRequest { txn: Some(deepest), ..Default::default() };
    let bytes = prost::Message::encode_to_vec(&entry);
    assert!(<proto::etcdserverpb::InternalRaftRequest as prost::Message>::decode(bytes.as_slice()).is_ok());
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
