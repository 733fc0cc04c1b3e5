//! `del`: removes one key or a range. As in etcd 3.6 and unlike 3.5, a range given by its end without `--range` is
//! removed after a warning and a pause in which to interrupt; not so in `txn`, whose lines nobody can take back.

use std::io::{self, Write};
use std::time::Duration;

use proto::etcdserverpb::DeleteRangeRequest;

use super::range_options::{Keys, refuse_both_ranges};
use crate::cli::flags::Word;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::exit::{Exit, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "del [options] <key> [range_end]",
    short: "Removes the specified key or range of keys [key, range_end)",
    flags: &[
        Flag::bool("prefix", "delete keys with matching prefix"),
        Flag::bool("prev-kv", "return deleted key-value pairs"),
        Flag::bool(
            "from-key",
            "delete keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::bool("range", "delete range of keys"),
    ],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

async fn run(mut invocation: Invocation) -> Outcome {
    let request = request(&invocation.args.words, &invocation.flags)?;
    let session = Session::new(&mut invocation.flags).await?;
    if let [key, range_end] = invocation.args.words.as_slice()
        && !invocation.flags.bool("range")
    {
        let (key, range_end) = (quote(key), quote(range_end));
        writeln!(
            io::stderr(),
            "Warning: Keys between {key} and {range_end} will be deleted. Please interrupt the command within next \
             2 seconds to cancel. You can provide `--range` flag to avoid the delay."
        )?;
        tokio::time::sleep(SECOND_THOUGHTS).await;
    }
    let response = session.client.delete_range(request).await.map_err(Exit::failed)?;
    session.printer.del(&mut io::stdout().lock(), &response)
}

/// The request these arguments and flags describe.
pub fn request(args: &[Word], flags: &Flags) -> Result<DeleteRangeRequest, Exit> {
    if args.is_empty() || args.len() > 2 {
        let message = "del command needs one argument as key and an optional argument as range_end";
        return Err(Exit::bad_args(message));
    }
    refuse_both_ranges(flags)?;
    let keys = Keys::new(args, flags)?;
    Ok(DeleteRangeRequest { key: keys.key, range_end: keys.range_end, prev_kv: flags.bool("prev-kv") })
}
