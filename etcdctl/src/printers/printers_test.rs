//! Fixed answers against the bytes etcdctl 3.5.1 prints for them.

use std::io::{self, Write};

use prost::Message;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb::*;
use proto::mvccpb::{Event, KeyValue};

use super::by_name;
use crate::exit::Outcome;

const HEADER: Option<ResponseHeader> = Some(ResponseHeader {
    cluster_id: 324952591200643719,
    member_id: 3319814642761637952,
    revision: 3,
    raft_term: 2,
});
const HEADER_JSON: &str =
    r#"{"cluster_id":324952591200643719,"member_id":3319814642761637952,"revision":3,"raft_term":2}"#;

fn kv(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        lease: 0,
    }
}

fn printed(format: &str, hex: bool, print: impl Fn(&dyn super::Printer, &mut Vec<u8>) -> Outcome) -> String {
    let mut out = Vec::new();
    print(by_name(format, hex).unwrap().as_ref(), &mut out).unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn get() {
    let response = RangeResponse { header: HEADER, kvs: vec![kv("a", "<&>")], count: 1, more: false };
    let get = |format, hex| printed(format, hex, |printer, out| printer.get(out, &response));
    assert_eq!(get("simple", false), "a\n<&>\n");
    assert_eq!(get("simple", true), "\\x61\n\\x3c\\x26\\x3e\n");
    assert_eq!(
        get("json", true),
        format!(
            "{{\"header\":{HEADER_JSON},\"kvs\":[{{\"key\":\"YQ==\",\"create_revision\":2,\"mod_revision\":3,\
             \"version\":2,\"value\":\"PCY+\"}}],\"count\":1}}\n"
        )
    );
    assert_eq!(
        get("fields", false),
        "\"ClusterID\" : 324952591200643719\n\"MemberID\" : 3319814642761637952\n\"Revision\" : 3\n\
         \"RaftTerm\" : 2\n\"Key\" : \"a\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 3\n\"Version\" : 2\n\
         \"Value\" : \"<&>\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n"
    );
    let refused = by_name("table", false).unwrap().get(&mut Vec::new(), &response).unwrap_err();
    assert_eq!(refused.code, 4);
    assert_eq!(refused.message.unwrap(), "table not supported as output format");
}

#[test]
fn txn() {
    let inner = Some(ResponseHeader { revision: 9, ..Default::default() });
    let put = PutResponse { header: inner, prev_kv: Some(kv("a", "1")) };
    let response = TxnResponse {
        header: HEADER,
        succeeded: true,
        responses: vec![ResponseOp { response: Some(response_op::Response::ResponsePut(put)) }],
    };
    let txn = |format| printed(format, false, |printer, out| printer.txn(out, &response));
    assert_eq!(txn("simple"), "SUCCESS\n\nOK\na\n1\n");
    assert_eq!(
        txn("json"),
        format!(
            "{{\"header\":{HEADER_JSON},\"succeeded\":true,\"responses\":[{{\"Response\":{{\"response_put\":\
             {{\"header\":{{\"revision\":9}},\"prev_kv\":{{\"key\":\"YQ==\",\"create_revision\":2,\
             \"mod_revision\":3,\"version\":2,\"value\":\"MQ==\"}}}}}}}}]}}\n"
        )
    );
}

#[test]
fn watch() {
    let delete = Event { r#type: 1, kv: Some(kv("w", "")), prev_kv: Some(kv("w", "2")) };
    let response = WatchResponse { header: HEADER, events: vec![delete], watch_id: 4, ..Default::default() };
    let watch = |format| printed(format, false, |printer, out| printer.watch(out, &response));
    assert_eq!(watch("simple"), "DELETE\nw\n2\nw\n\n");
    let end = WatchResponse { header: HEADER, canceled: true, compact_revision: 2, ..Default::default() };
    let ended = |format, end| printed(format, false, |printer, out| printer.watch(out, end));
    assert!(
        ended("json", &end)
            .ends_with("\"Events\":[],\"CompactRevision\":2,\"Canceled\":true,\"Created\":false}\n")
    );
    let failed = WatchResponse { canceled: true, ..Default::default() };
    assert_eq!(
        ended("json", &failed),
        "{\"Header\":{},\"Events\":null,\"CompactRevision\":0,\"Canceled\":true,\"Created\":false}\n"
    );
    assert_eq!(
        ended("fields", &failed),
        "\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 0\n\"RaftTerm\" : 0\n"
    );
    assert_eq!(ended("protobuf", &failed), "\n\0 \u{1}");
    // The stream's own numbers are not part of what is printed.
    let mut encoded = Vec::new();
    by_name("protobuf", false).unwrap().watch(&mut encoded, &response).unwrap();
    assert_eq!(encoded, WatchResponse { watch_id: 0, ..response }.encode_to_vec());
}

/// A writer that holds back, as standard output does, what does not end with a newline.
#[derive(Default)]
struct Held {
    shown: Vec<u8>,
    held: Vec<u8>,
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.append(&mut self.held);
        Ok(())
    }
}

#[test]
fn messages_without_a_newline_are_not_held_back() {
    let kept_alive = LeaseKeepAliveResponse { header: HEADER, id: 1, ttl: 5 };
    let held = RangeResponse { header: HEADER, kvs: vec![kv("lock/1", "")], count: 1, more: false };
    let mut out = Held::default();
    let printer = by_name("protobuf", false).unwrap();
    printer.lease_keep_alive(&mut out, &kept_alive).unwrap();
    printer.get(&mut out, &held).unwrap();
    assert!(!out.shown.is_empty() && out.held.is_empty());
}

#[test]
fn leases() {
    let gone = LeaseTimeToLiveResponse { header: HEADER, id: 1, ttl: -1, granted_ttl: 0, keys: vec![] };
    let ttl = |format, response: &LeaseTimeToLiveResponse| {
        printed(format, false, |printer, out| printer.lease_time_to_live(out, response, true))
    };
    assert_eq!(ttl("simple", &gone), "lease 0000000000000001 already expired\n");
    assert!(ttl("json", &gone).ends_with("\"id\":1,\"ttl\":-1,\"granted-ttl\":0,\"keys\":null}\n"));
    let alive =
        LeaseTimeToLiveResponse { ttl: 2, granted_ttl: 3, keys: vec!["la".into(), "lb c".into()], ..gone };
    assert_eq!(
        ttl("simple", &alive),
        "lease 0000000000000001 granted with TTL(3s), remaining(2s), attached keys([la lb c])\n"
    );
    assert!(ttl("json", &alive).ends_with("\"keys\":[\"bGE=\",\"bGIgYw==\"]}\n"));
    let list = LeaseLeasesResponse { header: HEADER, leases: vec![LeaseStatus { id: 10 }] };
    assert_eq!(
        printed("simple", false, |printer, out| printer.lease_list(out, &list)),
        "found 1 leases\n000000000000000a\n"
    );
}

#[test]
fn alarms() {
    let alarms = vec![AlarmMember { member_id: 123, alarm: AlarmType::Nospace as i32 }];
    let response = AlarmResponse { header: None, alarms };
    let alarms = |format| printed(format, false, |printer, out| printer.alarms(out, &response));
    assert_eq!(alarms("simple"), "memberID:123 alarm:NOSPACE \n");
    assert_eq!(alarms("json"), "{\"alarms\":[{\"memberID\":123,\"alarm\":1}]}\n");
    assert_eq!(alarms("fields"), "\"MemberID\" : 123\n\"AlarmType\" : NOSPACE\n\n");
}

#[test]
fn roles() {
    let permission = |perm_type: Type, key: &'static str, range_end: &'static str| Permission {
        perm_type: perm_type.into(),
        key: key.into(),
        range_end: range_end.into(),
    };
    let perm = vec![
        permission(Type::Readwrite, "a", ""),
        permission(Type::Read, "a", "b"),
        permission(Type::Write, "c", "e"),
        permission(Type::Read, "f", "\0"),
    ];
    let response = AuthRoleGetResponse { header: HEADER, perm };
    let role = |format| printed(format, false, |printer, out| printer.role(out, "r", &response));
    assert_eq!(
        role("simple"),
        "Role r\nKV Read:\n\ta\n\t[a, b) (prefix a)\n\t[f, <open ended>\nKV Write:\n\ta\n\t[c, e)\n"
    );
    assert!(role("fields").ends_with("\"PermType\" :  READ\n\"Key\" : \"f\"\n\"RangeEnd\" : \"\\x00\"\n"));
    assert!(role("json").starts_with(&format!(
        "{{\"header\":{HEADER_JSON},\"perm\":[{{\"permType\":2,\"key\":\"YQ==\"}},{{\"key\":\"YQ==\","
    )));
    let list = AuthRoleListResponse { header: None, roles: vec!["r".into(), "s".into()] };
    let roles = |format| printed(format, false, |printer, out| printer.roles(out, &list));
    assert_eq!([roles("simple"), roles("fields")], ["r\ns\n", "\"Roles\" : \"r\" \"s\"\n"]);
}

#[test]
fn members() {
    let member = Member { id: 0xe923ec934d1478d, peer_ur_ls: vec!["u".into()], ..Default::default() };
    let added = MemberAddResponse { header: HEADER, member: Some(member.clone()), members: vec![member] };
    let add = |format| printed(format, false, |printer, out| printer.member_added(out, &added));
    // Sixteen columns, filled with blanks: etcdctl's.
    assert_eq!(add("simple"), "Member  e923ec934d1478d added to cluster  48276a8f75b6a87\n");
    let member = "{\"ID\":1049970697026226061,\"peerURLs\":[\"u\"]}";
    assert_eq!(
        add("json"),
        format!("{{\"header\":{HEADER_JSON},\"member\":{member},\"members\":[{member}]}}\n")
    );
    // The answers to all changes have one encoding, whatever their names.
    let header = MemberRemoveResponse { header: HEADER, members: Vec::new() }.encode_to_vec();
    let done = |printer: &dyn super::Printer, out: &mut Vec<u8>| printer.done(out, "", &HEADER);
    assert_eq!(printed("protobuf", false, done), String::from_utf8_lossy(&header));
}
