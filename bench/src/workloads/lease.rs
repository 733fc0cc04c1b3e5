//! Lease keepalives: each worker has a stream of its own and one keepalive in flight on it.

use super::Width;
use crate::client::{CallError, Client, Duplex, Method};
use crate::keys::Random;
use crate::load::{Load, Step};
use crate::wire;
use bytes::Bytes;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest};
use std::rc::Rc;

const LEASES: i64 = 1_000;
const TTL_SECONDS: i64 = 600;
/// `LeaseKeepAliveResponse.TTL`.
const TTL: u32 = 3;

pub async fn keepalive(clients: &[Client], width: &Width) -> Result<Load, String> {
    let mut client = clients[0].clone();
    let mut frames = Vec::with_capacity(LEASES as usize);
    for _ in 0..LEASES {
        let grant = LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 };
        let granted: LeaseGrantResponse =
            client.call_decoded(Method::LeaseGrant, &grant).await.map_err(|e| e.to_string())?;
        frames.push(wire::frame(&LeaseKeepAliveRequest { id: granted.id }));
    }
    let frames: Rc<[Bytes]> = frames.into();
    Ok(Load::start(clients, width.in_flight, |number| {
        let (frames, mut random) = (frames.clone(), Random::new(number as u64));
        let mut stream: Option<Duplex> = None;
        async move |client: &mut Client| {
            let open = match &mut stream {
                Some(open) => open,
                None => stream.insert(client.open(Method::LeaseKeepAlive).await?),
            };
            open.send(frames[random.below(LEASES as u64) as usize].clone())?;
            match open.receive().await? {
                Some(answer) if wire::varint_field(&answer, TTL) > 0 => Ok(Step::Continue),
                Some(_) => Err(CallError::Unexpected("a lease is gone".to_owned())),
                None => Err(CallError::Unexpected("the keepalive stream ended".to_owned())),
            }
        }
    }))
}
