//! What an operator does while others write: snapshots, hashes, alarms, defragmentation, another leader.
//!
//! Nothing is compacted, so HashKV is a checksum of all that is in bucket `key`: each snapshot that arrives whole is
//! read and digested here, and must have the HashKV of its newest revision, whichever member is asked.

use std::time::Duration;

use bbolt::{Database, Value, digest};
use oracle::history::{
    Request, Revision,
    request::{Delete, End, Range, Span},
};
use prost::Message;
use proto::etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction};
use rand::Rng;
use tokio::time::timeout;

use crate::{
    rpc::{self, Failure},
    session::Session,
};

const KEYS: u64 = 30;
const WINDOW_BYTES: u32 = 1 << 20;
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);
const ASK_LIMIT: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(150);

pub async fn client(session: Session, number: u64) {
    match number {
        0 => save(session).await,
        1 => operate(session).await,
        _ => write_and_read(session).await,
    }
}

/// Saves snapshots of one member after the other, and compares them with what members say.
async fn save(mut session: Session) {
    let world = session.world.clone();
    while !session.is_over() {
        let at = session.random.random_range(0..world.cluster.servers.len());
        if let Ok(snapshot) = timeout(SNAPSHOT_LIMIT, receive(&session, at)).await
            && let Ok(snapshot) = snapshot
        {
            match look_at(&snapshot) {
                Ok((revision, hash)) => compare(&session, at, revision, hash).await,
                Err(what) => world.fail(format!("a snapshot of m{at} that ended well {what}")),
            }
        }
        world.rest(PAUSE).await;
    }
}

/// A snapshot, if its stream comes to a good end.
async fn receive(session: &Session, at: usize) -> Result<Vec<u8>, Failure> {
    let connection = session.world.cluster.servers[at].connect(WINDOW_BYTES).await?;
    let mut stream = connection.stream(rpc::SNAPSHOT).await?;
    stream.send_last(rpc::frame(&pb::SnapshotRequest {}));
    let mut snapshot = Vec::new();
    while let Some(message) = stream.next().await? {
        let piece = pb::SnapshotResponse::decode(message).map_err(|_| Failure::Lost)?;
        snapshot.extend_from_slice(&piece.blob);
    }
    Ok(snapshot)
}

/// The newest revision in a snapshot, and the HashKV that it must have; or what is wrong with it.
fn look_at(snapshot: &[u8]) -> Result<(Revision, u32), String> {
    match digest::sha256_tail(&snapshot) {
        Ok(Some(tail)) if digest::has_sha256(snapshot.len() as u64) && tail.stored == tail.computed => {}
        _ => return Err(format!("has no right digest at its end, of {} bytes", snapshot.len())),
    }
    let unreadable = |error| format!("cannot be read: {error}");
    let database = Database::new(snapshot).map_err(unreadable)?;
    let Some(bucket) = database.bucket(b"key").map_err(unreadable)? else {
        return Err("has no bucket `key`".to_owned());
    };
    let (mut newest, mut hash) = (1, crc32c::crc32c(b"key"));
    let mut cursor = database.cursor(&bucket).map_err(unreadable)?;
    while let Some(entry) = cursor.next_entry().map_err(unreadable)? {
        let (Some(main), Value::Bytes(value)) = (entry.key.first_chunk::<8>(), entry.value) else {
            return Err("has a strange entry in bucket `key`".to_owned());
        };
        newest = newest.max(i64::from_be_bytes(*main));
        hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, entry.key), value);
    }
    Ok((newest, hash))
}

/// Asks all members for their hash at a snapshot's revision.
async fn compare(session: &Session, from: usize, revision: Revision, hash: u32) {
    let world = &session.world;
    for (at, said) in world.hashes(revision).await {
        world.notes.borrow_mut().hashes_compared += 1;
        if said != hash {
            world.fail(format!(
                "HashKV of m{at} at revision {revision} is {said:#010x}, and a snapshot of m{from} has {hash:#010x}"
            ));
        }
    }
}

/// Asks members for what operators want of them; only answers that cannot be count as wrong.
async fn operate(mut session: Session) {
    let world = session.world.clone();
    while !session.is_over() {
        let at = session.random.random_range(0..world.cluster.servers.len());
        let choice = session.random.random_range(0..10);
        if let Ok(connection) = world.cluster.servers[at].connection().await {
            let lost = match choice {
                0..3 => {
                    let status = world.cluster.status(at).await;
                    if let Ok(status) = &status
                        && status.raft_applied_index > status.raft_index
                    {
                        world.fail(format!("m{at} has applied more than is committed: {status:?}"));
                    }
                    status.map(drop)
                }
                3..5 => alarms(&session, at, AlarmAction::Get).await,
                5 => alarms(&session, at, AlarmAction::Deactivate).await,
                6..8 => {
                    let request = pb::DefragmentRequest {};
                    connection.call(rpc::DEFRAGMENT, rpc::frame(&request), ASK_LIMIT).await.map(drop)
                }
                _ => {
                    let target_id = world.cluster.servers[at].id.get();
                    let leader = world.cluster.leader.get().unwrap_or(at);
                    match world.cluster.servers[leader].connection().await {
                        Ok(leader) => {
                            let request = pb::MoveLeaderRequest { target_id };
                            leader.call(rpc::MOVE_LEADER, rpc::frame(&request), ASK_LIMIT).await.map(drop)
                        }
                        Err(failure) => Err(failure),
                    }
                }
            };
            if let Err(Failure::Lost | Failure::NotSent) = lost {
                world.cluster.servers[at].distrust(&connection);
            }
        }
        world.rest(PAUSE / 3).await;
    }
}

/// Nobody raises the alarm of a corrupt member: there is none.
async fn alarms(session: &Session, at: usize, action: AlarmAction) -> Result<(), Failure> {
    let connection = session.world.cluster.servers[at].connection().await?;
    let request = pb::AlarmRequest { action: action as i32, member_id: 0, alarm: AlarmType::None as i32 };
    let answer: pb::AlarmResponse = connection.ask(rpc::ALARM, &request, ASK_LIMIT).await?;
    if answer.alarms.iter().any(|it| it.alarm == AlarmType::Corrupt as i32) {
        session.world.fail(format!("m{at} tells of a corrupt member: {:?}", answer.alarms));
    }
    Ok(())
}

async fn write_and_read(mut session: Session) {
    while !session.is_over() {
        let number = session.random.random_range(0..KEYS);
        let key = session.key(&format!("admin/{number:02}"));
        match session.random.random_range(0..10) {
            0..6 => {
                let put = session.put(key);
                session.ask(Request::Put(put)).await;
            }
            6 => {
                let world = session.world.clone();
                if let Ok(_permit) = world.anonymous.try_acquire() {
                    session.ask(Request::Delete(Delete { span: Span::key(key), prev_kv: false })).await;
                }
            }
            _ => {
                let range = Range { limit: 5, ..Range::newest(Span { start: key, end: End::Open }) };
                session.ask(Request::Range(range)).await;
            }
        }
        let pause = Duration::from_millis(session.random.random_range(0..10));
        session.world.rest(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with these entries in bucket `key`, and its digest behind it.
    fn snapshot(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = std::io::Cursor::new(Vec::new());
        let mut writer = bbolt::Writer::seeking(bbolt::PAGE_SIZE, &mut out).expect("a writer");
        writer.bucket(b"key").expect("a name");
        for (key, value) in entries {
            writer.entry(key, value).expect("in order");
        }
        writer.finish().expect("it is whole");
        let mut bytes = out.into_inner();
        let mut digester = digest::Sha256Writer::new(std::io::sink());
        std::io::Write::write_all(&mut digester, &bytes).expect("a sink takes all");
        bytes.extend_from_slice(&digester.finish().1);
        bytes
    }

    fn revision(main: i64) -> Vec<u8> {
        [&main.to_be_bytes()[..], b"_", &0_i64.to_be_bytes()].concat()
    }

    #[test]
    fn a_snapshot_is_digested_as_hash_kv_does() {
        let (first, second) = (revision(2), revision(7));
        let whole = snapshot(&[(&first, b"a"), (&second, b"b")]);
        let crc = [&b"key"[..], &first, b"a", &second, b"b"].concat();
        assert_eq!(look_at(&whole), Ok((7, crc32c::crc32c(&crc))));
        assert_ne!(look_at(&snapshot(&[(&first, b"a"), (&second, b"c")])), look_at(&whole));
    }

    #[test]
    fn a_snapshot_that_was_changed_or_cut_is_refused() {
        let whole = snapshot(&[(&revision(2), b"a")]);
        assert!(look_at(&whole[..whole.len() - 512]).is_err());
        assert!(look_at(&[]).is_err());
        for at in [0, 4096, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(look_at(&changed).is_err(), "byte {at}");
        }
    }
}
