//! What a compaction does to writers: the same puts before it and while it deletes the history of 300,000
//! revisions. The window of the compaction lasts until the server says that everything is deleted, and at least
//! as long as the quiet one, so that maxima are comparable.

use super::{Target, Width, fill, lists, plain, window};
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
    let load = plain::put(&clients, width);
    let quiet = window(&load, &target.probe, width).await?;
    let (_, revision) = lists::count(&mut clients[0].clone()).await?;
    let least = Instant::now() + width.window;
    let (measured, took) = load
        .window(&target.probe, async {
            let took = compact(&mut clients[0].clone(), revision).await;
            tokio::time::sleep_until(least.into()).await;
            took
        })
        .await?;
    load.stop().await?;
    let took = took.map_err(|e| format!("compaction: {e}"))?;
    let mut sample = Sample::of(&measured.check()?, &target.probe).map_err(|e| e.to_string())?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let quiet_gap = ms(quiet.longest_gap);
    sample.set(Figure::CompactionTime, took.as_secs_f64());
    sample.set(Figure::QuietP999, ms(quiet.latencies.percentile(99.9)));
    sample.set(Figure::QuietMax, ms(quiet.latencies.max()));
    sample.set(Figure::QuietGap, quiet_gap);
    let gap = sample.get(Figure::LongestGap).unwrap_or_default();
    sample.set(Figure::Stall, (gap - quiet_gap).max(0.0));
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
