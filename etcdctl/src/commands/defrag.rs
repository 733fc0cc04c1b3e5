//! `defrag`: gives free pages of each endpoint's database back to its file system.

use std::io::{self, Write};

use proto::etcdserverpb::DefragmentRequest;

use super::endpoint;
use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::exit::{ERROR, Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "defrag",
    short: "Defragments the storage of the etcd members with given endpoints",
    persistent: &[endpoint::CLUSTER],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    let session = Session::new(&mut invocation.flags).await?;
    let mut failed = false;
    for endpoint in endpoint::endpoints(&session, &invocation).await? {
        let client = session.client_of(std::slice::from_ref(&endpoint))?;
        match client.defragment(DefragmentRequest {}).await {
            Ok(_) => writeln!(io::stdout(), "Finished defragmenting etcd member[{endpoint}]")?,
            Err(error) => {
                failed = true;
                writeln!(io::stderr(), "Failed to defragment etcd member[{endpoint}] ({error})")?;
            }
        }
    }
    if failed { Err(Exit::silent(ERROR)) } else { Ok(()) }
}
