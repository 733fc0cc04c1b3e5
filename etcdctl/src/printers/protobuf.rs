//! The encoded answer, with no newline. Lease answers but that of `lease revoke` are cut to their bare header, as
//! etcdctl does; answers about endpoints have no message of their own and are not supported.

use prost::Message;
use proto::etcdserverpb::*;

use super::{Out, Printer};
use crate::exit::Outcome;

pub struct Protobuf;

fn encode(out: Out, message: &impl Message) -> Outcome {
    Ok(out.write_all(&message.encode_to_vec())?)
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
            header: response.header,
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

    fn lease_revoke(&self, out: Out, _: i64, response: &LeaseRevokeResponse) -> Outcome {
        encode(out, response)
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

    fn alarms(&self, out: Out, response: &AlarmResponse) -> Outcome {
        encode(out, response)
    }
}
