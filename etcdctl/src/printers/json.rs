//! One line of JSON: Go's rendering of clientv3's answers. Wire fields keep the names of the proto files and vanish
//! when zero; fields of clientv3's own structs keep Go's names and always show.

use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;

use super::{EndpointHash, EndpointHealth, EndpointStatus, Out, Printer, took};
use crate::exit::Outcome;
use crate::go::json::{self, Object};

pub struct Json {
    pub hex: bool,
}

fn line(out: Out, fill: impl FnOnce(&mut Object<'_>)) -> Outcome {
    let mut text = String::new();
    json::object(&mut text, fill);
    Ok(writeln!(out, "{text}")?)
}

fn list<T>(out: Out, items: &[T], fill: impl Fn(&mut Object<'_>, &T)) -> Outcome {
    let mut text = String::new();
    json::array(&mut text, items, |text, item| json::object(text, |o| fill(o, item)));
    Ok(writeln!(out, "{text}")?)
}

fn header_fields(o: &mut Object<'_>, header: &ResponseHeader) {
    o.plain_if_set("cluster_id", header.cluster_id);
    o.plain_if_set("member_id", header.member_id);
    o.plain_if_set("revision", header.revision);
    o.plain_if_set("raft_term", header.raft_term);
}

fn header(o: &mut Object<'_>, header: &Option<ResponseHeader>) {
    if let Some(header) = header {
        json::object(o.member("header"), |o| header_fields(o, header));
    }
}

/// Answers about leases hold the header's fields as their own.
fn inline_header(o: &mut Object<'_>, header: &Option<ResponseHeader>) {
    if let Some(header) = header {
        header_fields(o, header);
    }
}

fn pair(out: &mut String, kv: &KeyValue) {
    json::object(out, |o| {
        o.bytes_if_set("key", &kv.key);
        o.plain_if_set("create_revision", kv.create_revision);
        o.plain_if_set("mod_revision", kv.mod_revision);
        o.plain_if_set("version", kv.version);
        o.bytes_if_set("value", &kv.value);
        o.plain_if_set("lease", kv.lease);
    });
}

fn pair_if_set(o: &mut Object<'_>, name: &str, kv: &Option<KeyValue>) {
    if let Some(kv) = kv {
        pair(o.member(name), kv);
    }
}

fn range(o: &mut Object<'_>, response: &RangeResponse) {
    header(o, &response.header);
    o.array_if_set("kvs", &response.kvs, pair);
    o.plain_if_set("more", response.more);
    o.plain_if_set("count", response.count);
}

fn put(o: &mut Object<'_>, response: &PutResponse) {
    header(o, &response.header);
    pair_if_set(o, "prev_kv", &response.prev_kv);
}

fn delete_range(o: &mut Object<'_>, response: &DeleteRangeResponse) {
    header(o, &response.header);
    o.plain_if_set("deleted", response.deleted);
    o.array_if_set("prev_kvs", &response.prev_kvs, pair);
}

fn txn(o: &mut Object<'_>, response: &TxnResponse) {
    header(o, &response.header);
    o.plain_if_set("succeeded", response.succeeded);
    o.array_if_set("responses", &response.responses, response_op);
}

fn response_op(out: &mut String, op: &ResponseOp) {
    json::object(out, |o| {
        let out = o.member("Response");
        match &op.response {
            Some(Response::ResponseRange(inner)) => {
                json::object(out, |o| json::object(o.member("response_range"), |o| range(o, inner)));
            }
            Some(Response::ResponsePut(inner)) => {
                json::object(out, |o| json::object(o.member("response_put"), |o| put(o, inner)));
            }
            Some(Response::ResponseDeleteRange(inner)) => {
                json::object(out, |o| {
                    json::object(o.member("response_delete_range"), |o| delete_range(o, inner))
                });
            }
            Some(Response::ResponseTxn(inner)) => {
                json::object(out, |o| json::object(o.member("response_txn"), |o| txn(o, inner)));
            }
            None => out.push_str("null"),
        }
    });
}

fn event(out: &mut String, event: &proto::mvccpb::Event) {
    json::object(out, |o| {
        o.plain_if_set("type", event.r#type);
        pair_if_set(o, "kv", &event.kv);
        pair_if_set(o, "prev_kv", &event.prev_kv);
    });
}

fn text(out: &mut String, text: &impl AsRef<str>) {
    json::string(out, text.as_ref());
}

fn member(out: &mut String, member: &Member) {
    json::object(out, |o| {
        o.plain_if_set("ID", member.id);
        o.string_if_set("name", &member.name);
        o.array_if_set("peerURLs", &member.peer_ur_ls, text);
        o.array_if_set("clientURLs", &member.client_ur_ls, text);
        o.plain_if_set("isLearner", member.is_learner);
    });
}

fn texts_or_null(o: &mut Object<'_>, name: &str, texts: &[String]) {
    if texts.is_empty() {
        o.member(name).push_str("null");
    } else {
        o.array(name, texts, text);
    }
}

/// With `--hex` ids are strings, learners are not told apart, and one name is spelt in its own way.
fn hex_member(out: &mut String, member: &Member) {
    json::object(out, |o| {
        o.string("ID", &format!("{:x}", member.id));
        o.string("name", &member.name);
        texts_or_null(o, "peerURLs", &member.peer_ur_ls);
        texts_or_null(o, "clientURLS", &member.client_ur_ls);
    });
}

fn hex_header(o: &mut Object<'_>, header: &ResponseHeader) {
    o.string("cluster_id", &format!("{:x}", header.cluster_id));
    o.string("member_id", &format!("{:x}", header.member_id));
    o.plain_if_set("revision", header.revision);
    o.plain_if_set("raft_term", header.raft_term);
}

impl Printer for Json {
    fn format(&self) -> &'static str {
        "json"
    }

    fn get(&self, out: Out, response: &RangeResponse) -> Outcome {
        line(out, |o| range(o, response))
    }

    fn put(&self, out: Out, response: &PutResponse) -> Outcome {
        line(out, |o| put(o, response))
    }

    fn del(&self, out: Out, response: &DeleteRangeResponse) -> Outcome {
        line(out, |o| delete_range(o, response))
    }

    fn txn(&self, out: Out, response: &TxnResponse) -> Outcome {
        line(out, |o| txn(o, response))
    }

    fn watch(&self, out: Out, response: &WatchResponse) -> Outcome {
        line(out, |o| {
            json::object(o.member("Header"), |o| inline_header(o, &response.header));
            match response.header {
                Some(_) => o.array("Events", &response.events, event),
                None => o.member("Events").push_str("null"),
            }
            o.plain("CompactRevision", response.compact_revision);
            o.plain("Canceled", response.canceled);
            o.plain("Created", response.created);
        })
    }

    fn lease_grant(&self, out: Out, response: &LeaseGrantResponse) -> Outcome {
        line(out, |o| {
            inline_header(o, &response.header);
            o.plain("ID", response.id);
            o.plain("TTL", response.ttl);
            o.string("Error", &response.error);
        })
    }

    fn lease_revoke(&self, out: Out, _: i64, response: &LeaseRevokeResponse) -> Outcome {
        line(out, |o| header(o, &response.header))
    }

    fn lease_keep_alive(&self, out: Out, response: &LeaseKeepAliveResponse) -> Outcome {
        line(out, |o| {
            inline_header(o, &response.header);
            o.plain("ID", response.id);
            o.plain("TTL", response.ttl);
        })
    }

    fn lease_time_to_live(&self, out: Out, response: &LeaseTimeToLiveResponse, _: bool) -> Outcome {
        line(out, |o| {
            inline_header(o, &response.header);
            o.plain("id", response.id);
            o.plain("ttl", response.ttl);
            o.plain("granted-ttl", response.granted_ttl);
            if response.keys.is_empty() {
                o.member("keys").push_str("null");
            } else {
                o.array("keys", &response.keys, |out, key| json::bytes(out, key));
            }
        })
    }

    fn lease_list(&self, out: Out, response: &LeaseLeasesResponse) -> Outcome {
        line(out, |o| {
            inline_header(o, &response.header);
            o.array("leases", &response.leases, |out, lease| {
                json::object(out, |o| o.plain("id", lease.id));
            });
        })
    }

    fn member_list(&self, out: Out, response: &MemberListResponse) -> Outcome {
        line(out, |o| {
            if self.hex {
                let header = response.header.unwrap_or_default();
                json::object(o.member("header"), |o| hex_header(o, &header));
                o.array("members", &response.members, hex_member);
            } else {
                header(o, &response.header);
                o.array_if_set("members", &response.members, member);
            }
        })
    }

    fn move_leader(&self, out: Out, _: u64, _: u64, response: &MoveLeaderResponse) -> Outcome {
        line(out, |o| header(o, &response.header))
    }

    fn done(&self, out: Out, _: &str, response: &Option<ResponseHeader>) -> Outcome {
        line(out, |o| header(o, response))
    }

    fn member_added(&self, out: Out, response: &MemberAddResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            if let Some(added) = &response.member {
                member(o.member("member"), added);
            }
            o.array_if_set("members", &response.members, member);
        })
    }

    fn members_changed(&self, out: Out, _: &str, response: &MemberListResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("members", &response.members, member);
        })
    }

    fn role(&self, out: Out, _: &str, response: &AuthRoleGetResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("perm", &response.perm, |out, permission| {
                json::object(out, |o| {
                    o.plain_if_set("permType", permission.perm_type);
                    o.bytes_if_set("key", &permission.key);
                    o.bytes_if_set("range_end", &permission.range_end);
                });
            });
        })
    }

    fn roles(&self, out: Out, response: &AuthRoleListResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("roles", &response.roles, text);
        })
    }

    fn user(&self, out: Out, _: &str, response: &AuthUserGetResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("roles", &response.roles, text);
        })
    }

    fn users(&self, out: Out, response: &AuthUserListResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("users", &response.users, text);
        })
    }

    fn auth_status(&self, out: Out, response: &AuthStatusResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.plain_if_set("enabled", response.enabled);
            o.plain_if_set("authRevision", response.auth_revision);
        })
    }

    fn downgrade(&self, out: Out, _: &str, response: &DowngradeResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.string_if_set("version", &response.version);
        })
    }

    fn alarms(&self, out: Out, response: &AlarmResponse) -> Outcome {
        line(out, |o| {
            header(o, &response.header);
            o.array_if_set("alarms", &response.alarms, |out, alarm| {
                json::object(out, |o| {
                    o.plain_if_set("memberID", alarm.member_id);
                    o.plain_if_set("alarm", alarm.alarm);
                });
            });
        })
    }

    fn endpoint_health(&self, out: Out, endpoints: &[EndpointHealth]) -> Outcome {
        list(out, endpoints, |o, health| {
            o.string("endpoint", &health.endpoint);
            o.plain("health", health.error.is_none());
            o.string("took", &took(health));
            o.string_if_set("error", health.error.as_deref().unwrap_or_default());
        })
    }

    fn endpoint_status(&self, out: Out, endpoints: &[EndpointStatus]) -> Outcome {
        list(out, endpoints, |o, EndpointStatus { endpoint, response }| {
            o.string("Endpoint", endpoint);
            json::object(o.member("Status"), |o| status(o, response));
        })
    }

    fn endpoint_hashes(&self, out: Out, endpoints: &[EndpointHash]) -> Outcome {
        list(out, endpoints, |o, EndpointHash { endpoint, response }| {
            o.string("Endpoint", endpoint);
            json::object(o.member("HashKV"), |o| {
                header(o, &response.header);
                o.plain_if_set("hash", response.hash);
                o.plain_if_set("compact_revision", response.compact_revision);
                o.plain_if_set("hash_revision", response.hash_revision);
            });
        })
    }
}

fn status(o: &mut Object<'_>, response: &StatusResponse) {
    header(o, &response.header);
    o.string_if_set("version", &response.version);
    o.plain_if_set("dbSize", response.db_size);
    o.plain_if_set("leader", response.leader);
    o.plain_if_set("raftIndex", response.raft_index);
    o.plain_if_set("raftTerm", response.raft_term);
    o.plain_if_set("raftAppliedIndex", response.raft_applied_index);
    o.array_if_set("errors", &response.errors, text);
    o.plain_if_set("dbSizeInUse", response.db_size_in_use);
    o.plain_if_set("isLearner", response.is_learner);
    o.string_if_set("storageVersion", &response.storage_version);
    o.plain_if_set("dbSizeQuota", response.db_size_quota);
    if let Some(info) = &response.downgrade_info {
        json::object(o.member("downgradeInfo"), |o| {
            o.plain_if_set("enabled", info.enabled);
            o.string_if_set("targetVersion", &info.target_version);
        });
    }
}
