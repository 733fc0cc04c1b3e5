//! The encoded answer, with no newline. Oddities are etcdctl's: answers about leases are cut to their bare header,
//! that of `lease revoke` cannot be encoded, nor can those about endpoints, which have no message of their own.

use prost::Message;
use proto::etcdserverpb::*;

use super::{Out, Printer};
use crate::exit::{BAD_FEATURE, Exit, Outcome};

pub struct Protobuf;

/// No newline sends a message off, and whoever follows a stream of them must not wait for the next.
fn encode(out: Out, message: &impl Message) -> Outcome {
    out.write_all(&message.encode_to_vec())?;
    Ok(out.flush()?)
}

fn bare_header(out: Out, header: &Option<ResponseHeader>) -> Outcome {
    header.as_ref().map_or(Ok(()), |header| encode(out, header))
}

impl Printer for Protobuf {
    fn format(&self) -> &'static str {
        "protobuf"
    }

    fn get(&self, out: Out, response: &RangeResponse) -> Outcome {
        encode(out, response)
    }

    fn put(&self, out: Out, response: &PutResponse) -> Outcome {
        encode(out, response)
    }

    fn del(&self, out: Out, response: &DeleteRangeResponse) -> Outcome {
        encode(out, response)
    }

    fn txn(&self, out: Out, response: &TxnResponse) -> Outcome {
        encode(out, response)
    }

    fn watch(&self, out: Out, response: &WatchResponse) -> Outcome {
        let kept = WatchResponse {
            header: Some(response.header.unwrap_or_default()),
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            events: response.events.clone(),
            ..Default::default()
        };
        encode(out, &kept)
    }

    fn lease_grant(&self, out: Out, response: &LeaseGrantResponse) -> Outcome {
        bare_header(out, &response.header)
    }

    fn lease_revoke(&self, _: Out, _: i64, response: &LeaseRevokeResponse) -> Outcome {
        let header = response.header.unwrap_or_default();
        let fields = [
            ("cluster_id", i128::from(header.cluster_id)),
            ("member_id", i128::from(header.member_id)),
            ("revision", i128::from(header.revision)),
            ("raft_term", i128::from(header.raft_term)),
        ];
        let set = fields.iter().filter(|(_, value)| *value != 0);
        let shown: String = set.map(|(name, value)| format!("{name}:{value} ")).collect();
        let message =
            format!("marshal unsupported for type clientv3.LeaseRevokeResponse ({{{shown} {{}} [] 0}})");
        Err(Exit::new(BAD_FEATURE, message))
    }

    fn lease_keep_alive(&self, out: Out, response: &LeaseKeepAliveResponse) -> Outcome {
        bare_header(out, &response.header)
    }

    fn lease_time_to_live(&self, out: Out, response: &LeaseTimeToLiveResponse, _: bool) -> Outcome {
        bare_header(out, &response.header)
    }

    fn lease_list(&self, out: Out, response: &LeaseLeasesResponse) -> Outcome {
        bare_header(out, &response.header)
    }

    fn member_list(&self, out: Out, response: &MemberListResponse) -> Outcome {
        encode(out, response)
    }

    fn done(&self, out: Out, _: &str, header: &Option<ResponseHeader>) -> Outcome {
        // All answers that are a header alone have the same encoding.
        encode(out, &AuthEnableResponse { header: *header })
    }

    fn member_added(&self, out: Out, response: &MemberAddResponse) -> Outcome {
        encode(out, response)
    }

    fn members_changed(&self, out: Out, _: &str, response: &MemberListResponse) -> Outcome {
        encode(out, response)
    }

    fn role(&self, out: Out, _: &str, response: &AuthRoleGetResponse) -> Outcome {
        encode(out, response)
    }

    fn roles(&self, out: Out, response: &AuthRoleListResponse) -> Outcome {
        encode(out, response)
    }

    fn user(&self, out: Out, _: &str, response: &AuthUserGetResponse) -> Outcome {
        encode(out, response)
    }

    fn users(&self, out: Out, response: &AuthUserListResponse) -> Outcome {
        encode(out, response)
    }

    fn auth_status(&self, out: Out, response: &AuthStatusResponse) -> Outcome {
        encode(out, response)
    }

    fn downgrade(&self, out: Out, _: &str, response: &DowngradeResponse) -> Outcome {
        encode(out, response)
    }

    fn move_leader(&self, out: Out, _: u64, _: u64, response: &MoveLeaderResponse) -> Outcome {
        encode(out, response)
    }

    fn alarms(&self, out: Out, response: &AlarmResponse) -> Outcome {
        encode(out, response)
    }
}
