//! What the entries of a log ask for, in one line each and as protobuf's text has it; long values are cut short, and
//! passwords are left out.
//!
//! Up to 3.5 an entry may also hold a request of the v2 store; it is one if it is no request of the v3 kind.
//! Source: etcd `tools/etcd-dump-logs`.

use std::fmt::Write as _;

use prost::Message;
use proto::{
    etcdserverpb::{InternalRaftRequest, Request, RequestOp, TxnRequest, request_op},
    raftpb::{ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType},
};

/// Bytes of a key or value that are shown.
const SHOWN_BYTES: usize = 256;

/// An entry, decoded.
pub enum Content {
    Change(Result<ConfChange, prost::DecodeError>),
    Joint(Result<ConfChangeV2, prost::DecodeError>),
    V3(Box<InternalRaftRequest>),
    V2(Box<Request>),
    Unknown,
}

/// The kinds of entries that can be asked for.
pub const KINDS: [&str; 12] = [
    "ConfigChange",
    "Normal",
    "Request",
    "InternalRaftRequest",
    "IRRRange",
    "IRRPut",
    "IRRDeleteRange",
    "IRRTxn",
    "IRRCompaction",
    "IRRLeaseGrant",
    "IRRLeaseRevoke",
    "IRRLeaseCheckpoint",
];

impl Content {
    pub fn decode(entry: &Entry) -> Content {
        let data = entry.data.clone().unwrap_or_default();
        match EntryType::try_from(entry.r#type) {
            Ok(EntryType::EntryConfChange) => Content::Change(ConfChange::decode(data)),
            Ok(EntryType::EntryConfChangeV2) => Content::Joint(ConfChangeV2::decode(data)),
            Ok(EntryType::EntryNormal) => match InternalRaftRequest::decode(data.clone()) {
                Ok(request) => Content::V3(Box::new(request)),
                Err(_) => Request::decode(data).map_or(Content::Unknown, |it| Content::V2(Box::new(it))),
            },
            Err(_) => Content::Unknown,
        }
    }

    /// Whether it is of one of `KINDS`.
    pub fn is(&self, kind: &str) -> bool {
        match (self, kind) {
            (Content::Change(_) | Content::Joint(_), kind) => kind == "ConfigChange",
            (_, "Normal") => true,
            (Content::V2(_), kind) => kind == "Request",
            (Content::V3(request), kind) => match kind {
                "InternalRaftRequest" => true,
                "IRRRange" => request.range.is_some(),
                "IRRPut" => request.put.is_some(),
                "IRRDeleteRange" => request.delete_range.is_some(),
                "IRRTxn" => request.txn.is_some(),
                "IRRCompaction" => request.compaction.is_some(),
                "IRRLeaseGrant" => request.lease_grant.is_some(),
                "IRRLeaseRevoke" => request.lease_revoke.is_some(),
                "IRRLeaseCheckpoint" => request.lease_checkpoint.is_some(),
                _ => false,
            },
            (Content::Unknown, _) => false,
        }
    }

    /// Kind and contents, parted by a tab.
    pub fn describe(&self) -> String {
        match self {
            Content::Change(Ok(change)) => {
                let method = ConfChangeType::try_from(change.r#type);
                let method = method.map_or("???", |it| it.as_str_name());
                format!("conf\tmethod={method} id={:x}", change.node_id)
            }
            Content::Joint(Ok(change)) => {
                let singles = change.changes.iter().map(|single| {
                    let method = ConfChangeType::try_from(single.r#type);
                    format!("method={} id={:x}", method.map_or("???", |it| it.as_str_name()), single.node_id)
                });
                format!("conf\t{}", singles.collect::<Vec<_>>().join(" "))
            }
            Content::Change(Err(_)) | Content::Joint(Err(_)) => "conf\t???".into(),
            Content::V3(request) => format!("norm\t{}", v3(request)),
            Content::V2(request) => format!("norm\t{}", v2(request)),
            Content::Unknown => "norm\t???".into(),
        }
    }
}

fn v2(request: &Request) -> String {
    let (path, value) = (quoted(request.path.as_bytes()), quoted(request.val.as_bytes()));
    match request.method.as_str() {
        "" => "noop".into(),
        "SYNC" => format!("method=SYNC time={}", request.time),
        "QGET" | "DELETE" => format!("method={} path={path}", request.method),
        method => format!("method={method} path={path} val={value}"),
    }
}

/// Go's `%q` of the beginning, and how much there is if that is not all.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let mut text = String::from("\"");
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    let _ = write!(text, "\\x{:02x}", c as u32);
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    if shown.len() < bytes.len() {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

/// Fields of a message; those that are zero are left out.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn number(mut self, name: &str, value: impl Into<i128>) -> Fields {
        let value = value.into();
        if value != 0 {
            self.0.push(format!("{name}:{value}"));
        }
        self
    }

    fn bytes(mut self, name: &str, value: &[u8]) -> Fields {
        if !value.is_empty() {
            self.0.push(format!("{name}:{}", quoted(value)));
        }
        self
    }

    fn message(mut self, name: &str, value: Option<Fields>) -> Fields {
        if let Some(fields) = value {
            self.0
                .push(format!("{name}:<{}>", fields.0.iter().map(|it| format!("{it} ")).collect::<String>()));
        }
        self
    }
}

fn v3(request: &InternalRaftRequest) -> String {
    let r = request;
    let empty = |is_some: bool| is_some.then(Fields::default);
    let user = |name: &str| Fields::default().bytes("name", name.as_bytes());
    let fields = Fields::default()
        .message(
            "header",
            r.header.as_ref().map(|it| {
                Fields::default()
                    .number("ID", it.id)
                    .bytes("username", it.username.as_bytes())
                    .number("auth_revision", it.auth_revision)
            }),
        )
        .number("ID", r.id)
        .message("range", r.range.as_ref().map(range))
        .message("put", r.put.as_ref().map(put))
        .message("delete_range", r.delete_range.as_ref().map(delete_range))
        .message("txn", r.txn.as_ref().map(txn))
        .message(
            "compaction",
            r.compaction
                .map(|it| Fields::default().number("revision", it.revision).number("physical", it.physical)),
        )
        .message(
            "lease_grant",
            r.lease_grant.map(|it| Fields::default().number("TTL", it.ttl).number("ID", it.id)),
        )
        .message("lease_revoke", r.lease_revoke.map(|it| Fields::default().number("ID", it.id)))
        .message(
            "lease_checkpoint",
            r.lease_checkpoint.as_ref().map(|it| {
                it.checkpoints.iter().fold(Fields::default(), |fields, it| {
                    let one = Fields::default().number("ID", it.id).number("remaining_TTL", it.remaining_ttl);
                    fields.message("checkpoints", Some(one))
                })
            }),
        )
        .message(
            "alarm",
            r.alarm.map(|it| {
                Fields::default()
                    .number("action", it.action)
                    .number("memberID", it.member_id)
                    .number("alarm", it.alarm)
            }),
        )
        .message("auth_enable", empty(r.auth_enable.is_some()))
        .message("auth_disable", empty(r.auth_disable.is_some()))
        .message("authenticate", r.authenticate.as_ref().map(|it| user(&it.name)))
        .message("auth_user_add", r.auth_user_add.as_ref().map(|it| user(&it.name)))
        .message("auth_user_delete", r.auth_user_delete.as_ref().map(|it| user(&it.name)))
        .message("auth_user_change_password", r.auth_user_change_password.as_ref().map(|it| user(&it.name)))
        .message(
            "auth_user_grant_role",
            r.auth_user_grant_role.as_ref().map(|it| {
                Fields::default().bytes("user", it.user.as_bytes()).bytes("role", it.role.as_bytes())
            }),
        )
        .message(
            "auth_user_revoke_role",
            r.auth_user_revoke_role.as_ref().map(|it| user(&it.name).bytes("role", it.role.as_bytes())),
        )
        .message("auth_role_add", r.auth_role_add.as_ref().map(|it| user(&it.name)))
        .message(
            "auth_role_delete",
            r.auth_role_delete.as_ref().map(|it| Fields::default().bytes("role", it.role.as_bytes())),
        )
        .message("auth_role_grant_permission", r.auth_role_grant_permission.as_ref().map(|it| user(&it.name)))
        .message(
            "auth_role_revoke_permission",
            r.auth_role_revoke_permission.as_ref().map(|it| {
                Fields::default()
                    .bytes("role", it.role.as_bytes())
                    .bytes("key", &it.key)
                    .bytes("range_end", &it.range_end)
            }),
        )
        .message(
            "cluster_version_set",
            r.cluster_version_set.as_ref().map(|it| Fields::default().bytes("ver", it.ver.as_bytes())),
        )
        .message(
            "cluster_member_attr_set",
            r.cluster_member_attr_set.as_ref().map(|it| {
                let attributes = it.member_attributes.as_ref().map(|it| {
                    it.client_urls
                        .iter()
                        .fold(user(&it.name), |fields, url| fields.bytes("client_urls", url.as_bytes()))
                });
                Fields::default().number("member_ID", it.member_id).message("member_attributes", attributes)
            }),
        )
        .message(
            "downgrade_info_set",
            r.downgrade_info_set
                .as_ref()
                .map(|it| Fields::default().number("enabled", it.enabled).bytes("ver", it.ver.as_bytes())),
        )
        .message(
            "downgrade_version_test",
            r.downgrade_version_test.as_ref().map(|it| Fields::default().bytes("ver", it.ver.as_bytes())),
        );
    fields.0.join(" ")
}

fn range(it: &proto::etcdserverpb::RangeRequest) -> Fields {
    let fields = Fields::default().bytes("key", &it.key).bytes("range_end", &it.range_end);
    fields.number("limit", it.limit).number("revision", it.revision)
}

fn put(it: &proto::etcdserverpb::PutRequest) -> Fields {
    Fields::default().bytes("key", &it.key).bytes("value", &it.value).number("lease", it.lease)
}

fn delete_range(it: &proto::etcdserverpb::DeleteRangeRequest) -> Fields {
    Fields::default().bytes("key", &it.key).bytes("range_end", &it.range_end)
}

fn txn(it: &TxnRequest) -> Fields {
    let compares = it.compare.iter().fold(Fields::default(), |fields, compare| {
        let one = Fields::default()
            .number("result", compare.result)
            .number("target", compare.target)
            .bytes("key", &compare.key)
            .bytes("range_end", &compare.range_end);
        fields.message("compare", Some(one))
    });
    let branch = |fields, (name, ops): (&str, &Vec<RequestOp>)| {
        ops.iter().fold(fields, |fields: Fields, it| fields.message(name, it.request.as_ref().map(op)))
    };
    [("success", &it.success), ("failure", &it.failure)].into_iter().fold(compares, branch)
}

fn op(it: &request_op::Request) -> Fields {
    use request_op::Request::*;
    match it {
        RequestRange(it) => Fields::default().message("request_range", Some(range(it))),
        RequestPut(it) => Fields::default().message("request_put", Some(put(it))),
        RequestDeleteRange(it) => Fields::default().message("request_delete_range", Some(delete_range(it))),
        RequestTxn(it) => Fields::default().message("request_txn", Some(txn(it))),
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{AuthUserAddRequest, PutRequest};

    use super::*;

    fn entry(entry_type: EntryType, data: Vec<u8>) -> Content {
        Content::decode(&Entry { r#type: entry_type as i32, term: 1, index: 1, data: Some(data.into()) })
    }

    #[test]
    fn entries_are_described() {
        let put =
            PutRequest { key: "a\n".into(), value: vec![b'v'; 300].into(), lease: 7, ..Default::default() };
        let request = InternalRaftRequest { id: 9, put: Some(put), ..Default::default() };
        let content = entry(EntryType::EntryNormal, request.encode_to_vec());
        let value = "v".repeat(256);
        let text = format!("norm\tID:9 put:<key:\"a\\n\" value:\"{value}\"... (300 bytes) lease:7 >");
        assert_eq!(content.describe(), text);
        assert!(
            content.is("IRRPut")
                && content.is("Normal")
                && !content.is("IRRTxn")
                && !content.is("ConfigChange")
        );

        let change = ConfChange { node_id: 0x8e9e, ..Default::default() };
        let content = entry(EntryType::EntryConfChange, change.encode_to_vec());
        assert_eq!(content.describe(), "conf\tmethod=ConfChangeAddNode id=8e9e");
        assert!(content.is("ConfigChange") && !content.is("Normal"));
        assert_eq!(entry(EntryType::EntryConfChange, vec![0xff]).describe(), "conf\t???");
        assert_eq!(entry(EntryType::EntryNormal, vec![0xff]).describe(), "norm\t???");
        assert_eq!(entry(EntryType::EntryNormal, Vec::new()).describe(), "norm\t");
    }

    #[test]
    fn requests_of_the_v2_store_are_told_apart() {
        let request = Request {
            id: 1,
            method: "PUT".into(),
            path: "/0/version".into(),
            val: "3.5.0".into(),
            ..Default::default()
        };
        let content = entry(EntryType::EntryNormal, request.encode_to_vec());
        assert_eq!(content.describe(), "norm\tmethod=PUT path=\"/0/version\" val=\"3.5.0\"");
        assert!(content.is("Request") && content.is("Normal") && !content.is("InternalRaftRequest"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let user = AuthUserAddRequest { name: "u".into(), password: "secret".into(), ..Default::default() };
        let request = InternalRaftRequest { auth_user_add: Some(user), ..Default::default() };
        let content = entry(EntryType::EntryNormal, request.encode_to_vec());
        assert_eq!(content.describe(), "norm\tauth_user_add:<name:\"u\" >");
    }
}
