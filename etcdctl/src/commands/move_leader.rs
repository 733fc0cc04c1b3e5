//! `move-leader`: hands leadership to another member. Only the leader can, so its endpoint must be among those given.

use std::io;

use proto::etcdserverpb::{MoveLeaderRequest, StatusRequest};

use crate::cli::globals::Session;
use crate::cli::{Command, Invocation};
use crate::exit::{Exit, Outcome};
use crate::go::number::parse_hex_id;

pub static COMMAND: Command = Command {
    usage: "move-leader <transferee-member-id>",
    short: "Transfers leadership to another etcd cluster member.",
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    let [target] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("move-leader command needs 1 argument"));
    };
    let target_id = parse_hex_id(&String::from_utf8_lossy(target)).map_err(Exit::bad_args)?;
    let session = Session::new(&mut invocation.flags).await?;
    for endpoint in &session.endpoints {
        let client = session.client_of(std::slice::from_ref(endpoint))?;
        let status = client.status(StatusRequest {}).await.map_err(Exit::failed)?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            let request = MoveLeaderRequest { target_id };
            let response = client.move_leader(request).await.map_err(Exit::failed)?;
            return session.printer.move_leader(
                &mut io::stdout().lock(),
                status.leader,
                target_id,
                &response,
            );
        }
    }
    Err(Exit::bad_args(format!("no leader endpoint given at [{}]", session.endpoints.join(" "))))
}
