//! `endpoint`: asks each endpoint by itself, those given or those of all members.

use std::io::{self, Write};
use std::time::Instant;

use proto::etcdserverpb::{AlarmType, HashKvRequest, MemberListRequest, RangeRequest, StatusRequest};

use super::alarm;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::client::{Client, Options};
use crate::exit::{BAD_CONNECTION, ERROR, Exit, Outcome};
use crate::printers::{EndpointHash, EndpointHealth, EndpointStatus};

pub static COMMAND: Command = Command {
    usage: "endpoint <subcommand>",
    short: "Endpoint related commands",
    persistent: &[CLUSTER],
    children: &[&HASHKV, &HEALTH, &STATUS],
    ..Command::EMPTY
};

pub const CLUSTER: Flag = Flag::bool("cluster", "use all endpoints from the cluster member list");

static HASHKV: Command = Command {
    usage: "hashkv",
    short: "Prints the KV history hash for each endpoint in --endpoints",
    flags: &[Flag::int64("rev", "maximum revision to hash (default: all revisions)")],
    run: Some(|invocation| Box::pin(hashkv(invocation))),
    ..Command::EMPTY
};

static HEALTH: Command = Command {
    usage: "health",
    short: "Checks the healthiness of endpoints specified in `--endpoints` flag",
    run: Some(|invocation| Box::pin(health(invocation))),
    ..Command::EMPTY
};

static STATUS: Command = Command {
    usage: "status",
    short: "Prints out the status of endpoints specified in `--endpoints` flag",
    long: "When --write-out is set to simple, this command prints out comma-separated status lists for each endpoint.
The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft term, raft index, raft applied index, errors.",
    run: Some(|invocation| Box::pin(status(invocation))),
    ..Command::EMPTY
};

/// The endpoints to ask: those given, or with `--cluster` those the members name.
pub async fn endpoints(session: &Session, invocation: &Invocation) -> Result<Vec<String>, Exit> {
    if !invocation.flags.bool("cluster") {
        return Ok(session.endpoints.clone());
    }
    let client = |options| Client::new(&session.endpoints, options).map_err(Exit::failed);
    let request = MemberListRequest { linearizable: true };
    // Asked without a login first, which many servers allow, so that a wrong password shows at the endpoints.
    let anonymous = Options { credentials: None, ..session.options.clone() };
    let members = match client(anonymous)?.member_list(request).await {
        Err(error) if error.is("etcdserver: user name is empty") || error.is_permission_denied() => {
            client(session.options.clone())?.member_list(request).await
        }
        outcome => outcome,
    };
    let members = members.map_err(|error| {
        Exit::failed(format_args!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

async fn health(mut invocation: Invocation) -> Outcome {
    let session = Session::without_client(&mut invocation.flags)?;
    let endpoints = endpoints(&session, &invocation).await?;
    let mut list = Vec::new();
    let checks = tokio::task::LocalSet::new();
    let mut running = Vec::new();
    for endpoint in endpoints {
        let client = Client::new(std::slice::from_ref(&endpoint), session.options.clone());
        let client = client.map_err(|error| Exit::new(BAD_CONNECTION, error.to_string()))?;
        running.push(checks.spawn_local(check(endpoint, client)));
    }
    checks
        .run_until(async {
            for check in running {
                list.extend(check.await);
            }
        })
        .await;
    session.printer.endpoint_health(&mut io::stdout().lock(), &list)?;
    if list.iter().any(|health| health.error.is_some()) {
        return Err(Exit::failed("unhealthy cluster"));
    }
    Ok(())
}

/// A linearizable read takes a quorum; being refused for want of permission comes after it.
async fn check(endpoint: String, client: Client) -> EndpointHealth {
    if let Err(error) = client.log_in().await {
        return EndpointHealth { endpoint, took: None, error: Some(error.to_string()) };
    }
    let start = Instant::now();
    let read = client.range(RangeRequest { key: "health".into(), ..Default::default() }).await;
    let took = Some(start.elapsed().into());
    let error = match read {
        Err(error) if !error.is_permission_denied() => Some(error.to_string()),
        _ => active_alarms(&client).await,
    };
    EndpointHealth { endpoint, took, error }
}

async fn active_alarms(client: &Client) -> Option<String> {
    let Ok(response) = alarm::active(client).await else {
        return Some("Unable to fetch the alarm list".into());
    };
    let name = |alarm: i32| match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE ",
        Ok(AlarmType::Corrupt) => "CORRUPT ",
        _ => "UNKNOWN ",
    };
    let names: String = response.alarms.iter().map(|alarm| name(alarm.alarm)).collect();
    (!names.is_empty()).then(|| format!("Active Alarm(s): {names}"))
}

async fn status(mut invocation: Invocation) -> Outcome {
    let session = Session::new(&mut invocation.flags).await?;
    let mut list = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(&session, &invocation).await? {
        let client = session.client_of(std::slice::from_ref(&endpoint))?;
        match client.status(StatusRequest {}).await {
            Ok(response) => list.push(EndpointStatus { endpoint, response }),
            Err(error) => {
                failed = true;
                writeln!(io::stderr(), "Failed to get the status of endpoint {endpoint} ({error})")?;
            }
        }
    }
    session.printer.endpoint_status(&mut io::stdout().lock(), &list)?;
    if failed { Err(Exit::silent(ERROR)) } else { Ok(()) }
}

async fn hashkv(mut invocation: Invocation) -> Outcome {
    let session = Session::new(&mut invocation.flags).await?;
    let revision = invocation.flags.int64("rev");
    let mut list = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints(&session, &invocation).await? {
        let client = session.client_of(std::slice::from_ref(&endpoint))?;
        match client.hash_kv(HashKvRequest { revision }).await {
            Ok(response) => list.push(EndpointHash { endpoint, response }),
            Err(error) => {
                writeln!(io::stderr(), "Failed to get the hash of endpoint {endpoint} ({error})")?;
                last_error = Some(error);
            }
        }
    }
    session.printer.endpoint_hashes(&mut io::stdout().lock(), &list)?;
    last_error.map_or(Ok(()), |error| Err(Exit::failed(error)))
}
