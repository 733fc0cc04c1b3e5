//! The default format: lines for people and shell scripts.

use std::io::{self, Write};

use proto::etcdserverpb::*;
use proto::mvccpb::KeyValue;

use super::{EndpointHash, EndpointHealth, EndpointStatus, Out, Printer, alarm_name, event_name, rows};
use crate::exit::Outcome;
use crate::go::number::hex16;

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
        for EndpointHealth { endpoint, took, error } in list {
            match error {
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
