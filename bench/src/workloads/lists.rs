//! Ranges over many keys: all of them at once, and page by page as kube-apiserver lists, with `limit` 500 over
//! the whole prefix, continuing behind the last key at the first page's revision.
//! Answers are checked in full once, before the window; inside it only their size is.

use super::{Width, fill};
use crate::client::{CallError, Client, Method};
use crate::keys::{self, Random};
use crate::load::{Load, Step};
use crate::wire;
use bytes::Bytes;
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use std::rc::Rc;

const RANGE_KEYS: u64 = 10_000;
const PAGE_KEYS: usize = 500;

pub fn page_request(start: Bytes, revision: i64) -> Bytes {
    wire::frame(&page(start, revision))
}

fn page(start: Bytes, revision: i64) -> RangeRequest {
    RangeRequest {
        key: start,
        range_end: keys::prefix_end(),
        limit: PAGE_KEYS as i64,
        revision,
        ..Default::default()
    }
}

/// How many keys the prefix holds, and the revision that was read at.
pub async fn count(client: &mut Client) -> Result<(i64, i64), String> {
    let request = RangeRequest {
        key: keys::PREFIX.into(),
        range_end: keys::prefix_end(),
        count_only: true,
        ..Default::default()
    };
    let answer: RangeResponse =
        client.call_decoded(Method::Range, &request).await.map_err(|e| e.to_string())?;
    Ok((answer.count, answer.header.map_or(0, |header| header.revision)))
}

/// All of 10,000 keys; other keys with the prefix must not be there.
pub async fn range(clients: &[Client], width: &Width) -> Result<Load, String> {
    fill::in_txns(clients, RANGE_KEYS).await?;
    let request =
        RangeRequest { key: keys::PREFIX.into(), range_end: keys::prefix_end(), ..Default::default() };
    let expected = checked(&mut clients[0].clone(), &request, &keys::sorted(RANGE_KEYS)).await?;
    let frame = wire::frame(&request);
    Ok(Load::start(clients, width.in_flight, |_| {
        let frame = frame.clone();
        async move |client: &mut Client| read(client, frame.clone(), expected).await
    }))
}

/// The first page, again and again. The keys must have been filled.
pub async fn first_pages(clients: &[Client], width: &Width) -> Result<Load, String> {
    let pages = Pages::check(&mut clients[0].clone(), width.paged_keys).await?;
    let frame = page_request(keys::PREFIX.into(), 0);
    Ok(Load::start(clients, width.in_flight, |_| {
        let frame = frame.clone();
        async move |client: &mut Client| read(client, frame.clone(), pages.bytes).await
    }))
}

/// The pages behind the first, in random order: a walk would take a slow server through the front of the list
/// only, and later pages cost it less. The keys must have been filled.
pub async fn following_pages(clients: &[Client], width: &Width) -> Result<Load, String> {
    let pages = Pages::check(&mut clients[0].clone(), width.paged_keys).await?;
    let starts: Rc<[Bytes]> = pages.starts(width.paged_keys).into();
    Ok(Load::start(clients, width.in_flight, |number| {
        let starts = starts.clone();
        let mut random = Random::new(number as u64);
        async move |client: &mut Client| {
            let start = starts[random.below(starts.len() as u64) as usize].clone();
            let frame = page_request(start, pages.revision);
            read(client, frame, pages.bytes).await
        }
    }))
}

/// What is known of a paged list after looking at its first two pages.
#[derive(Clone, Copy)]
struct Pages {
    /// The least a page measures: headers differ by a few bytes between pages.
    bytes: usize,
    revision: i64,
}

impl Pages {
    async fn check(client: &mut Client, key_count: u64) -> Result<Self, String> {
        if key_count < 2 * PAGE_KEYS as u64 {
            return Err(format!("{key_count} keys have no following page of {PAGE_KEYS}"));
        }
        let (_, revision) = count(client).await?;
        let sorted = keys::sorted(key_count);
        checked(client, &page(keys::PREFIX.into(), 0), &sorted[..PAGE_KEYS]).await?;
        let second = page(keys::after(&sorted[PAGE_KEYS - 1]), revision);
        checked(client, &second, &sorted[PAGE_KEYS..2 * PAGE_KEYS]).await?;
        Ok(Self { bytes: PAGE_KEYS * (sorted[0].len() + keys::VALUE_BYTES), revision })
    }

    /// Where each full page behind the first begins.
    fn starts(&self, key_count: u64) -> Vec<Bytes> {
        let sorted = keys::sorted(key_count);
        let full = sorted.len() / PAGE_KEYS;
        (1..full).map(|page| keys::after(&sorted[page * PAGE_KEYS - 1])).collect()
    }
}

async fn read(client: &mut Client, frame: Bytes, expected: usize) -> Result<Step, CallError> {
    let bytes = client.call_discarding(Method::Range, frame).await?;
    if bytes < expected {
        return Err(CallError::Unexpected(format!("a list of {bytes} bytes, not {expected}")));
    }
    Ok(Step::Continue)
}

/// Reads once and compares key by key; the least size of every further answer.
async fn checked(client: &mut Client, request: &RangeRequest, expected: &[Bytes]) -> Result<usize, String> {
    let answer: RangeResponse =
        client.call_decoded(Method::Range, request).await.map_err(|e| e.to_string())?;
    if !answer.kvs.iter().map(|kv| &kv.key).eq(expected) {
        return Err(format!(
            "the list ({} keys) is not of the {} keys that were put; does the prefix hold others?",
            answer.kvs.len(),
            expected.len(),
        ));
    }
    Ok(expected.iter().map(|key| key.len() + keys::VALUE_BYTES).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_start_behind_every_five_hundredth_key_and_are_full() {
        let pages = Pages { bytes: 0, revision: 1 };
        let starts = pages.starts(2_600);
        let sorted = keys::sorted(2_600);
        assert_eq!(starts.len(), 4);
        for (index, start) in starts.iter().enumerate() {
            let behind = sorted.iter().filter(|key| *key >= start).count();
            assert_eq!(behind, 2_600 - (index + 1) * PAGE_KEYS);
        }
    }
}
