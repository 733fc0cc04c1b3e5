//! `make-mirror`: copies keys to another cluster, then every change, until something fails. The destination may put
//! them below another prefix. A revision is copied as one transaction if it is not too large for one.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::*;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::range_options::Keys;
use super::words::text;
use crate::cli::flags::Kind;
use crate::cli::globals::Session;
use crate::cli::security;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::client::watch::{Update, Watcher, cancellation};
use crate::client::{Client, Error, Options, tls};
use crate::exit::{BAD_CONNECTION, Exit, Outcome};

pub static COMMAND: Command = Command {
    usage: "make-mirror [options] <destination>",
    short: "Makes a mirror at the destination etcd cluster",
    flags: &FLAGS,
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

static FLAGS: [Flag; 11] = [
    Flag::text("prefix", "", "Key-value prefix to mirror"),
    Flag::text(
        "dest-prefix",
        "",
        "destination prefix to mirror a prefix to a different prefix in the destination cluster",
    ),
    Flag::bool("no-dest-prefix", "mirror key-values to the root of the destination cluster"),
    Flag::text(
        "dest-cert",
        "",
        "Identify secure client using this TLS certificate file for the destination cluster",
    ),
    Flag::text("dest-key", "", "Identify secure client using this TLS key file"),
    Flag::text("dest-cacert", "", "Verify certificates of TLS enabled secure servers using this CA bundle"),
    Flag {
        name: "dest-insecure-transport",
        short: None,
        kind: Kind::Bool,
        default: "true",
        usage: "Disable transport security for client connections",
    },
    Flag::text(
        "dest-user",
        "",
        "Destination username[:password] for authentication (prompt if password is not supplied)",
    ),
    Flag::text(
        "dest-password",
        "",
        "Destination password for authentication (if this option is used, --user option shouldn't include password)",
    ),
    Flag::int64("rev", "Specify the kv revision to start to mirror"),
    Flag::int64(
        "max-txn-ops",
        "Maximum number of operations permitted in a transaction during syncing updates",
    )
    .default("128"),
];

/// Keys of one answer of the first copy.
const BATCH_KEYS: i64 = 1000;
const REPORT_PAUSE: Duration = Duration::from_secs(30);

/// What goes where.
struct Plan {
    prefix: Vec<u8>,
    destination_prefix: Vec<u8>,
    /// The first revision to copy; below 1: all there is now, and what follows.
    first_revision: i64,
    max_txn_ops: usize,
}

async fn run(mut invocation: Invocation) -> Outcome {
    let [destination] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("make-mirror takes one destination argument"));
    };
    let destination = text(destination);
    let flags = &invocation.flags;
    let credentials = security::credentials(
        flags.text("dest-user"),
        flags.text("dest-password"),
        "Destination Password: ",
    )?;
    let settings = tls::Settings {
        ca_file: flags.text("dest-cacert").into(),
        cert_file: flags.text("dest-cert").into(),
        key_file: flags.text("dest-key").into(),
        required: !flags.bool("dest-insecure-transport"),
        skip_verify: false,
        server_name: String::new(),
    };
    let tls = settings.tls().map_err(Exit::bad_args)?;
    let source = Session::patient(&mut invocation.flags).await?;
    let options = Options { tls, credentials, ..source.options.clone() };
    let bad_connection = |error: Error| Exit::new(BAD_CONNECTION, error.to_string());
    let mirror = Client::new(&[destination], options).map_err(bad_connection)?;
    mirror.log_in().await.map_err(bad_connection)?;
    let plan = Plan::new(&invocation.flags)?;
    let total = Cell::new(0);
    let copying = plan.copy(Rc::new(source.client), &mirror, &total);
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                copied = copying => copied.map_err(Exit::failed),
                reported = report(&total) => reported,
            }
        })
        .await
}

/// Prints how many changes have been copied, now and then.
async fn report(total: &Cell<u64>) -> Outcome {
    loop {
        sleep(REPORT_PAUSE).await;
        writeln!(io::stdout(), "{}", total.get())?;
    }
}

impl Plan {
    fn new(flags: &Flags) -> Result<Self, Exit> {
        let (prefix, other) = (flags.text("prefix"), flags.text("dest-prefix"));
        let nothing_before = flags.bool("no-dest-prefix");
        if nothing_before && !other.is_empty() {
            let refusal = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
            return Err(Exit::bad_args(refusal));
        }
        let destination_prefix = match other {
            _ if nothing_before => "",
            "" => prefix,
            other => other,
        };
        Ok(Self {
            prefix: prefix.into(),
            destination_prefix: destination_prefix.into(),
            first_revision: flags.int64("rev"),
            max_txn_ops: usize::try_from(flags.int64("max-txn-ops")).unwrap_or(0).max(1),
        })
    }

    /// Returns when the source cannot be followed, or the destination not be written to.
    async fn copy(&self, source: Rc<Client>, mirror: &Client, total: &Cell<u64>) -> Result<(), Error> {
        let start_revision = match self.first_revision {
            first if first > 1 => first,
            _ => self.copy_all(&source, mirror, total).await? + 1,
        };
        let keys = Keys::with_prefix(&self.prefix);
        let (key, range_end) = (keys.key, keys.range_end);
        let request = WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let mut updates = Watcher::start(source).create(request).await;
        loop {
            let response = match updates.recv().await {
                Some(Update::Response(response)) => response,
                Some(Update::Failed(error)) => return Err(error),
                None => return Err(Error::closed()),
            };
            if response.canceled || response.compact_revision != 0 {
                return Err(cancellation(&response));
            }
            for batch in self.batches(response.events) {
                let count = batch.len() as u64;
                mirror.txn(TxnRequest { success: batch, ..Default::default() }).await?;
                total.set(total.get() + count);
            }
        }
    }

    /// Copies the keys of one revision, the present one, and returns it.
    async fn copy_all(&self, source: &Client, mirror: &Client, total: &Cell<u64>) -> Result<i64, Error> {
        let keys = Keys::with_prefix(&self.prefix);
        let (mut key, mut revision) = (keys.key, 0);
        loop {
            let range_end = keys.range_end.clone();
            let request = RangeRequest { key, range_end, limit: BATCH_KEYS, revision, ..Default::default() };
            let answer = source.range(request).await?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            let last = answer.kvs.last().map(|kv| kv.key.clone());
            for kv in answer.kvs {
                let key = self.renamed(&kv.key);
                mirror.put(PutRequest { key, value: kv.value, ..Default::default() }).await?;
                total.set(total.get() + 1);
            }
            match last {
                Some(last) if answer.more => key = [&last[..], b"\0"].concat().into(),
                _ => return Ok(revision),
            }
        }
    }

    /// A key as it is called at the destination.
    fn renamed(&self, key: &[u8]) -> Bytes {
        let rest = key.strip_prefix(self.prefix.as_slice()).unwrap_or(key);
        [self.destination_prefix.as_slice(), rest].concat().into()
    }

    /// Events as transactions: never two revisions in one, nor more operations than a transaction may have.
    fn batches(&self, events: Vec<Event>) -> Vec<Vec<RequestOp>> {
        let mut batches: Vec<Vec<RequestOp>> = Vec::new();
        let mut revision = 0;
        for event in events {
            let kv = event.kv.unwrap_or_default();
            let key = self.renamed(&kv.key);
            let request = if event.r#type == EventType::Delete as i32 {
                Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() })
            } else {
                Request::RequestPut(PutRequest { key, value: kv.value, ..Default::default() })
            };
            let op = RequestOp { request: Some(request) };
            match batches.last_mut() {
                Some(batch) if kv.mod_revision == revision && batch.len() < self.max_txn_ops => {
                    batch.push(op)
                }
                _ => batches.push(vec![op]),
            }
            revision = kv.mod_revision;
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::KeyValue;

    use super::*;
    use crate::cli::flags::Word;

    fn plan(line: &str) -> Result<Plan, Exit> {
        let words: Vec<Word> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let mut flags = Flags::new(&FLAGS, []);
        flags.parse(&words).unwrap();
        Plan::new(&flags)
    }

    #[test]
    fn keys_at_the_destination() {
        for (line, key) in [
            ("--prefix a/", "a/b"),
            ("--prefix a/ --dest-prefix c/", "c/b"),
            ("--prefix a/ --no-dest-prefix", "b"),
            ("--dest-prefix c/", "c/a/b"),
            ("", "a/b"),
        ] {
            assert_eq!(plan(line).unwrap().renamed(b"a/b"), key, "{line}");
        }
        assert!(plan("--dest-prefix c/ --no-dest-prefix").is_err());
    }

    #[test]
    fn revisions_are_not_mixed_and_not_too_large() {
        let event = |mod_revision: i64| {
            let kv = KeyValue { key: "k".into(), mod_revision, ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        };
        let events = [2, 3, 3, 3, 4].map(event).to_vec();
        let sizes = |line: &str| -> Vec<usize> {
            plan(line).unwrap().batches(events.clone()).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(""), [1, 3, 1]);
        assert_eq!(sizes("--max-txn-ops 2"), [1, 2, 1, 1]);
        assert_eq!(sizes("--max-txn-ops 0"), [1; 5]);
    }
}
