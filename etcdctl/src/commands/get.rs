//! `get`: one key or a range, at the present or a past revision.

use std::io;

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::range_options::{Keys, refuse_both_ranges};
use crate::cli::flags::Word;
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::client::Error;
use crate::exit::{BAD_FEATURE, Exit, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "get [options] <key> [range_end]",
    short: "Gets the key or a range of keys",
    flags: &[
        Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)"),
        Flag::text("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
        Flag::text("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
        Flag::int64("limit", "Maximum number of results"),
        Flag::bool("prefix", "Get keys with matching prefix"),
        Flag::bool("from-key", "Get keys that are greater than or equal to the given key using byte compare"),
        Flag::int64("rev", "Specify the kv revision"),
        Flag::bool("keys-only", "Get only the keys"),
        Flag::bool("count-only", "Get only the count"),
        Flag::bool("print-value-only", "Only write values when using the \"simple\" output format"),
        Flag::int64("min-create-rev", "Minimum create revision"),
        Flag::int64("max-create-rev", "Maximum create revision"),
        Flag::int64("min-mod-rev", "Minimum modification revision"),
        Flag::int64("max-mod-rev", "Maximum modification revision"),
        Flag::bool("stream", "Get the range in parts over a stream (needs a server with RangeStream)"),
    ],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    let flags = &mut invocation.flags;
    let request = request(&invocation.args.words, flags)?;
    let mut session = Session::new(flags).await?;
    let response = if flags.bool("stream") {
        collect(&session, request).await.map_err(Exit::failed)?
    } else {
        session.client.range(request).await.map_err(Exit::failed)?
    };
    if flags.bool("count-only") && session.printer.format() != "fields" {
        return Err(Exit::bad_args("--count-only is only for `--write-out=fields`"));
    }
    if flags.bool("print-value-only") {
        session.printer.print_values_only()?;
    }
    session.printer.get(&mut io::stdout().lock(), &response)
}

/// Puts the parts of a stream together: pairs follow one another, other fields are those of the part that has them.
async fn collect(session: &Session, request: RangeRequest) -> Result<RangeResponse, Error> {
    let mut parts = session.client.range_stream(request).await?;
    let mut whole = RangeResponse::default();
    while let Some(part) = parts.message().await? {
        let Some(part) = part.range_response else { continue };
        whole.header = part.header.or(whole.header);
        whole.kvs.extend(part.kvs);
        whole.more |= part.more;
        whole.count = whole.count.max(part.count);
    }
    Ok(whole)
}

/// The request these arguments and flags describe.
pub fn request(args: &[Word], flags: &Flags) -> Result<RangeRequest, Exit> {
    if args.is_empty() {
        let message = "get command needs one argument as key and an optional argument as range_end";
        return Err(Exit::bad_args(message));
    }
    refuse_both_ranges(flags)?;
    if flags.bool("keys-only") && flags.bool("count-only") {
        let message = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Exit::bad_args(message));
    }
    let serializable = is_serializable(flags)?;
    let keys = Keys::new(args, flags)?;
    let (order, target) = (sort_order(flags.text("order"))?, sort_target(flags.text("sort-by"))?);
    // A range comes in ascending order of keys by itself.
    let order = if target == SortTarget::Key && order == SortOrder::Ascend { SortOrder::None } else { order };
    Ok(RangeRequest {
        key: keys.key,
        range_end: keys.range_end,
        limit: flags.int64("limit"),
        revision: flags.int64("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        min_mod_revision: flags.int64("min-mod-rev"),
        max_mod_revision: flags.int64("max-mod-rev"),
        min_create_revision: flags.int64("min-create-rev"),
        max_create_revision: flags.int64("max-create-rev"),
    })
}

/// What `--consistency` asks for.
pub fn is_serializable(flags: &Flags) -> Result<bool, Exit> {
    match flags.text("consistency") {
        "s" => Ok(true),
        "l" => Ok(false),
        other => Err(Exit::new(BAD_FEATURE, format!("unknown consistency flag {}", quote(other.as_bytes())))),
    }
}

fn sort_order(text: &str) -> Result<SortOrder, Exit> {
    match text.to_uppercase().as_str() {
        "" => Ok(SortOrder::None),
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        _ => Err(Exit::new(BAD_FEATURE, format!("bad sort order {text}"))),
    }
}

fn sort_target(text: &str) -> Result<SortTarget, Exit> {
    match text.to_uppercase().as_str() {
        "" | "KEY" => Ok(SortTarget::Key),
        "CREATE" => Ok(SortTarget::Create),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Exit::new(BAD_FEATURE, format!("bad sort target {text}"))),
    }
}
