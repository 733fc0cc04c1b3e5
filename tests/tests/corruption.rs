//! A member whose data differ from the others' is found: at its start, from time to time, and at compactions. In the
//! database of a stopped stock etcd a value is overwritten, and it comes back, or ours takes its data over.

use integration::binary::{self, Binary};
use integration::client::Client;
use integration::cluster::{Cluster, Member, START_LIMIT};
use integration::{bounded, eventually};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

const RIGHT: &[u8] = b"what was written to every member";
const WRONG: &[u8] = b"what one of the members has only";

/// Overwrites the value wherever the member's database has it; the member must be stopped.
fn tamper_with(member: &Member) {
    let path = member.data_dir.join("member/snap/db");
    let mut bytes = std::fs::read(&path).expect("read the database");
    let places: Vec<usize> = (0..bytes.len().saturating_sub(RIGHT.len()))
        .filter(|&at| bytes[at] == RIGHT[0] && bytes[at..].starts_with(RIGHT))
        .collect();
    assert!(!places.is_empty(), "the value is not in the database");
    for at in places {
        bytes[at..at + WRONG.len()].copy_from_slice(WRONG);
    }
    std::fs::write(&path, bytes).expect("write the database");
}

async fn alarms(client: &Client) -> Result<Vec<AlarmMember>, String> {
    let request = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
    let answer = client.maintenance.clone().alarm(request).await.map_err(|status| status.to_string())?;
    Ok(answer.into_inner().alarms)
}

async fn id_of(client: &Client) -> u64 {
    client.status().await.expect("status").header.expect("header").member_id
}

/// The first member leads, finds that the second has other data, and nobody writes any more.
async fn alarm_is_raised(cluster: &Cluster) {
    let client = cluster.client(0);
    let corrupt =
        AlarmMember { member_id: id_of(&cluster.client(1)).await, alarm: AlarmType::Corrupt as i32 };
    eventually("the alarm", START_LIMIT, || async {
        let raised = alarms(&client).await?;
        if raised == [corrupt] { Ok(()) } else { Err(format!("{raised:?}")) }
    })
    .await;
    let refused = client.put("key", "more").await.expect_err("the cluster is corrupt");
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");
}

async fn first_leads(cluster: &Cluster) {
    let first = id_of(&cluster.client(0)).await;
    eventually("the lead", START_LIMIT, || async {
        match cluster.leader().await {
            0 => Ok(()),
            leader => {
                let moved = cluster.client(leader).move_leader(first).await;
                Err(format!("{leader} leads; {moved:?}"))
            }
        }
    })
    .await;
}

/// Three members of ours, not started yet, that take over what stock ones left; the second has another value.
async fn taken_over(peer: &Binary, flag: &str) -> Cluster {
    let mut stock = Cluster::start(peer, 3).await;
    stock.client(0).put("key", RIGHT).await.expect("put");
    stock.assert_equal_hashes().await;
    for member in &mut stock.members {
        member.stop().await;
    }
    let mut ours = stock.continued_by(&binary::ours());
    tamper_with(&ours.members[1]);
    for member in &mut ours.members {
        member.args.extend([flag.to_owned(), "--compact-hash-check-time=1s".into()]);
    }
    ours
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_compared_from_time_to_time() {
    bounded(4 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster = Cluster::of(&[binary::ours(), peer, binary::ours()]).build();
        for ours in [0, 2] {
            cluster.members[ours].args.push("--corrupt-check-time=1s".into());
        }
        cluster.start_all().await;
        cluster.client(0).put("key", RIGHT).await.expect("put");
        cluster.assert_equal_hashes().await;
        cluster.members[1].stop().await;
        tamper_with(&cluster.members[1]);
        cluster.members[1].restart().await;
        assert_eq!(cluster.client(1).get("key").await.expect("get").expect("key").value, WRONG);
        first_leads(&cluster).await;
        alarm_is_raised(&cluster).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_compared_at_compactions() {
    bounded(6 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster = taken_over(&peer, "--feature-gates=CompactHashCheck=true").await;
        cluster.start_all().await;
        first_leads(&cluster).await;
        let client = cluster.client(0);
        let revision = client.put("another", "value").await.expect("put");
        client.compact(revision).await.expect("compaction");
        alarm_is_raised(&cluster).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_compares_itself_before_it_serves() {
    bounded(6 * START_LIMIT, async {
        let Some(peer) = binary::peer("3.5.") else { return };
        let mut cluster = taken_over(&peer, "--feature-gates=InitialCorruptCheck=true").await;
        for sound in [0, 2] {
            cluster.members[sound].spawn();
        }
        for sound in [0, 2] {
            cluster.members[sound].ready().await;
        }
        cluster.members[1].spawn();
        cluster.members[1].exited().await;
        let log = cluster.members[1].log_text();
        assert!(log.contains("found data inconsistency with peers"), "{log}");
        assert_eq!(cluster.client(2).get("key").await.expect("get").expect("key").value, RIGHT);
    })
    .await;
}
