//! The default format: lines for people and shell scripts.

use std::io::{self, Write};

use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;

use super::{EndpointHash, EndpointHealth, EndpointStatus, Out, Printer, alarm_name, event_name, rows, took};
use crate::exit::Outcome;
use crate::go::number::hex16;
use crate::range::{OPEN, prefix_end};

pub struct Simple {
    pub hex: bool,
    pub values_only: bool,
}

impl Simple {
    fn pair(&self, out: Out, kv: &KeyValue) -> io::Result<()> {
        if !self.values_only {
            self.line(out, &kv.key)?;
        }
        self.line(out, &kv.value)
    }

    fn line(&self, out: Out, bytes: &[u8]) -> io::Result<()> {
        if self.hex {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            return writeln!(out, "{escaped}");
        }
        out.write_all(bytes)?;
        out.write_all(b"\n")
    }

    fn pairs<'a>(&self, out: Out, kvs: impl IntoIterator<Item = &'a KeyValue>) -> Outcome {
        for kv in kvs {
            self.pair(out, kv)?;
        }
        Ok(())
    }
}

fn write_rows(out: Out, rows: Vec<rows::Row>) -> Outcome {
    for row in rows {
        writeln!(out, "{}", row.join(", "))?;
    }
    Ok(())
}

/// The line of one permission: a key, or a range, with the prefix that it amounts to. An open range has no bracket at
/// its end, in etcdctl too.
fn permitted(Permission { key, range_end, .. }: &Permission) -> Vec<u8> {
    let (key, end) = (&key[..], &range_end[..]);
    let mut line = match end {
        b"" => [b"\t", key].concat(),
        OPEN => [b"\t[", key, b", <open ended>"].concat(),
        end => [b"\t[", key, b", ", end, b")"].concat(),
    };
    if prefix_end(key) == end {
        line.extend([b" (prefix ", key, b")"].concat());
    }
    line.push(b'\n');
    line
}

impl Printer for Simple {
    fn format(&self) -> &'static str {
        "simple"
    }

    fn print_values_only(&mut self) -> Outcome {
        self.values_only = true;
        Ok(())
    }

    fn get(&self, out: Out, response: &RangeResponse) -> Outcome {
        self.pairs(out, &response.kvs)
    }

    fn put(&self, out: Out, response: &PutResponse) -> Outcome {
        writeln!(out, "OK")?;
        self.pairs(out, &response.prev_kv)
    }

    fn del(&self, out: Out, response: &DeleteRangeResponse) -> Outcome {
        writeln!(out, "{}", response.deleted)?;
        self.pairs(out, &response.prev_kvs)
    }

    fn txn(&self, out: Out, response: &TxnResponse) -> Outcome {
        writeln!(out, "{}", if response.succeeded { "SUCCESS" } else { "FAILURE" })?;
        for op in &response.responses {
            writeln!(out)?;
            self.txn_part(out, op)?;
        }
        Ok(())
    }

    fn watch(&self, out: Out, response: &WatchResponse) -> Outcome {
        for event in &response.events {
            writeln!(out, "{}", event_name(event.r#type))?;
            self.pairs(out, event.prev_kv.iter().chain(&event.kv))?;
        }
        Ok(())
    }

    fn lease_grant(&self, out: Out, response: &LeaseGrantResponse) -> Outcome {
        Ok(writeln!(out, "lease {} granted with TTL({}s)", hex16(response.id), response.ttl)?)
    }

    fn lease_revoke(&self, out: Out, id: i64, _: &LeaseRevokeResponse) -> Outcome {
        Ok(writeln!(out, "lease {} revoked", hex16(id))?)
    }

    fn lease_keep_alive(&self, out: Out, response: &LeaseKeepAliveResponse) -> Outcome {
        Ok(writeln!(out, "lease {} keepalived with TTL({})", hex16(response.id), response.ttl)?)
    }

    fn lease_time_to_live(&self, out: Out, response: &LeaseTimeToLiveResponse, keys: bool) -> Outcome {
        let id = hex16(response.id);
        if response.granted_ttl == 0 && response.ttl == -1 {
            return Ok(writeln!(out, "lease {id} already expired")?);
        }
        write!(out, "lease {id} granted with TTL({}s), remaining({}s)", response.granted_ttl, response.ttl)?;
        if keys {
            out.write_all(b", attached keys([")?;
            out.write_all(&response.keys.join(&b' '))?;
            out.write_all(b"])")?;
        }
        Ok(writeln!(out)?)
    }

    fn lease_list(&self, out: Out, response: &LeaseLeasesResponse) -> Outcome {
        writeln!(out, "found {} leases", response.leases.len())?;
        for lease in &response.leases {
            writeln!(out, "{}", hex16(lease.id))?;
        }
        Ok(())
    }

    fn member_list(&self, out: Out, response: &MemberListResponse) -> Outcome {
        write_rows(out, rows::members(response))
    }

    fn done(&self, out: Out, line: &str, _: &Option<ResponseHeader>) -> Outcome {
        Ok(writeln!(out, "{line}")?)
    }

    fn member_added(&self, out: Out, response: &MemberAddResponse) -> Outcome {
        let member = response.member.as_ref().map_or(0, |member| member.id);
        let cluster = response.header.as_ref().map_or(0, |header| header.cluster_id);
        Ok(writeln!(out, "Member {member:16x} added to cluster {cluster:16x}")?)
    }

    fn members_changed(&self, out: Out, line: &str, _: &MemberListResponse) -> Outcome {
        Ok(writeln!(out, "{line}")?)
    }

    fn role(&self, out: Out, name: &str, response: &AuthRoleGetResponse) -> Outcome {
        writeln!(out, "Role {name}")?;
        for (heading, only) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            writeln!(out, "{heading}")?;
            let wanted = [only as i32, Type::Readwrite as i32];
            for permission in response.perm.iter().filter(|one| wanted.contains(&one.perm_type)) {
                out.write_all(&permitted(permission))?;
            }
        }
        Ok(())
    }

    fn roles(&self, out: Out, response: &AuthRoleListResponse) -> Outcome {
        for role in &response.roles {
            writeln!(out, "{role}")?;
        }
        Ok(())
    }

    fn user(&self, out: Out, name: &str, response: &AuthUserGetResponse) -> Outcome {
        write!(out, "User: {name}\nRoles:")?;
        for role in &response.roles {
            write!(out, " {role}")?;
        }
        Ok(writeln!(out)?)
    }

    fn users(&self, out: Out, response: &AuthUserListResponse) -> Outcome {
        for user in &response.users {
            writeln!(out, "{user}")?;
        }
        Ok(())
    }

    fn auth_status(&self, out: Out, response: &AuthStatusResponse) -> Outcome {
        writeln!(out, "Authentication Status: {}", response.enabled)?;
        Ok(writeln!(out, "AuthRevision: {}", response.auth_revision)?)
    }

    fn downgrade(&self, out: Out, step: &str, response: &DowngradeResponse) -> Outcome {
        Ok(writeln!(out, "Downgrade {step} success, cluster version {}", response.version)?)
    }

    fn move_leader(&self, out: Out, from: u64, to: u64, _: &MoveLeaderResponse) -> Outcome {
        Ok(writeln!(out, "Leadership transferred from {from:x} to {to:x}")?)
    }

    fn alarms(&self, out: Out, response: &AlarmResponse) -> Outcome {
        for alarm in &response.alarms {
            if alarm.member_id != 0 {
                write!(out, "memberID:{} ", alarm.member_id)?;
            }
            if alarm.alarm != 0 {
                write!(out, "alarm:{} ", alarm_name(alarm.alarm))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// The unhealthy go to stderr.
    fn endpoint_health(&self, out: Out, list: &[EndpointHealth]) -> Outcome {
        for health in list {
            let (endpoint, took) = (&health.endpoint, took(health));
            match &health.error {
                None => {
                    writeln!(out, "{endpoint} is healthy: successfully committed proposal: took = {took}")?;
                }
                Some(error) => {
                    writeln!(io::stderr(), "{endpoint} is unhealthy: failed to commit proposal: {error}")?;
                }
            }
        }
        Ok(())
    }

    fn endpoint_status(&self, out: Out, list: &[EndpointStatus]) -> Outcome {
        write_rows(out, rows::status(list))
    }

    fn endpoint_hashes(&self, out: Out, list: &[EndpointHash]) -> Outcome {
        write_rows(out, rows::hashes(list))
    }
}
