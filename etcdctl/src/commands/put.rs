//! `put`: writes one key; the value comes from the command line or from standard input.

use std::io::{self, Read};

use proto::etcdserverpb::PutRequest;

use crate::cli::flags::Word;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::exit::{Exit, Outcome};
use crate::go::number::parse_int;

pub static COMMAND: Command = Command {
    usage: "put [options] <key> <value> (<value> can also be given from stdin)",
    short: "Puts the given key into the store",
    long: "Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.",
    flags: &[
        Flag::text("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
        Flag::bool("prev-kv", "return the previous key-value pair before modification"),
        Flag::bool("ignore-value", "updates the key using its current value"),
        Flag::bool("ignore-lease", "updates the key using its current lease"),
    ],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    let request = request(&invocation.args.words, &invocation.flags, &mut io::stdin())?;
    let session = Session::new(&mut invocation.flags).await?;
    let response = session.client.put(request).await.map_err(Exit::failed)?;
    session.printer.put(&mut io::stdout().lock(), &response)
}

/// The request these arguments and flags describe; a missing value is read from `input`, and must not be empty.
pub fn request(args: &[Word], flags: &Flags, input: &mut impl Read) -> Result<PutRequest, Exit> {
    let too_few = || Exit::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let key = args.first().ok_or_else(too_few)?;
    let ignore_value = flags.bool("ignore-value");
    if ignore_value && args.len() > 1 {
        return Err(Exit::bad_args("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match args.get(1) {
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => {
            let mut value = Vec::new();
            input.read_to_end(&mut value).ok().filter(|&read| read > 0).ok_or_else(too_few)?;
            value
        }
    };
    let lease = parse_int(flags.text("lease"), 16)
        .map_err(|error| Exit::bad_args(format!("bad lease ID ({error}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: flags.bool("prev-kv"),
        ignore_value,
        ignore_lease: flags.bool("ignore-lease"),
    })
}
