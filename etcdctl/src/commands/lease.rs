//! `lease`: grants, inspects, renews and revokes leases. Ids are hexadecimal.

use std::io::{self, Write};
use std::time::Duration;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use tokio::time::{Instant, sleep};

use crate::cli::flags::Word;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::client::{Client, Error};
use crate::exit::{BAD_CONNECTION, Exit, Outcome};
use crate::go::number::{hex16, parse_int};

pub static COMMAND: Command = Command {
    usage: "lease <subcommand>",
    short: "Lease related commands",
    children: &[&GRANT, &KEEP_ALIVE, &LIST, &REVOKE, &TIME_TO_LIVE],
    ..Command::EMPTY
};

static GRANT: Command = Command {
    usage: "grant <ttl>",
    short: "Creates leases",
    run: Some(|invocation| Box::pin(grant(invocation))),
    ..Command::EMPTY
};

static KEEP_ALIVE: Command = Command {
    usage: "keep-alive [options] <leaseID>",
    short: "Keeps leases alive (renew)",
    flags: &[Flag::bool(
        "once",
        "Resets the keep-alive time to its original value and cobrautl.Exits immediately",
    )],
    run: Some(|invocation| Box::pin(keep_alive(invocation))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    usage: "list",
    short: "List all active leases",
    run: Some(|invocation| Box::pin(list(invocation))),
    ..Command::EMPTY
};

static REVOKE: Command = Command {
    usage: "revoke <leaseID>",
    short: "Revokes leases",
    run: Some(|invocation| Box::pin(revoke(invocation))),
    ..Command::EMPTY
};

static TIME_TO_LIVE: Command = Command {
    usage: "timetolive <leaseID> [options]",
    short: "Get lease information",
    flags: &[Flag::bool("keys", "Get keys attached to this lease")],
    run: Some(|invocation| Box::pin(time_to_live(invocation))),
    ..Command::EMPTY
};

fn one_id(args: &[Word], otherwise: &str) -> Result<i64, Exit> {
    let [id] = args else { return Err(Exit::bad_args(otherwise)) };
    parse_int(&String::from_utf8_lossy(id), 16)
        .map_err(|error| Exit::bad_args(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}

fn bad_connection(error: Error) -> Exit {
    Exit::new(BAD_CONNECTION, error.to_string())
}

async fn grant(mut invocation: Invocation) -> Outcome {
    let [ttl] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("lease grant command needs TTL argument"));
    };
    let ttl = parse_int(&String::from_utf8_lossy(ttl), 10)
        .map_err(|error| Exit::bad_args(format!("bad TTL ({error})")))?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let response = response.map_err(|error| Exit::failed(format_args!("failed to grant lease ({error})")))?;
    session.printer.lease_grant(&mut io::stdout().lock(), &response)
}

async fn revoke(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation.args.words, "lease revoke command needs 1 argument")?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.lease_revoke(LeaseRevokeRequest { id }).await;
    let response =
        response.map_err(|error| Exit::failed(format_args!("failed to revoke lease ({error})")))?;
    session.printer.lease_revoke(&mut io::stdout().lock(), id, &response)
}

async fn time_to_live(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation.args.words, "lease timetolive command needs lease ID as argument")?;
    let session = Session::new(&mut invocation.flags).await?;
    let keys = invocation.flags.bool("keys");
    let request = LeaseTimeToLiveRequest { id, keys };
    let response = session.client.lease_time_to_live(request).await.map_err(bad_connection)?;
    session.printer.lease_time_to_live(&mut io::stdout().lock(), &response, keys)
}

async fn list(mut invocation: Invocation) -> Outcome {
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.lease_leases(LeaseLeasesRequest {}).await.map_err(bad_connection)?;
    session.printer.lease_list(&mut io::stdout().lock(), &response)
}

async fn keep_alive(mut invocation: Invocation) -> Outcome {
    let id = one_id(&invocation.args.words, "lease keep-alive command needs lease ID as argument")?;
    let session = Session::new(&mut invocation.flags).await?;
    if invocation.flags.bool("once") {
        let response = session.client.keep_alive_once(id).await.map_err(bad_connection)?;
        if response.ttl <= 0 {
            return Err(Exit::new(BAD_CONNECTION, "etcdserver: requested lease not found"));
        }
        return session.printer.lease_keep_alive(&mut io::stdout().lock(), &response);
    }
    let mut renewals = Renewals::new(&session.client, id);
    while let Some(response) = renewals.next().await {
        session.printer.lease_keep_alive(&mut io::stdout().lock(), &response)?;
    }
    if session.printer.format() == "simple" {
        writeln!(io::stdout(), "lease {} expired or revoked.", hex16(id))?;
    }
    Ok(())
}

/// Servers grant no more; a clock can be trusted to hold it.
const LONGEST_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Renews a lease at every third of its TTL until it is gone, or cannot be renewed before it runs out.
struct Renewals<'a> {
    client: &'a Client,
    id: i64,
    stream: Option<crate::client::KeepAlive>,
    next: Instant,
    /// When the lease runs out as far as is known; nothing is known before the first renewal.
    expires: Option<Instant>,
}

impl<'a> Renewals<'a> {
    const RETRY_PAUSE: Duration = Duration::from_millis(500);

    fn new(client: &'a Client, id: i64) -> Self {
        Self { client, id, stream: None, next: Instant::now(), expires: None }
    }

    async fn next(&mut self) -> Option<LeaseKeepAliveResponse> {
        loop {
            tokio::time::sleep_until(self.next).await;
            match self.expires {
                Some(expires) => match tokio::time::timeout_at(expires, self.renew()).await {
                    Ok(done) => {
                        if let Some(outcome) = done {
                            return outcome;
                        }
                    }
                    Err(_) => return None,
                },
                None => {
                    if let Some(outcome) = self.renew().await {
                        return outcome;
                    }
                }
            }
            sleep(Self::RETRY_PAUSE).await;
        }
    }

    /// `None` when it is worth another try, else the answer, or that there will be none.
    async fn renew(&mut self) -> Option<Option<LeaseKeepAliveResponse>> {
        let renewed = match &mut self.stream {
            Some(stream) => stream.renew().await,
            None => match self.client.keep_alive_stream(self.id).await {
                Ok(stream) => self.stream.insert(stream).renew().await,
                Err(error) => Err(error),
            },
        };
        match renewed {
            Ok(response) if response.ttl > 0 => {
                let ttl = Duration::from_secs(response.ttl.unsigned_abs()).min(LONGEST_TTL);
                let now = Instant::now();
                self.next = now + ttl / 3;
                self.expires = Some(now + ttl);
                Some(Some(response))
            }
            Ok(_) => Some(None),
            Err(error) => {
                self.stream = None;
                if error.is_passing() { None } else { Some(None) }
            }
        }
    }
}
