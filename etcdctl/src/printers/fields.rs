//! `"Name" : value` lines, strings quoted as Go does.

use std::io;

use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;

use super::{
    EndpointHash, EndpointHealth, EndpointStatus, Out, Printer, alarm_name, event_name, permission_name, took,
};
use crate::exit::Outcome;
use crate::go::quote::quote;

pub struct Fields;

fn field(out: Out, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "\"{name}\" : {value}")
}

fn text(out: Out, name: &str, value: &[u8]) -> io::Result<()> {
    field(out, name, quote(value))
}

/// Nothing when the answer has no header, as that of `alarm disarm` with nothing to disarm.
fn header(out: Out, header: &Option<ResponseHeader>) -> io::Result<()> {
    let Some(header) = header else { return Ok(()) };
    field(out, "ClusterID", header.cluster_id)?;
    field(out, "MemberID", header.member_id)?;
    field(out, "Revision", header.revision)?;
    field(out, "RaftTerm", header.raft_term)
}

fn pair(out: Out, prefix: &str, kv: &KeyValue) -> io::Result<()> {
    text(out, &format!("{prefix}Key"), &kv.key)?;
    field(out, &format!("{prefix}CreateRevision"), kv.create_revision)?;
    field(out, &format!("{prefix}ModRevision"), kv.mod_revision)?;
    field(out, &format!("{prefix}Version"), kv.version)?;
    text(out, &format!("{prefix}Value"), &kv.value)?;
    field(out, &format!("{prefix}Lease"), kv.lease)
}

impl Printer for Fields {
    fn format(&self) -> &'static str {
        "fields"
    }

    fn get(&self, out: Out, response: &RangeResponse) -> Outcome {
        header(out, &response.header)?;
        for kv in &response.kvs {
            pair(out, "", kv)?;
        }
        field(out, "More", response.more)?;
        Ok(field(out, "Count", response.count)?)
    }

    fn put(&self, out: Out, response: &PutResponse) -> Outcome {
        header(out, &response.header)?;
        if let Some(kv) = &response.prev_kv {
            pair(out, "Prev", kv)?;
        }
        Ok(())
    }

    fn del(&self, out: Out, response: &DeleteRangeResponse) -> Outcome {
        header(out, &response.header)?;
        field(out, "Deleted", response.deleted)?;
        for kv in &response.prev_kvs {
            pair(out, "Prev", kv)?;
        }
        Ok(())
    }

    fn txn(&self, out: Out, response: &TxnResponse) -> Outcome {
        header(out, &response.header)?;
        field(out, "Succeeded", response.succeeded)?;
        for op in &response.responses {
            self.txn_part(out, op)?;
        }
        Ok(())
    }

    fn watch(&self, out: Out, response: &WatchResponse) -> Outcome {
        header(out, &Some(response.header.unwrap_or_default()))?;
        for event in &response.events {
            field(out, "Type", event_name(event.r#type))?;
            if let Some(kv) = &event.prev_kv {
                pair(out, "Prev", kv)?;
            }
            if let Some(kv) = &event.kv {
                pair(out, "", kv)?;
            }
        }
        Ok(())
    }

    fn lease_grant(&self, out: Out, response: &LeaseGrantResponse) -> Outcome {
        header(out, &response.header)?;
        field(out, "ID", response.id)?;
        Ok(field(out, "TTL", response.ttl)?)
    }

    fn lease_revoke(&self, out: Out, _: i64, response: &LeaseRevokeResponse) -> Outcome {
        Ok(header(out, &response.header)?)
    }

    fn lease_keep_alive(&self, out: Out, response: &LeaseKeepAliveResponse) -> Outcome {
        header(out, &response.header)?;
        field(out, "ID", response.id)?;
        Ok(field(out, "TTL", response.ttl)?)
    }

    fn lease_time_to_live(&self, out: Out, response: &LeaseTimeToLiveResponse, _: bool) -> Outcome {
        header(out, &response.header)?;
        field(out, "ID", response.id)?;
        field(out, "TTL", response.ttl)?;
        field(out, "GrantedTTL", response.granted_ttl)?;
        for key in &response.keys {
            text(out, "Key", key)?;
        }
        Ok(())
    }

    fn lease_list(&self, out: Out, response: &LeaseLeasesResponse) -> Outcome {
        header(out, &response.header)?;
        for lease in &response.leases {
            field(out, "ID", lease.id)?;
        }
        Ok(())
    }

    fn member_list(&self, out: Out, response: &MemberListResponse) -> Outcome {
        header(out, &response.header)?;
        for member in &response.members {
            field(out, "ID", member.id)?;
            text(out, "Name", member.name.as_bytes())?;
            for url in &member.peer_ur_ls {
                text(out, "PeerURL", url.as_bytes())?;
            }
            for url in &member.client_ur_ls {
                text(out, "ClientURL", url.as_bytes())?;
            }
            field(out, "IsLearner", member.is_learner)?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn done(&self, out: Out, _: &str, response: &Option<ResponseHeader>) -> Outcome {
        Ok(header(out, response)?)
    }

    fn role(&self, out: Out, _: &str, response: &AuthRoleGetResponse) -> Outcome {
        header(out, &response.header)?;
        for permission in &response.perm {
            // Two spaces: etcdctl's own.
            writeln!(out, "\"PermType\" :  {}", permission_name(permission.perm_type))?;
            text(out, "Key", &permission.key)?;
            text(out, "RangeEnd", &permission.range_end)?;
        }
        Ok(())
    }

    fn roles(&self, out: Out, response: &AuthRoleListResponse) -> Outcome {
        header(out, &response.header)?;
        write!(out, "\"Roles\" :")?;
        for role in &response.roles {
            write!(out, " {}", quote(role.as_bytes()))?;
        }
        Ok(writeln!(out)?)
    }

    fn alarms(&self, out: Out, response: &AlarmResponse) -> Outcome {
        header(out, &response.header)?;
        for alarm in &response.alarms {
            field(out, "MemberID", alarm.member_id)?;
            field(out, "AlarmType", alarm_name(alarm.alarm))?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn endpoint_health(&self, out: Out, list: &[EndpointHealth]) -> Outcome {
        for health in list {
            text(out, "Endpoint", health.endpoint.as_bytes())?;
            field(out, "Health", health.error.is_none())?;
            field(out, "Took", took(health))?;
            field(out, "Error", health.error.as_deref().unwrap_or_default())?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn endpoint_status(&self, out: Out, list: &[EndpointStatus]) -> Outcome {
        for EndpointStatus { endpoint, response } in list {
            header(out, &response.header)?;
            text(out, "Version", response.version.as_bytes())?;
            field(out, "DBSize", response.db_size)?;
            field(out, "Leader", response.leader)?;
            field(out, "IsLearner", response.is_learner)?;
            field(out, "RaftIndex", response.raft_index)?;
            field(out, "RaftTerm", response.raft_term)?;
            field(out, "RaftAppliedIndex", response.raft_applied_index)?;
            field(out, "Errors", format_args!("[{}]", response.errors.join(" ")))?;
            text(out, "Endpoint", endpoint.as_bytes())?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn endpoint_hashes(&self, out: Out, list: &[EndpointHash]) -> Outcome {
        for EndpointHash { endpoint, response } in list {
            header(out, &response.header)?;
            text(out, "Endpoint", endpoint.as_bytes())?;
            field(out, "Hash", response.hash)?;
            writeln!(out)?;
        }
        Ok(())
    }
}
