//! Output formats. A printer turns one answer into bytes on a writer and knows neither connections nor flags.
//! What a format cannot show ends the command with code 4, as etcdctl does. Formats: `simple`, `fields`, `json`,
//! `protobuf`, `table`; `rows` lays out what `simple` and `table` share.

mod fields;
mod json;
mod protobuf;
mod rows;
mod simple;
mod table;

#[cfg(test)]
mod printers_test;

use std::io::Write;

use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::*;

use crate::exit::{BAD_FEATURE, Exit, Outcome};
use crate::go::duration::GoDuration;

/// One endpoint's answer to a health check.
pub struct EndpointHealth {
    pub endpoint: String,
    /// `None` if it could not even be asked.
    pub took: Option<GoDuration>,
    /// Why it is not healthy.
    pub error: Option<String>,
}

pub struct EndpointStatus {
    pub endpoint: String,
    pub response: StatusResponse,
}

pub struct EndpointHash {
    pub endpoint: String,
    pub response: HashKvResponse,
}

/// How long a health check took, as a cell.
fn took(health: &EndpointHealth) -> String {
    health.took.map(|took| took.to_string()).unwrap_or_default()
}

type Out<'a> = &'a mut dyn Write;

pub trait Printer {
    /// As in `--write-out`.
    fn format(&self) -> &'static str;

    /// Leaves keys out of pairs; only one format can.
    fn print_values_only(&mut self) -> Outcome {
        Err(Exit::bad_args("print-value-only is only for `--write-out=simple`"))
    }

    fn unsupported(&self) -> Outcome {
        Err(Exit::new(BAD_FEATURE, format!("{} not supported as output format", self.format())))
    }

    fn get(&self, _: Out, _: &RangeResponse) -> Outcome {
        self.unsupported()
    }
    fn put(&self, _: Out, _: &PutResponse) -> Outcome {
        self.unsupported()
    }
    fn del(&self, _: Out, _: &DeleteRangeResponse) -> Outcome {
        self.unsupported()
    }
    fn txn(&self, _: Out, _: &TxnResponse) -> Outcome {
        self.unsupported()
    }
    /// One answer of a transaction, as if it had come alone.
    fn txn_part(&self, out: Out, part: &ResponseOp) -> Outcome {
        match &part.response {
            Some(Response::ResponseRange(range)) => self.get(out, range),
            Some(Response::ResponsePut(put)) => self.put(out, put),
            Some(Response::ResponseDeleteRange(delete)) => self.del(out, delete),
            Some(Response::ResponseTxn(txn)) => self.txn(out, txn),
            None => Ok(()),
        }
    }
    /// What stands for the answer where a watch failed without one has no header.
    fn watch(&self, _: Out, _: &WatchResponse) -> Outcome {
        self.unsupported()
    }
    fn lease_grant(&self, _: Out, _: &LeaseGrantResponse) -> Outcome {
        self.unsupported()
    }
    fn lease_revoke(&self, _: Out, _id: i64, _: &LeaseRevokeResponse) -> Outcome {
        self.unsupported()
    }
    fn lease_keep_alive(&self, _: Out, _: &LeaseKeepAliveResponse) -> Outcome {
        self.unsupported()
    }
    /// `keys`: whether the attached keys were asked for.
    fn lease_time_to_live(&self, _: Out, _: &LeaseTimeToLiveResponse, _keys: bool) -> Outcome {
        self.unsupported()
    }
    fn lease_list(&self, _: Out, _: &LeaseLeasesResponse) -> Outcome {
        self.unsupported()
    }
    fn member_list(&self, _: Out, _: &MemberListResponse) -> Outcome {
        self.unsupported()
    }
    /// The answer to a change that tells of it by a header alone; `line` says what was done.
    fn done(&self, _: Out, _line: &str, _: &Option<ResponseHeader>) -> Outcome {
        self.unsupported()
    }
    fn member_added(&self, _: Out, _: &MemberAddResponse) -> Outcome {
        self.unsupported()
    }
    /// The members after a change; `line` says what was done.
    fn members_changed(&self, _: Out, _line: &str, _: &MemberListResponse) -> Outcome {
        self.unsupported()
    }
    fn role(&self, _: Out, _name: &str, _: &AuthRoleGetResponse) -> Outcome {
        self.unsupported()
    }
    fn roles(&self, _: Out, _: &AuthRoleListResponse) -> Outcome {
        self.unsupported()
    }
    fn user(&self, _: Out, _name: &str, _: &AuthUserGetResponse) -> Outcome {
        self.unsupported()
    }
    fn users(&self, _: Out, _: &AuthUserListResponse) -> Outcome {
        self.unsupported()
    }
    fn auth_status(&self, _: Out, _: &AuthStatusResponse) -> Outcome {
        self.unsupported()
    }
    /// `step`: what was asked of the downgrade.
    fn downgrade(&self, _: Out, _step: &str, _: &DowngradeResponse) -> Outcome {
        self.unsupported()
    }
    /// Leadership went from member `_from` to member `_to`.
    fn move_leader(&self, _: Out, _from: u64, _to: u64, _: &MoveLeaderResponse) -> Outcome {
        self.unsupported()
    }
    fn alarms(&self, _: Out, _: &AlarmResponse) -> Outcome {
        self.unsupported()
    }
    fn endpoint_health(&self, _: Out, _: &[EndpointHealth]) -> Outcome {
        self.unsupported()
    }
    fn endpoint_status(&self, _: Out, _: &[EndpointStatus]) -> Outcome {
        self.unsupported()
    }
    fn endpoint_hashes(&self, _: Out, _: &[EndpointHash]) -> Outcome {
        self.unsupported()
    }
}

/// `hex` shows keys and values (`simple`) or member and cluster ids (`json`, `member list`) in hexadecimal.
pub fn by_name(format: &str, hex: bool) -> Option<Box<dyn Printer>> {
    Some(match format {
        "simple" => Box::new(simple::Simple { hex, values_only: false }),
        "fields" => Box::new(fields::Fields),
        "json" => Box::new(json::Json { hex }),
        "protobuf" => Box::new(protobuf::Protobuf),
        "table" => Box::new(table::Table),
        _ => return None,
    })
}

/// The name of an alarm; one this build does not know shows as its number.
pub fn alarm_name(alarm: i32) -> String {
    AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |known| known.as_str_name().into())
}

fn permission_name(permission: i32) -> String {
    use proto::authpb::permission::Type;
    Type::try_from(permission).map_or_else(|_| permission.to_string(), |known| known.as_str_name().into())
}

fn event_name(event: i32) -> String {
    use proto::mvccpb::event::EventType;
    EventType::try_from(event).map_or_else(|_| event.to_string(), |known| known.as_str_name().into())
}
