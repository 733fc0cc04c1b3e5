//! What a compaction does to writers: the same puts before it and while it deletes the history of 300,000
//! revisions, until the server says that everything is deleted.

use super::{Target, Width, disturbance, fill, lists, plain};
use crate::client::{CallError, Client, Method};
use crate::figure::{Figure, Sample};
use proto::etcdserverpb::{CompactionRequest, CompactionResponse};
use std::time::{Duration, Instant};

/// Each key is written this often: all but its last revision go away.
const REVISIONS_PER_KEY: u64 = 30;
const COMPACTION_LIMIT: Duration = Duration::from_secs(120);

pub async fn puts_during(target: &Target, width: &Width, revisions: u64) -> Result<Sample, String> {
    let clients = target.connect(width.connections()).await?;
    for _ in 0..REVISIONS_PER_KEY {
        fill::in_txns(&clients, revisions / REVISIONS_PER_KEY).await?;
    }
    let (mut sample, took) = disturbance(plain::put(&clients, width), target, width, async {
        let mut client = clients[0].clone();
        let (_, revision) = lists::count(&mut client).await?;
        compact(&mut client, revision).await.map_err(|e| format!("compaction: {e}"))
    })
    .await?;
    sample.set(Figure::CompactionTime, took.as_secs_f64());
    Ok(sample)
}

async fn compact(client: &mut Client, revision: i64) -> Result<Duration, CallError> {
    let began = Instant::now();
    let request = CompactionRequest { revision, physical: true };
    let call = client.call_decoded::<CompactionResponse>(Method::Compact, &request);
    match tokio::time::timeout(COMPACTION_LIMIT, call).await {
        Ok(answer) => answer.map(|_| began.elapsed()),
        Err(_) => Err(CallError::Unexpected(format!("no answer within {COMPACTION_LIMIT:?}"))),
    }
}
